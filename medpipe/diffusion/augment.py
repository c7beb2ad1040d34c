"""Augmentation that does not leak into samples: the network is told what was done to an image (Karras et al. 2022, appendix F.2).

An image is shifted, turned and scaled by one affine map, and the map's parameters join its conditions, 0 for an image that
was left as it is. Samples are asked for with 0, so that they look like untouched images. Nothing of it stays in a Cohort.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

SHIFT, TURN, SCALE = 0.1, 0.25, 0.15
"""Largest shift as a share of the side, largest turn in radians (14°), largest change of ln size."""


def width(share: float, dimensions: int) -> int:
    """Return the number of conditions that augmentation adds: a shift per axis, a turn in the plane of the last two, a size."""
    return dimensions + 2 if share > 0 else 0


def draw(images: int, share: float, dimensions: int, generator: torch.Generator) -> Tensor:
    """Draw parameters (N, P) in [-1, 1]; a row is 0 with probability 1 - `share`."""
    parameters = torch.rand(images, width(share, dimensions), generator=generator) * 2 - 1
    return parameters * (torch.rand(images, 1, generator=generator) < share)


def apply(images: Tensor, parameters: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """Shift, turn and scale images (N, C, …) as `parameters` (N, P) say; rows of 0 stay to the bit."""
    moved = parameters.abs().sum(1) > 0
    if not moved.any():
        return images
    some, wanted = images[moved], parameters[moved]
    dimensions = images.ndim - 2
    turn, size = wanted[:, -2] * TURN, torch.exp(wanted[:, -1] * SCALE)
    matrix = torch.zeros(len(some), dimensions, dimensions + 1)
    matrix[:, range(dimensions), range(dimensions)] = size[:, None]  # axes in the order x, y(, z)
    aspect = some.shape[-2] / some.shape[-1]  # the grid is 2 wide along every axis, however long
    matrix[:, 0, 0], matrix[:, 0, 1] = size * turn.cos(), -size * turn.sin() * aspect
    matrix[:, 1, 0], matrix[:, 1, 1] = size * turn.sin() / aspect, size * turn.cos()
    matrix[:, :, -1] = wanted[:, :-2] * 2 * SHIFT  # the grid is 2 wide
    grid = functional.affine_grid(matrix, list(some.shape), align_corners=False)
    out = images.clone()
    out[moved] = functional.grid_sample(some, grid, mode=mode, padding_mode="border", align_corners=False)
    return out


class Unaugmented(nn.Module):
    """A network of conditions (N, K + P) that takes (N, K) for an image that was left as it is."""

    def __init__(self, network: nn.Module, conditions: int) -> None:
        super().__init__()
        self.network, self.conditions = network, conditions

    def forward(self, x: Tensor, noise: Tensor, conditions: Tensor, *more: Any) -> Any:
        """Run the network, with parameters of 0 where none are given."""
        missing = self.conditions - conditions.shape[1]
        return self.network(x, noise, functional.pad(conditions, (0, missing)) if missing else conditions, *more)
