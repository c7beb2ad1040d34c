"""The training images as the detector of copies holds them, and the first look: a bank of coarse warps.

The bank is correlated with every training image in one matrix product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpipe.gates.features import blurred
from medpipe.gates.geometry import centred_within, grey, points, sampled, transformed, unit, within
from medpipe.gates.room import Room, parts
from medpipe.gates.votes import Patches
from medpipe.threads import threads

Stored = NDArray[np.unsignedinteger[Any]]
MAPPED = ("images", "coarse", "lengths", "patches")
"""What grows with the training images."""
COMPONENTS = 48
"""Directions kept of the coarse vectors: they only have to rank."""
BLOCK, RANKED = 1024, 128
"""Training images that are compared, and ranked, at once: ranking holds as many figures for each warp of each query."""
LEAST = 0.1
"""Least length of a coarse vector in what is shown: of less, where a part is all but flat, the directions that are kept say nothing."""
ZOOMS = (0.7, 0.78, 0.88, 1.12, 1.27, 1.42)
TURNS = (-8.0, 8.0)
"""Small turns in the plane, in degrees."""
FAR_TURNS = tuple(sign * angle for angle in (18.0, 27.0, 36.0, 45.0) for sign in (-1, 1))
MOVES = {2: (-0.2, -0.1, 0.0, 0.1, 0.2), 3: (-0.18, 0.0, 0.18)}
"""How far a warp moves along each axis, of half the side, by number of axes: a copy that lies 0.05 from a warp is still found among
slices of heads, one that lies 0.09 is often not."""
ZOOMED_MOVES = {2: (-0.15, 0.0, 0.15), 3: (0.0,)}
"""The same for a zoomed image."""
FAR_MOVES = (-0.42, -0.34, -0.26, 0.26, 0.34, 0.42)
"""Along one axis."""


@cache
def bank(dimensions: int, square: bool) -> tuple[Tensor, Tensor]:
    """Return the coarse warps as affine matrices (W, axes, axes + 1) and the mirroring of each (W, axes) in ±1.

    Mirrored along any axis of the plane, turned a little in the plane or zoomed, and moved by up to 10 % of the side; also turned
    further, with a quarter turn where images are `square`, or moved further along one axis.
    """
    moves, zoomed = (list(itertools.product(of[dimensions], repeat=dimensions)) for of in (MOVES, ZOOMED_MOVES))
    still = [(0.0,) * dimensions]
    along = [tuple(far * (axis == moved) for axis in range(dimensions)) for moved in range(dimensions) for far in FAR_MOVES]
    quarter = [90 + angle for angle in (0, *TURNS, *FAR_TURNS)] if square else []
    tried: list[tuple[float, float, list[tuple[float, ...]]]] = [
        (0, 1, moves + along),
        *((angle, 1, moves) for angle in TURNS),
        *((0, zoom, zoomed) for zoom in ZOOMS),
        *((angle, 1, still) for angle in (*FAR_TURNS, *quarter)),
    ]
    warps, mirrors = [], []
    for mirror in itertools.product((1.0, -1.0), repeat=2):
        for angle, zoom, places in tried:
            cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            matrix = zoom * torch.eye(dimensions, dimensions + 1)
            matrix[:2, :2] = zoom * torch.tensor([[cosine, -sine], [sine, cosine]])
            for place in places:
                matrix[:, -1] = torch.tensor(place)
                warps.append(matrix.clone())
                mirrors.append(torch.tensor([*mirror, *(1.0,) * (dimensions - 2)]))
    return torch.stack(warps), torch.stack(mirrors)


@dataclass(frozen=True)
class Gallery:
    """The training images as the detector holds them."""

    images: Tensor  # (G, 1, …), shrunk, in half precision
    coarse: Tensor  # (G, components), unit vectors in the basis
    basis: Tensor  # (P, components)
    places: Tensor  # (P, axes) of the coarse vectors
    shows: Tensor  # (M, P), 1 for the points that a query under a coarse warp shows
    shown_by: Tensor  # (W,) row of `shows` for each warp
    lengths: Tensor  # (G, M) of the coarse vectors in what is shown
    patches: Patches
    groups: Tensor  # (G,) patients, as numbers

    @classmethod
    def of(cls, images: Stored, groups: NDArray[np.int64] | None = None) -> Gallery:
        """Prepare the gallery of stored training images (G, C, …) in memory; images of one of the `groups` (G,) are of one patient."""
        return cls.made(images.__getitem__, np.arange(len(images)) if groups is None else groups, Room())

    @classmethod
    def made(cls, read: Callable[[slice], Stored], groups: NDArray[np.int64], room: Room) -> Gallery:
        """Prepare the gallery of the training images (G, C, …) that `read` gives in parts; what grows with them lies in `room`."""
        count = len(groups)
        with threads(1), torch.inference_mode():
            first = grey(read(slice(0, 1)))
            axes, shape = first.ndim - 2, first.shape[2:]
            images = room.made("images", (count, *first.shape[1:]), torch.half)
            for part in parts(count):
                images[part] = grey(read(part)).half()
            places = _places(axes)
            moments = sum(vectors.T @ vectors for _, vectors in _coarse(images, places))
            basis = torch.linalg.eigh(moments)[1][:, -COMPONENTS:]
            warps, mirrors = bank(axes, shape[-1] == shape[-2])
            shows, shown_by = torch.unique(within(transformed(warps, places) * mirrors[:, None], shape), dim=0, return_inverse=True)
            coarse = room.made("coarse", (count, basis.shape[1]), torch.float)
            lengths = room.made("lengths", (count, len(shows)), torch.float)
            for part, vectors in _coarse(images, places):
                coarse[part] = vectors @ basis
                shown = (centred_within(vectors, row.expand_as(vectors)).norm(dim=1) for row in shows)
                lengths[part] = torch.stack(list(shown), 1).clamp_min(LEAST)
            patches = Patches.of(images, room)
            return cls(images, coarse, basis, places, shows, shown_by, lengths, patches, torch.from_numpy(groups))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What does not lie in its Room."""
        held = {"basis": self.basis, "bases": self.patches.bases, "shows": self.shows, "shown_by": self.shown_by, "groups": self.groups}
        return {name: value.numpy() for name, value in held.items()} | {"shape": np.array(self.images.shape)}

    @classmethod
    def opened(cls, arrays: Mapping[str, NDArray[Any]], room: Room) -> Gallery:
        """Open the gallery whose `arrays` were kept and whose large tensors lie in `room`: they are mapped, not read."""
        kept = {name: torch.from_numpy(value) for name, value in arrays.items()}
        basis, shows, groups = kept["basis"], kept["shows"], kept["groups"]
        count, shape = len(groups), tuple(arrays["shape"].tolist())
        axes = len(shape) - 2
        images = room.opened("images", shape, torch.half)
        coarse = room.opened("coarse", (count, basis.shape[1]), torch.float)
        lengths = room.opened("lengths", (count, len(shows)), torch.float)
        patches = Patches.opened(kept["bases"], count, axes, room)
        return cls(images, coarse, basis, _places(axes), shows, kept["shown_by"], lengths, patches, groups)

    def shown(self, candidates: Tensor) -> Tensor:
        """Return training images (Z,) as they are compared: (Z, 1, …). What is made of them is made anew for each query, to save memory."""
        return self.images[candidates].float()


