"""The builders of tiny Datasets and recipes, as fixtures."""

from builders_diffusion import dataset, recipe

__all__ = ["dataset", "recipe"]
