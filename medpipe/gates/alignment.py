"""How alike an image is to the most alike training image, after turning, mirroring, moving and stretching it onto it.

Two stages (facts behind the choice: docs/gates.md). A bank of coarse warps of the query is correlated with every
training image in one matrix product, which gives a shortlist; each of the shortlist is then registered onto the query by
Gauss-Newton steps on an affine warp (Evangelidis & Psarakis 2008, enhanced correlation), and their correlation counts.
The same code serves images and volumes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medpipe.gates.features import blurred, shrunk
from medpipe.images.transforms import to_model
from medpipe.threads import threads

SIDE = {2: 48, 3: 20}
"""Longest side, in pixels, at which copies are looked for, by number of axes."""
SHORTLIST = 12
COMPONENTS = 48
"""Directions kept of the coarse vectors: they only have to rank."""
STEPS = 6
"""Gauss-Newton steps of the registration at each of two blurs, the wide one first."""
NEIGHBOURS = 50
RULES = ("aligned_correlation", "aligned_ratio", "pixel_ratio")
"""Scores of an image, higher is more alike: correlation with the best aligned training image (as artanh), how much better
the best fits than the second best, and how much nearer it is than the 50 nearest are on average (both as -log ratios)."""
EPSILON = 1e-4


def grey(images: NDArray[np.unsignedinteger[Any]]) -> Tensor:
    """Bring stored images (N, C, …) to one channel of at most SIDE pixels, float32."""
    parts = [
        shrunk(torch.from_numpy(to_model(images[k : k + 256])).mean(1, keepdim=True), SIDE[images.ndim - 2])
        for k in range(0, len(images), 256)
    ]
    return torch.cat(parts)


def unit(vectors: Tensor) -> Tensor:
    """Take the mean off the last axis and scale it to length 1; a flat vector becomes zeros."""
    centred = vectors - vectors.mean(-1, keepdim=True)
    scaled: Tensor = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return scaled


def points(dimensions: int, count: int, reach: float) -> Tensor:
    """Return a regular grid of count^dimensions points within ±reach of the centre, (P, dimensions), axis x first."""
    line = torch.linspace(-reach, reach, count)
    return torch.stack(torch.meshgrid(*[line] * dimensions, indexing="ij")[::-1], -1).reshape(-1, dimensions)


def sampled(images: Tensor, places: Tensor) -> Tensor:
    """Read `images` (N, C, …) at `places` (N, P, axes) in [-1, 1], x first, linearly: (N, C, P)."""
    lead = (1,) * (images.ndim - 3)
    grid = places.reshape(len(places), *lead, -1, places.shape[-1])
    read: Tensor = functional.grid_sample(images, grid, padding_mode="border", align_corners=False).flatten(2)
    return read


def bank(dimensions: int) -> tuple[Tensor, Tensor]:
    """Return the coarse warps as affine matrices (W, axes, axes + 1) and the mirroring of each (W, axes) in ±1.

    Mirrored along any axis of the plane, turned by up to 10° in the plane, moved by up to 9 % of the side.
    """
    angles = (-10.0, -5.0, 0.0, 5.0, 10.0) if dimensions == 2 else (-8.0, 0.0, 8.0)
    moves = (-0.18, 0.0, 0.18)  # of half the side
    warps, mirrors = [], []
    for mirror in itertools.product((1.0, -1.0), repeat=2):
        for angle in angles:
            for move in itertools.product(moves, repeat=dimensions):
                matrix = torch.eye(dimensions, dimensions + 1)
                cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                matrix[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]])
                matrix[:, -1] = torch.tensor(move)
                warps.append(matrix)
                mirrors.append(torch.tensor([*mirror, *(1.0,) * (dimensions - 2)]))
    return torch.stack(warps), torch.stack(mirrors)


def transformed(warps: Tensor, places: Tensor) -> Tensor:
    """Apply affine matrices (W, axes, axes + 1) to points (P, axes): (W, P, axes)."""
    return places @ warps[..., :-1].mT + warps[..., None, :, -1]


@dataclass(frozen=True)
class Gallery:
    """The training images as the detector holds them."""

    images: Tensor  # (G, 1, …), shrunk
    smooth: tuple[Tensor, Tensor]  # (G, 1, …) each, blurred for registration
    coarse: Tensor  # (G, components), unit vectors in the basis
    basis: Tensor  # (P, components)
    places: Tensor  # (P, axes) of the coarse vectors

    @classmethod
    def of(cls, images: NDArray[np.unsignedinteger[Any]]) -> Gallery:
        """Prepare the gallery of stored training images (G, C, …)."""
        with threads(1), torch.inference_mode():
            small = grey(images)
            axes = small.ndim - 2
            places = points(axes, 11 if axes == 2 else 6, 0.75)
            vectors = unit(sampled(blurred(small, _coarse_blur(small)), places.expand(len(small), -1, -1))[:, 0])
            _, directions = torch.linalg.eigh(vectors.T @ vectors)
            basis = directions[:, -COMPONENTS:]
            return cls(small, _smooth(small), vectors @ basis, basis, places)


def _coarse_blur(images: Tensor) -> float:
    return max(images.shape[2:]) / 20


def _smooth(images: Tensor) -> tuple[Tensor, Tensor]:
    """Blur as registration needs it: wide, so that a step finds its way, then fine, so that details count."""
    side = max(images.shape[2:])
    return blurred(images, max(0.7, side / 25)), blurred(images, max(0.7, side / 45))


def scores(gallery: Gallery, images: NDArray[np.unsignedinteger[Any]], batch: int = 32) -> NDArray[np.float64]:
    """Score stored images (N, C, …) against the gallery: (N, 3) in the order of RULES. NaN where a score has no value."""
    with threads(1), torch.inference_mode():
        parts = [_scores(gallery, grey(images[start : start + batch])) for start in range(0, len(images), batch)]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty((0, len(RULES)))


def _scores(gallery: Gallery, queries: Tensor) -> NDArray[np.float32]:
    candidates, warps, mirrors = shortlist(gallery, queries)
    found = registered(gallery, queries, candidates, warps, mirrors)  # (N, K)
    best = found.topk(min(2, found.shape[1]), dim=1).values
    second = best[:, 1] if best.shape[1] == 2 else torch.zeros(len(best))
    correlation = torch.atanh(best[:, 0].clamp(-0.99999, 0.99999))
    ratio = -torch.log((1 - best[:, 0] + EPSILON) / (1 - second + EPSILON))
    flat, known = queries.flatten(1), gallery.images.flatten(1)
    square = (flat**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * flat @ known.T
    near = square.clamp_min(0).topk(min(NEIGHBOURS, len(known)), largest=False).values
    pixel = -0.5 * torch.log((near[:, 0] + EPSILON) / (near.mean(1) + EPSILON))
    return torch.stack([correlation, ratio, pixel], 1).numpy()


def shortlist(gallery: Gallery, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each query the training images that look alike under some coarse warp: (N, K), with warps and mirrors."""
    warps, mirrors = bank(queries.ndim - 2)
    places = transformed(warps, gallery.places) * mirrors[:, None]  # (W, P, axes)
    n, w, p = len(queries), len(warps), len(gallery.places)
    smooth = blurred(queries, _coarse_blur(queries))
    vectors = unit(sampled(smooth, places.reshape(1, w * p, -1).expand(n, -1, -1)).reshape(n * w, p)) @ gallery.basis
    k = min(SHORTLIST, len(gallery.coarse))
    best, index, which = torch.empty(n, 0), torch.empty(n, 0, dtype=torch.long), torch.empty(n, 0, dtype=torch.long)
    for start in range(0, len(gallery.coarse), 1024):
        block = gallery.coarse[start : start + 1024]
        alike, warp = (vectors @ block.T).abs().reshape(n, w, -1).max(1)  # a negative is as alike as its positive
        best, index = torch.cat([best, alike], 1), torch.cat([index, torch.arange(start, start + len(block)).expand(n, -1)], 1)
        best, keep = best.topk(min(k, best.shape[1]), dim=1)
        index, which = index.gather(1, keep), torch.cat([which, warp], 1).gather(1, keep)
    return index, warps[which], mirrors[which]


