"""Whether two training images together explain a query: the mean of two patients shows neither well alone.

In a band of detail, let q be the query and a and b two candidates laid onto it, all of mean 0 and length 1. With ρ their correlations,
the share of q that both explain is R² = (ρ_qa² + ρ_qb² - 2 ρ_qa ρ_qb ρ_ab) / (1 - ρ_ab²), and what b adds to a is the information
-n/2 log((1 - R²) / (1 - ρ_qa²)) of the n degrees of freedom of the band: that of their partial correlation.

Each of the two was laid onto a query in which the other stands in its way. So the best two are laid again, each onto what the other leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medpipe.gates import detail, registration
from medpipe.gates.gallery import Gallery
from medpipe.gates.geometry import pixels, sampled, unit, within
from medpipe.gates.registration import Pairs, joined

BY_REST = 4
"""Candidates by the votes in what the best leaves unexplained."""
ROUNDS = 3
"""How often each of the two is laid onto what the other leaves: an even blend of small images needs them all."""
ALIKE, LARGEST = 0.98, 0.999
"""Two candidates are taken to differ by at least so much, and nothing is explained better than so."""


@dataclass(frozen=True)
class Queries:
    """What is explained by what: the bands `split` of the queries (N, bands, …) by the gallery, but for each one's `own` group."""

    gallery: Gallery
    split: Tensor
    own: Tensor  # (N,)

    @property
    def shape(self) -> torch.Size:
        """Sides."""
        return self.split.shape[2:]


def weaker(queries: Queries, pairs: Pairs, of_candidates: Tensor, allowed: Tensor, best: Tensor) -> Tensor:
    """Of the two candidates that explain a query best, return the nats that the weaker adds to the other, (N,); 0 where there are no two.

    `of_candidates` are the bands of the candidates of `pairs` (N · K, bands, …); only those that are `allowed` (N, K) count, each under its
    affine warp, and the same candidate under two warps is one. Others are looked for in what the `best` (N,) leaves.
    """
    gallery, (n, k) = queries.gallery, allowed.shape
    leading = pairs.chosen(torch.arange(n) * k + best)
    left = _left(queries, _drawn(queries, leading))
    others = gallery.patches.nearest(left, leading.mirror, gallery.groups, queries.own, BY_REST)  # mirrored as the best is
    found = _laid(Pairs.straight(others, leading.mirror[:, None].expand(-1, others.shape[1], -1)), left, gallery)
    allowed = torch.cat([allowed, gallery.groups[others] != queries.own[:, None]], 1)
    pairs, k = pairs.beside(found, n), allowed.shape[1]
    known = joined(of_candidates, detail.bands(gallery.shown(found.candidate)), n)

    alone, between = _correlations(queries, pairs, known)
    freedom = detail.freedom(alone.shape[1], queries.shape, detail.windows(queries.shape)[0])
    candidates = pairs.candidate.reshape(n, k)
    apart = (candidates[:, :, None] != candidates[:, None]) & allowed[:, :, None] & allowed[:, None]
    added = torch.einsum("nbij,b->nij", _added(alone, between), freedom) * apart  # (N, K, K): what the second adds to the first
    by_one = -0.5 * torch.einsum("nbk,b->nk", torch.log(1 - alone**2), freedom)
    both = ((by_one[:, :, None] + added) * apart).flatten(1)
    rows, place = torch.arange(n), both.argmax(1)
    first, second = place // k, place % k
    stronger = torch.where(added[rows, first, second] > added[rows, second, first], second, first)
    nats = _again(queries, pairs.chosen(rows * k + stronger), pairs.chosen(rows * k + first + second - stronger), freedom)
    return nats * apart.flatten(1).any(1)


def _again(queries: Queries, one: Pairs, two: Pairs, freedom: Tensor) -> Tensor:
    """Lay each of two candidates onto what the other leaves; return the nats (N,) that the weaker adds."""
    gallery, n = queries.gallery, len(queries.split)
    for _ in range(ROUNDS):
        one = _laid(one, _left(queries, _drawn(queries, two), beside=_drawn(queries, one)), gallery)
        two = _laid(two, _left(queries, _drawn(queries, one), beside=_drawn(queries, two)), gallery)
    pairs = one.beside(two, n)
    alone, between = _correlations(queries, pairs, detail.bands(gallery.shown(pairs.candidate)))
    added = torch.einsum("nbij,b->nij", _added(alone, between), freedom)
    return torch.minimum(added[:, 0, 1], added[:, 1, 0])


def _laid(pairs: Pairs, onto: Tensor, gallery: Gallery) -> Pairs:
    known = registration.smooth(gallery.shown(pairs.candidate))
    return registration.laid(pairs, registration.smooth(onto), known, registration.window(onto.ndim - 2))


def _drawn(queries: Queries, pairs: Pairs) -> Tensor:
    """Draw the candidate of each query as it lies on it: its bands (N, bands, pixels), of mean 0."""
    drawn = sampled(queries.gallery.shown(pairs.candidate), pairs.back(pixels(queries.shape)))
    known = detail.bands(drawn.reshape(-1, 1, *queries.shape)).flatten(2)
    return known - known.mean(2, keepdim=True)


def _left(queries: Queries, known: Tensor, beside: Tensor | None = None) -> Tensor:
    """Return what candidates leave of the queries, (N, 1, …): as much of each band is taken off as fits best, alone or `beside` others."""
    split = queries.split.flatten(2)
    energy = (known**2).sum(2).clamp_min(1e-6)
    share = (split * known).sum(2) / energy
    if beside is not None:
        other = (beside**2).sum(2).clamp_min(1e-6)
        common = (known * beside).sum(2)
        share = (share - (split * beside).sum(2) * common / (energy * other)) / (1 - common**2 / (energy * other)).clamp_min(1e-3)
    return (split - share.clamp(0, 1)[..., None] * known).sum(1).reshape(-1, 1, *queries.shape)


def _correlations(queries: Queries, pairs: Pairs, known: Tensor) -> tuple[Tensor, Tensor]:
    """Correlate, band by band, the candidates with the query, (N, bands, K), and with each other, (N, bands, K, K)."""
    n, at = len(queries.split), detail.lattice(queries.shape)
    places = pairs.back(at)
    counts = within(places, queries.shape)[:, None].expand(-1, known.shape[1], -1)
    query = unit(sampled(queries.split, at.expand(n, -1, -1)))  # (N, bands, P)
    laid = unit(sampled(known, places), counts).reshape(n, -1, *query.shape[1:]).transpose(1, 2)  # (N, bands, K, P)
    return (laid @ query[..., None])[..., 0].clamp(0, LARGEST), laid @ laid.mT


def _added(alone: Tensor, between: Tensor) -> Tensor:
    """Nats per degree of freedom that the second candidate adds to the first, (N, bands, K, K), from ρ with the query and with each other.

    Only a second one with a positive weight adds: a blend takes nothing away.
    """
    one, two = alone[..., :, None], alone[..., None, :]
    between = between.clamp(-ALIKE, ALIKE)
    partial = (two - one * between).clamp_min(0) / ((1 - between**2) * (1 - one**2)).sqrt()
    nats: Tensor = -0.5 * torch.log(1 - partial.clamp_max(LARGEST) ** 2)
    return nats
