"""Lay a query onto candidates: first by an affine warp, then by a bent grid.

Gauss-Newton steps on the correlation (Evangelidis & Psarakis 2008, enhanced correlation), many pairs at once; the same
code serves images and volumes, and whole images and windows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medpipe.gates.features import blurred
from medpipe.gates.geometry import centred_within, points, sampled, transformed, unit, with_slopes, within

STEPS = 5
"""Steps of the affine warp at each of two blurs, the wide one first."""
BENDS = 4
"""Steps of the bent grid at each blur."""
KNOTS = {2: 5, 3: 4}
"""Knots of the bent grid along each axis."""
ROUGHNESS, SIZE = 0.02, 0.004
"""Cost of neighbouring knots that differ, and of their displacement, relative to the mean curvature of the fit."""


def smooth(images: Tensor) -> tuple[Tensor, Tensor]:
    """Blur as registration needs it: wide, so that a step finds its way, then fine, so that details count."""
    side = max(images.shape[2:])
    return blurred(images, max(0.7, side / 25)), blurred(images, max(0.7, side / 45))


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and a candidate, and where the query shows what the candidate shows."""

    query: Tensor  # (Z,) number of the query
    candidate: Tensor  # (Z,) number of the training image
    warp: Tensor  # (Z, axes, axes + 1)
    mirror: Tensor  # (Z, axes) in ±1
    knots: Tensor | None = None  # (Z, axes, knots) displacements

    @classmethod
    def straight(cls, candidates: Tensor, mirrors: Tensor) -> Pairs:
        """Pair each query with `candidates` (N, K) as they lie, but for the `mirrors` (N, K, axes): (N · K,)."""
        (n, k), axes = candidates.shape, mirrors.shape[-1]
        warp = torch.eye(axes, axes + 1).expand(n * k, -1, -1)
        return cls(torch.arange(n).repeat_interleave(k), candidates.flatten(), warp, mirrors.flatten(0, 1))

    def places(self, at: Tensor) -> Tensor:
        """Where the queries are read for points (P, axes), or (Z, P, axes), of the candidates: (Z, P, axes)."""
        moved = transformed(self.warp, at)
        if self.knots is not None:
            moved = moved + torch.einsum("pk,zak->zpa", hats(at, KNOTS[at.shape[-1]]), self.knots)
        return moved * self.mirror[:, None]

    def back(self, at: Tensor) -> Tensor:
        """Where the candidates are read for points (P, axes) of the queries, by the affine warps alone: (Z, P, axes)."""
        inverse, _ = torch.linalg.inv_ex(self.warp[..., :-1])
        moved = (at * self.mirror[:, None] - self.warp[..., None, :, -1]) @ inverse.mT
        known: Tensor = moved.nan_to_num(2.0, 2.0, -2.0)
        return known

    def beside(self, other: Pairs, n: int) -> Pairs:
        """Return for each of the `n` queries its affine pairs, then those of `other`."""
        return Pairs(*(joined(getattr(self, name), getattr(other, name), n) for name in ("query", "candidate", "warp", "mirror")))

    def chosen(self, rows: Tensor) -> Pairs:
        """Return the pairs `rows`."""
        knots = None if self.knots is None else self.knots[rows]
        return Pairs(self.query[rows], self.candidate[rows], self.warp[rows], self.mirror[rows], knots)


def joined(one: Tensor, other: Tensor, n: int) -> Tensor:
    """Put rows (n · K, …) of `n` queries and further ones (n · L, …) together, query by query: (n · (K + L), …)."""
    both = torch.cat([one.reshape(n, -1, *one.shape[1:]), other.reshape(n, -1, *other.shape[1:])], 1)
    return both.flatten(0, 1)


def window(axes: int) -> Tensor:
    """Return the points at which whole images are compared in registration."""
    return points(axes, 20 if axes == 2 else 11, 0.8)