def registered(gallery: Gallery, queries: Tensor, candidates: Tensor, warps: Tensor, mirrors: Tensor) -> Tensor:
    """Register each query onto its candidates (N, K) by affine Gauss-Newton steps; return the best correlations (N, K).

    With t and v the unit vectors of the candidate and of the warped query, a step solves (GᵀG + λI) Δ = Gᵀ(t - v),
    G being the derivative of v by the warp, with its parts along 1 and along v taken out (v is normalised).
    """
    n, k, axes = *candidates.shape, queries.ndim - 2
    places = points(axes, 20 if axes == 2 else 11, 0.8)
    homogeneous = torch.cat([places, torch.ones(len(places), 1)], 1)  # (P, axes + 1)
    matrix, mirror = warps.reshape(n * k, axes, axes + 1).clone(), mirrors.reshape(n * k, 1, axes)
    best = torch.zeros(n * k)
    for level, (smooth, known) in enumerate(zip(_smooth(queries), gallery.smooth, strict=True)):
        slopes = [_slope(smooth, axis) for axis in range(queries.ndim - 1, 1, -1)]  # x first
        moving = torch.cat([smooth, *slopes], 1).repeat_interleave(k, 0)  # (N K, 1 + axes, …)
        target = unit(sampled(known[candidates.flatten()], places.expand(n * k, -1, -1))[:, 0])
        for step in range(STEPS + level):
            read = sampled(moving, transformed(matrix, places) * mirror)  # (N K, 1 + axes, P)
            centred = read[:, 0] - read[:, 0].mean(1, keepdim=True)
            length = centred.norm(dim=1, keepdim=True).clamp_min(1e-6)
            value = centred / length
            if level == 1:
                best = torch.maximum(best, explained(value, target))
            if step < STEPS:
                gradient = (read[:, 1:] * mirror.mT)[:, :, None, :] * homogeneous.T  # (N K, axes, axes + 1, P)
                towards = target * torch.where((value * target).sum(1, keepdim=True) < 0, -1.0, 1.0)
                matrix = matrix + _step(gradient.flatten(1, 2) / length[:, None], value, towards).reshape(matrix.shape)
    return best.reshape(n, k)