def _places(axes: int) -> Tensor:
    """Return the points (P, axes) at which coarse vectors are read."""
    return points(axes, 11 if axes == 2 else 6, 0.75)


def _coarse(images: Tensor, places: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield part after part of the coarse vectors of the images (G, 1, …)."""
    for part in parts(len(images)):
        small = images[part].float()
        yield part, unit(sampled(blurred(small, _coarse_blur(small)), places.expand(len(small), -1, -1))[:, 0])


def _coarse_blur(images: Tensor) -> float:
    return max(images.shape[2:]) / 20


def shortlist(gallery: Gallery, queries: Tensor, own: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each query the training images that look alike under some coarse warp: (N, K), with warps and mirrors.

    Those whose group is the query's own (N,) are passed over. What lies beyond the query's edge under a warp does not count.
    """
    warps, mirrors = bank(queries.ndim - 2, queries.shape[-1] == queries.shape[-2])
    places = transformed(warps, gallery.places) * mirrors[:, None]  # (W, P, axes)
    n, w, p = len(queries), len(warps), len(gallery.places)
    smooth = blurred(queries, _coarse_blur(queries))
    read = sampled(smooth, places.reshape(1, w * p, -1).expand(n, -1, -1)).reshape(n, w, p)
    vectors = unit(read, gallery.shows[gallery.shown_by].expand_as(read)).flatten(0, 1) @ gallery.basis
    best, index, which = torch.empty(n, 0), torch.empty(n, 0, dtype=torch.long), torch.empty(n, 0, dtype=torch.long)
    for start in range(0, len(gallery.coarse), RANKED):
        block, lengths = gallery.coarse[start : start + RANKED], gallery.lengths[start : start + RANKED].T[gallery.shown_by]
        likeness = (vectors @ block.T).reshape(n, w, -1)
        alike, warp = likeness.abs_().div_(lengths).max(1)  # a negative is as alike as its positive
        alike = alike.masked_fill(gallery.groups[start : start + RANKED] == own[:, None], -1.0)
        best, index = torch.cat([best, alike], 1), torch.cat([index, torch.arange(start, start + len(block)).expand(n, -1)], 1)
        best, keep = best.topk(min(count, best.shape[1]), dim=1)
        index, which = index.gather(1, keep), torch.cat([which, warp], 1).gather(1, keep)
    return index, warps[which], mirrors[which]
