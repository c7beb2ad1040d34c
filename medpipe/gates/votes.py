"""Patches that vote: which training images share fine detail with a query, as a whole or in a region.

Each image is cut into overlapping patches of its mid-band detail, whitened over the training images: likeness of coarse layout,
which all patients share, counts for little, and a region that was copied counts although the rest is another's. A
patch of the query may lie one step off its place, so that bent and moved copies keep their votes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medpipe.gates.features import blurred
from medpipe.gates.geometry import points, sampled, unit
from medpipe.gates.room import Room, parts

STEP = 0.11
"""How far a patch is tried off its place, of half the side."""
REACH = 0.45
"""Half-width of a patch, of half the side."""
COMPONENTS = 64
RIDGE = 0.3
"""Whitening divides by the square root of a direction's variance plus this much of the mean variance."""
BLOCK = 1024


def detail(images: Tensor) -> Tensor:
    """Keep the band of detail that votes: from a ninth to a thirty-sixth of the side."""
    side = max(images.shape[2:])
    return blurred(images, max(0.6, side / 36)) - blurred(images, side / 9)


def _places(axes: int) -> tuple[Tensor, Tensor]:
    """Return the points of a patch about its centre and the centres, in [-1, 1]."""
    if axes == 2:
        return points(2, 10, REACH), points(2, 3, 0.5)
    return points(3, 6, REACH), torch.cat([points(3, 2, REACH), torch.zeros(1, 3)])


def moves(axes: int) -> Tensor:
    """Return the moves that are tried, (S, axes)."""
    return torch.tensor(list(itertools.product((-STEP, 0.0, STEP), repeat=axes)))


def mirrors(axes: int) -> Tensor:
    """Return the mirrorings in the plane, (4, axes) in ±1, x first."""
    return torch.tensor([[*signs, *(1.0,) * (axes - 2)] for signs in itertools.product((1.0, -1.0), repeat=2)])