def explained(value: Tensor, target: Tensor) -> Tensor:
    """Multiple correlation of `target` with `value` and its square, both unit vectors (N, P): (N,).

    The square lets a regraded copy (gamma, contrast, even a negative) be the copy that it is.
    """
    square = unit(value**2)
    square = square - (square * value).sum(1, keepdim=True) * value
    square = square / square.norm(dim=1, keepdim=True).clamp_min(1e-4)
    return torch.hypot((value * target).sum(1), (square * target).sum(1)).clamp_max(1)


def _step(jacobian: Tensor, value: Tensor, target: Tensor) -> Tensor:
    """One damped Gauss-Newton step (N, parameters), from the derivative (N, parameters, P) of `value` (N, P)."""
    jacobian = jacobian - jacobian.mean(2, keepdim=True)
    jacobian = jacobian - (jacobian @ value[:, :, None]) * value[:, None]
    normal = jacobian @ jacobian.mT
    damping = 0.01 * normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-6
    change = torch.linalg.solve(normal + damping * torch.eye(normal.shape[1]), jacobian @ (target - value)[:, :, None])
    bounded: Tensor = change[:, :, 0].clamp(-0.1, 0.1)
    return bounded


def _slope(images: Tensor, axis: int) -> Tensor:
    """Central difference along `axis`, per unit of the [-1, 1] scale."""
    size = images.shape[axis]
    index = torch.arange(size)
    ahead, behind = images.index_select(axis, (index + 1).clamp_max(size - 1)), images.index_select(axis, (index - 1).clamp_min(0))
    return (ahead - behind) * (size / 4)