def laid(pairs: Pairs, queries: Sequence[Tensor], known: Sequence[Tensor], local: Tensor, centre: Tensor | None = None) -> Pairs:
    """Improve the affine warps of `pairs`.

    `queries` (N, 1, …) and the candidates of the pairs, `known` (Z, 1, …), are blurred for each level; `local` (P, axes) are the points
    compared, about the `centre` (Z, axes) of each pair's window where there is one. With t and v the unit vectors of the candidate
    and of the warped query, a step solves (GᵀG + λI) Δ = Gᵀ(t - v), G being the derivative of v by the warp, with its parts along 1
    and along v taken out (v is normalised). Points that the query does not show do not count.
    """
    about = torch.zeros(len(pairs.query), local.shape[1]) if centre is None else centre
    places = local + about[:, None]
    homogeneous = torch.cat([local, torch.ones(len(local), 1)], 1)  # (P, axes + 1)
    for blurs, images in zip(queries, known, strict=True):
        moving = with_slopes(blurs)[pairs.query]
        target = sampled(images, places)[:, 0]
        for _ in range(STEPS):
            value, slopes, counts = _read(moving, pairs, places)
            jacobian = (slopes[:, :, None, :] * homogeneous.T).flatten(1, 2)  # (Z, axes · (axes + 1), P)
            change = _step(jacobian, value, unit(target, counts), counts, None, None).reshape(pairs.warp.shape).clone()
            change[..., -1] -= (change[..., :-1] @ about[:, :, None])[..., 0]  # the warp turns about the window's centre
            pairs = replace(pairs, warp=pairs.warp + change)
    return pairs


def bent(pairs: Pairs, queries: Sequence[Tensor], known: Sequence[Tensor]) -> Pairs:
    """Add to the warps of `pairs` a displacement that is linear between the knots of a grid, and smooth."""
    z, axes = pairs.mirror.shape
    count = KNOTS[axes]
    places = window(axes)
    weights = hats(places, count)  # (P, knots)
    one = ROUGHNESS * _laplacian(count, axes) + SIZE * torch.eye(count**axes)
    stiffness = torch.kron(torch.eye(axes), one)
    pairs = replace(pairs, knots=torch.zeros(z, axes, count**axes))
    for blurs, images in zip(queries, known, strict=True):
        moving = with_slopes(blurs)[pairs.query]
        target = sampled(images, places.expand(z, -1, -1))[:, 0]
        for _ in range(BENDS):
            value, slopes, counts = _read(moving, pairs, places)
            assert pairs.knots is not None
            jacobian = (slopes[:, :, None, :] * weights.T).flatten(1, 2)
            change = _step(jacobian, value, unit(target, counts), counts, stiffness, pairs.knots.flatten(1))
            pairs = replace(pairs, knots=(pairs.knots + change.reshape(pairs.knots.shape)).clamp(-0.25, 0.25))
    return pairs


def hats(places: Tensor, count: int) -> Tensor:
    """Weights (P, count^axes) of the knots of a regular grid over [-1, 1] in linear interpolation."""
    line = torch.linspace(-1, 1, count)
    weights = torch.ones(len(places), 1)
    for axis in range(places.shape[-1]):
        along = (1 - (places[:, axis, None] - line).abs() * (count - 1) / 2).clamp_min(0)
        weights = (weights[:, :, None] * along[:, None, :]).flatten(1)
    return weights


def _laplacian(count: int, axes: int) -> Tensor:
    knots = torch.stack(torch.meshgrid(*[torch.arange(count)] * axes, indexing="ij"), -1).reshape(-1, axes)
    beside = ((knots[:, None] - knots[None]).abs().sum(-1) == 1).float()
    return torch.diag(beside.sum(1)) - beside


def _read(moving: Tensor, pairs: Pairs, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read the queries as unit vectors (Z, P), their derivatives by the place (Z, axes, P), and which points count (Z, P)."""
    at = pairs.places(places)
    read, counts = sampled(moving, at), within(at, moving.shape[2:])
    centred = centred_within(read[:, 0], counts)
    length = centred.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return centred / length, read[:, 1:] * pairs.mirror[:, :, None] / length[:, None], counts


def _step(jacobian: Tensor, value: Tensor, target: Tensor, counts: Tensor, stiffness: Tensor | None, at: Tensor | None) -> Tensor:
    """One damped Gauss-Newton step (Z, parameters), from the derivative (Z, parameters, P) of `value` (Z, P) where it `counts`.

    A negative is laid onto as its positive would be. `stiffness` pulls the parameters `at` towards 0.
    """
    towards = target * torch.where((value * target).sum(1, keepdim=True) < 0, -1.0, 1.0)
    jacobian = centred_within(jacobian, counts[:, None])
    jacobian = jacobian - (jacobian @ value[:, :, None]) * value[:, None]
    normal = jacobian @ jacobian.mT
    mean = normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    right = jacobian @ (towards - value)[:, :, None]
    if stiffness is not None and at is not None:
        normal, right = normal + mean * stiffness, right - mean * (stiffness @ at[:, :, None])
    change = torch.linalg.solve(normal + (0.01 * mean + 1e-6) * torch.eye(normal.shape[1]), right)
    bounded: Tensor = change[:, :, 0].clamp(-0.1, 0.1)
    return bounded
