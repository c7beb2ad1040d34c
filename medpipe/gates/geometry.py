"""Where images are read: regular points, affine warps and their sampling, for images and volumes alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medpipe.gates.features import shrunk
from medpipe.images.transforms import to_model

SIDE = {2: 48, 3: 20}
"""Longest side, in pixels, at which copies are looked for, by number of axes."""


def grey(images: NDArray[np.unsignedinteger[Any]]) -> Tensor:
    """Bring stored images (N, C, …) to one channel of at most SIDE pixels, float32."""
    parts = [
        shrunk(torch.from_numpy(to_model(images[k : k + 256])).mean(1, keepdim=True), SIDE[images.ndim - 2])
        for k in range(0, len(images), 256)
    ]
    return torch.cat(parts)


OVERLAP = 0.4
"""Where fewer of the points lie within the query, all count, with its edge repeated: little overlap fits by chance."""


def within(places: Tensor, shape: Sequence[int]) -> Tensor:
    """Say which places (Z, P, axes) lie between pixels of an image of `shape`: 1 or 0, (Z, P)."""
    reach = 1 - 1 / torch.tensor(tuple(shape)[::-1], dtype=places.dtype) + 1e-4
    inside = (places.abs() <= reach).all(2).to(places.dtype)
    return torch.where(inside.mean(1, keepdim=True) < OVERLAP, 1.0, inside)


def unit(vectors: Tensor, counts: Tensor | None = None) -> Tensor:
    """Take the mean off the last axis and scale it to length 1; a flat vector becomes zeros.

    With `counts` in 0 and 1, of the shape of `vectors`, what does not count becomes 0.
    """
    centred = vectors - vectors.mean(-1, keepdim=True) if counts is None else centred_within(vectors, counts)
    scaled: Tensor = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return scaled


def centred_within(vectors: Tensor, counts: Tensor) -> Tensor:
    """Take off the last axis the mean of what counts, and set the rest to 0."""
    mean = (vectors * counts).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True).clamp_min(1)
    return (vectors - mean) * counts


def points(dimensions: int, count: int, reach: float) -> Tensor:
    """Return a regular grid of count^dimensions points within ±reach of the centre, (P, dimensions), axis x first."""
    line = torch.linspace(-reach, reach, count)
    return torch.stack(torch.meshgrid(*[line] * dimensions, indexing="ij")[::-1], -1).reshape(-1, dimensions)


def pixels(shape: Sequence[int]) -> Tensor:
    """Return the centres (P, axes) of the pixels of an image of `shape`, x first."""
    lines = [(torch.arange(count) + 0.5) * 2 / count - 1 for count in shape]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], -1).reshape(-1, len(shape))


def sampled(images: Tensor, places: Tensor) -> Tensor:
    """Read `images` (N, C, …) at `places` (N, P, axes) in [-1, 1], x first, linearly: (N, C, P)."""
    lead = (1,) * (images.ndim - 3)
    grid = places.reshape(len(places), *lead, -1, places.shape[-1])
    read: Tensor = functional.grid_sample(images, grid, padding_mode="border", align_corners=False).flatten(2)
    return read


def transformed(warps: Tensor, places: Tensor) -> Tensor:
    """Apply affine matrices (W, axes, axes + 1) to points (P, axes) or (W, P, axes): (W, P, axes)."""
    return places @ warps[..., :-1].mT + warps[..., None, :, -1]


def slope(images: Tensor, axis: int) -> Tensor:
    """Central difference along `axis`, per unit of the [-1, 1] scale."""
    size = images.shape[axis]
    index = torch.arange(size)
    ahead, behind = images.index_select(axis, (index + 1).clamp_max(size - 1)), images.index_select(axis, (index - 1).clamp_min(0))
    return (ahead - behind) * (size / 4)


def with_slopes(images: Tensor) -> Tensor:
    """Append the derivatives of images (N, 1, …) by each axis, x first: (N, 1 + axes, …)."""
    return torch.cat([images, *(slope(images, axis) for axis in range(images.ndim - 1, 1, -1))], 1)
