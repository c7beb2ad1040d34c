"""The networks that a denoiser may be made of, by the recipe's name, and what each costs before it is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from medpipe.diffusion import conditioning
from medpipe.diffusion.maps import Maps
from medpipe.diffusion.network import LeanUNet
from medpipe.recipe import Recipe
from medpipe.settings import ModelSettings

BESIDE = 1.75
"""Peak memory of a step over what the network keeps for its gradient: 1.5 to 1.8 for the default network at 28² to 256², 32³ and 48³."""
COPIES = 4
"""The weights, their gradients and two moments; averages come to that."""


def network(settings: ModelSettings, channels: int, conditions: int, dimensions: int, maps: int = 0) -> nn.Module:
    """Return F of the recipe with fresh weights: an image of `channels` and further `maps` in, `channels` out.

    `conditions` is the width of the condition vector, `dimensions` 2 or 3.
    """
    match settings.network:
        case "lean_unet":
            return LeanUNet(settings, channels, conditions, dimensions, maps)
        case "monai_unet":
            from medpipe.diffusion.monai_unet import MonaiUNet  # MONAI takes seconds to import

            return MonaiUNet(settings, channels, conditions, dimensions, maps)
        case "transformer":
            from medpipe.diffusion.transformer import Transformer

            return Transformer(settings, channels, conditions, dimensions, maps)
        case _:
            assert_never(settings.network)


def parameters(module: nn.Module) -> int:
    """Count the weights."""
    return sum(weight.numel() for weight in module.parameters())


@dataclass(frozen=True)
class Cost:
    """What a network costs."""

    parameters: int
    flops: int
    """Floating-point operations of one evaluation of one image: two a multiplication with addition, products alone are counted."""

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.2f} million weights, {self.flops / 1e9:.3g} GFLOP an image and evaluation"


def planned(recipe: Recipe, facts: Mapping[str, Any]) -> Cost:
    """Return the cost of a recipe's network for a Dataset of these `facts` (shape, classes, covariates), before it is read.

    Masks are counted as if they had one label.
    """
    shape, width, maps = _inputs(recipe, facts)
    with torch.device("meta"):
        return cost(network(recipe.model, shape[0], width, len(shape) - 1, maps), shape, width, maps)


def step_memory(recipe: Recipe, facts: Mapping[str, Any]) -> int:
    """Estimate the bytes that a training step in fp32 takes at its peak, for the images that a process computes at once.

    What the network keeps of an image for its gradient is counted exactly, by shapes alone, and multiplied by what was measured beside it.
    """
    shape, width, maps = _inputs(recipe, facts)
    channels, *sides = shape
    processes = recipe.compute.processes * recipe.compute.nodes
    images = min(recipe.train.microbatch or recipe.train.batch, -(-recipe.train.batch // processes))
    with FakeTensorMode():
        module = network(recipe.model, channels, width, len(sides), maps)
        weights = {weight.untyped_storage() for weight in module.parameters()}
        kept: set[torch.UntypedStorage] = set()

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.add(tensor.untyped_storage())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(torch.empty(1, channels + maps, *sides), torch.empty(1), torch.empty(1, width))
    of_weights = 4 * parameters(module) * (COPIES + len(recipe.train.ema_widths))
    return round(images * BESIDE * sum(part.nbytes() for part in kept - weights)) + of_weights


def _inputs(recipe: Recipe, facts: Mapping[str, Any]) -> tuple[list[int], int, int]:
    """Return the shape of what the network is trained on, the width of the condition vector, and the channels of the maps."""
    model, shape = recipe.model, list(facts["shape"])
    if model.space == "latent":
        by = recipe.autoencoder.factor
        shape = [recipe.autoencoder.latent_channels, *(length // by for length in shape[1:])]
    width = conditioning.width(facts["classes"], facts["covariates"])
    return shape, width, Maps(tuple(model.maps), shape[0], labels=(1,)).channels


@torch.no_grad()
def cost(module: nn.Module, shape: Sequence[int], conditions: int, maps: int = 0) -> Cost:
    """Count the weights and operations of a network for images `shape` (C, …), by shapes alone: nothing is computed."""
    channels, *sides = shape
    there = copy.deepcopy(module).to("meta").eval()
    inputs = (torch.empty(size, device="meta") for size in ((1, channels + maps, *sides), (1,), (1, conditions)))
    with FlopCounterMode(display=False) as counter:
        there(*inputs)
    return Cost(parameters(module), counter.get_total_flops())
