"""Sizes of networks by name: what a name sets is capacity alone, never which images fit.

About 0.5, 2, 8 and 32 million weights in 2D from `tiny` to `large`, with 3D convolutions some 2.5 times as many. The U-Nets
have two resolutions at every size, so that they take the same images. `medpipe run --dry-run` says what a choice costs.
"""

from __future__ import annotations

from medpipe.settings import ModelSettings, Network

Layout = tuple[list[int], list[int]]
"""Channels and blocks at each resolution, finest first; of a transformer, its width and depth."""

NAMED: dict[Network, dict[str, Layout]] = {
    "lean_unet": {
        "tiny": ([32, 64], [2, 4]),
        "small": ([64, 128], [2, 4]),
        "medium": ([128, 256], [2, 4]),
        "large": ([256, 512], [2, 4]),
    },
    "monai_unet": {
        "tiny": ([32, 64], [1, 1]),
        "small": ([64, 128], [1, 1]),
        "medium": ([128, 256], [1, 1]),
        "large": ([256, 512], [1, 1]),
    },
    "transformer": {
        "tiny": ([96], [3]),
        "small": ([128], [6]),
        "medium": ([256], [7]),
        "large": ([384], [12]),
    },
}


def layout(model: ModelSettings) -> Layout:
    """Return the channels and blocks of the recipe's network: its own (`custom`), or those of its size's name."""
    return (model.channels, model.blocks) if model.size == "custom" else NAMED[model.network][model.size]


def side(model: ModelSettings) -> int:
    """Return the number of which the sides of the images have to be multiples: patch × halvings."""
    return model.patch << (len(layout(model)[0]) - 1)