def _read(images: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield part after part of the patches of the images (G, 1, …), unit vectors (Q, part, P)."""
    local, centres = _places(images.ndim - 2)
    for part in parts(len(images)):
        fine = detail(images[part].float())
        yield part, torch.stack([unit(sampled(fine, (local + centre).expand(len(fine), -1, -1))[:, 0]) for centre in centres])


@dataclass(frozen=True)
class Ranking:
    """The training images with the most votes for each query, the best first."""

    whole: Tensor  # (N, K) training images by the votes of all patches
    whole_score: Tensor  # (N, K)
    whole_mirror: Tensor  # (N, K) number of the mirroring
    mean: Tensor  # (N,) of the whole votes over all training images
    spread: Tensor  # (N,)
    single: Tensor  # (N, R) training images by their best patch
    single_score: Tensor  # (N, R)
    single_mean: Tensor  # (N,)
    single_spread: Tensor  # (N,)
    patch: Tensor  # (N, R)
    single_mirror: Tensor  # (N, R)
    move: Tensor  # (N, R)


@dataclass(frozen=True)
class Patches:
    """The whitened patches of the training images."""

    bases: Tensor  # (Q, P, components)
    vectors: Tensor  # (Q, G, components)
    local: Tensor  # (P, axes)
    centres: Tensor  # (Q, axes)
    moves: Tensor  # (S, axes)
    mirrors: Tensor  # (4, axes)
    window: Tensor  # (P, axes)

    @classmethod
    def of(cls, images: Tensor, room: Room) -> Patches:
        """Prepare the patches of the training images (G, 1, …)."""
        axes, count = images.ndim - 2, len(images)
        moments = sum(read.mT @ read for _, read in _read(images)) / count
        variance, directions = torch.linalg.eigh(moments)  # (Q, P), (Q, P, P)
        variance = variance[:, -COMPONENTS:].clamp_min(1e-6)
        bases = directions[..., -COMPONENTS:] / (variance + RIDGE * variance.mean(1, keepdim=True)).sqrt()[:, None]
        vectors = room.made("patches", (len(bases), count, bases.shape[2]), torch.float)
        for part, read in _read(images):
            vectors[:, part] = functional.normalize(read @ bases, dim=2)
        return cls._in(axes, bases, vectors)

    @classmethod
    def opened(cls, bases: Tensor, count: int, axes: int, room: Room) -> Patches:
        """Open the patches of `count` training images that lie in `room`."""
        return cls._in(axes, bases, room.opened("patches", (len(bases), count, bases.shape[2]), torch.float))

    @classmethod
    def _in(cls, axes: int, bases: Tensor, vectors: Tensor) -> Patches:
        return cls(bases, vectors, *_places(axes), moves(axes), mirrors(axes), points(axes, 14 if axes == 2 else 8, REACH))

    def _of(self, queries: Tensor, mirrors: Tensor) -> Tensor:
        """Whitened patches of the queries under every one of their `mirrors` (N or 1, M, axes) and every move, (Q, N · M · moves, d)."""
        places = self.centres[:, None, None] + self.moves[None, :, None] + self.local  # (Q, S, P, axes)
        mirrored = places * mirrors[:, :, None, None, None]
        read = sampled(detail(queries), mirrored.flatten(1, -2).expand(len(queries), -1, -1))
        patches = unit(read.reshape(len(queries), *mirrored.shape[1:-1]))  # (N, M, Q, S, P)
        white = functional.normalize(torch.einsum("nmqsp,qpd->qnmsd", patches, self.bases), dim=-1)
        return white.flatten(1, 3)

    def nearest(self, queries: Tensor, mirrors: Tensor, groups: Tensor, own: Tensor, count: int) -> Tensor:
        """Return the training images (N, count) with the most votes of all patches of each query under its mirroring (N, axes) alone.

        Those whose group (G,) is the query's own (N,) are passed over.
        """
        n, s, mine = len(queries), len(self.moves), self._of(queries, mirrors[:, None])
        best, index = torch.empty(n, 0), torch.empty(n, 0, dtype=torch.long)
        for start in range(0, self.vectors.shape[1], BLOCK):
            block = self.vectors[:, start : start + BLOCK]
            votes = torch.bmm(mine, block.mT).reshape(len(block), n, s, -1).amax(2).sum(0)  # (N, B)
            votes = votes.masked_fill(groups[start : start + BLOCK] == own[:, None], -2.0)
            everyone = torch.arange(start, start + votes.shape[1]).expand(n, -1)
            best, index = _top(torch.cat([best, votes], 1), count, torch.cat([index, everyone], 1))
        return index

    def rank(self, queries: Tensor, groups: Tensor, own: Tensor, whole: int, single: int) -> Ranking:
        """Rank the training images for each query (N, 1, …); those whose group (G,) is the query's own (N,) are passed over."""
        n, m, s = len(queries), len(self.mirrors), len(self.moves)
        mine = self._of(queries, self.mirrors[None])
        wholes, singles, sums = [], [], []
        for start in range(0, self.vectors.shape[1], BLOCK):
            block = self.vectors[:, start : start + BLOCK]
            votes, move = torch.bmm(mine, block.mT).reshape(len(block), n, m, s, -1).max(3)  # (Q, N, M, B)
            total, mirror = votes.sum(0).max(1)  # (N, B)
            best, where = votes.permute(1, 3, 0, 2).flatten(2).max(2)  # (N, B), of patch · M + mirror
            barred = groups[start : start + BLOCK] == own[:, None]
            kept = (~barred).float()
            sums.append(torch.stack([part.sum(1) for part in (kept, kept * total, kept * total**2, kept * best, kept * best**2)]))
            total, best = total.masked_fill(barred, -2.0), best.masked_fill(barred, -2.0)
            number = torch.arange(start, start + block.shape[1]).expand(n, -1)
            moved = move.permute(1, 3, 0, 2).flatten(2).gather(2, where[..., None])[..., 0]
            wholes.append(_top(total, whole, number, mirror))
            singles.append(_top(best, single, number, where, moved))
        total, row, mirror = _top(torch.cat([part[0] for part in wholes], 1), whole, *_joined(wholes))
        best, found, where, moved = _top(torch.cat([part[0] for part in singles], 1), single, *_joined(singles))
        count, first, square, first_best, square_best = torch.stack(sums).sum(0)
        mean, mean_best = first / count.clamp_min(1), first_best / count.clamp_min(1)
        return Ranking(
            row,
            total,
            mirror,
            mean,
            (square / count.clamp_min(1) - mean**2).clamp_min(1e-8).sqrt(),
            found,
            best,
            mean_best,
            (square_best / count.clamp_min(1) - mean_best**2).clamp_min(1e-8).sqrt(),
            where // m,
            where % m,
            moved,
        )


def _joined(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat([part[k] for part in parts], 1) for k in range(1, len(parts[0]))]


def _top(score: Tensor, count: int, *others: Tensor) -> tuple[Tensor, ...]:
    """Keep the `count` highest scores of each row, and what belongs to them."""
    best, places = score.topk(min(count, score.shape[1]), dim=1)
    return (best, *(other.gather(1, places) for other in others))
