"""How much of a candidate's detail a query holds, band by band and window by window.

A copy with noise keeps the coarse bands, a blurred or compressed one too, a regraded one keeps all: correlations band by band
do not mind how strong a band is. Coarse layout correlates between patients as well, but a coarse band has few degrees of
freedom. So a band counts what its correlation ρ says of n of them, the information -n/2 log(1 - ρ²) of two Gaussians.

Where one edge outshines all else, as the outline of a head does, which all share, the same is asked of evened detail: each place in
units of the detail about it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medpipe.gates.features import blurred
from medpipe.gates.geometry import points

SCALES = (7, 14, 28, 56)
"""Blurs between which the bands lie, as parts of the side; the coarsest band holds all above the first."""
REACH = 0.85
ABOUT = 12
"""Blur, as a part of the side, within which detail is evened."""
FLAT = 0.05
"""Detail weaker than this much of an image's mean energy stays weak: flat background is not evened into noise."""


def bands(images: Tensor) -> Tensor:
    """Split images (N, 1, …) into bands of detail, the coarsest first: (N, bands, …)."""
    side = max(images.shape[2:])
    blurs = [blurred(images, side / scale) for scale in SCALES]
    return torch.cat([blurs[0], *(fine - coarse for coarse, fine in itertools.pairwise(blurs))], 1)


def evened(images: Tensor) -> Tensor:
    """Divide each band of images (N, 1, …) but the coarsest by its strength about each place: (N, bands - 1, …)."""
    side, space = max(images.shape[2:]), tuple(range(2, images.ndim))
    fine = bands(images)[:, 1:].flatten(0, 1)[:, None]
    energy = blurred(fine**2, side / ABOUT)
    even = fine / (energy + FLAT * energy.mean(space, keepdim=True) + 1e-7).sqrt()
    return even.reshape(len(images), -1, *images.shape[2:])


def density(shape: Sequence[int]) -> int:
    """Points along an axis at which images of a shape are compared."""
    return 12 if len(shape) == 3 else 24 if max(shape) < 40 else 32


def lattice(shape: Sequence[int]) -> Tensor:
    """Return the points (P, axes) at which images of a shape are compared."""
    return points(len(shape), density(shape), REACH)


def windows(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the windows in points of the lattice: all of it, half of each axis, half of one axis."""
    count, axes = density(shape), len(shape)
    half = count // 2
    return [(count,) * axes, (half,) * axes, *(tuple(half if axis == cut else count for axis in range(axes)) for cut in range(axes))]


@dataclass(frozen=True)
class Seen:
    """What a query and a candidate show at the same points of the lattice."""

    query: Tensor  # (Z, bands, P)
    known: Tensor  # (Z, bands, P)
    counts: Tensor  # (Z, P), 0 where the query does not show the point

    def signed(self, sign: Tensor) -> Seen:
        """Return the same with the queries (Z,) that are negatives made positive."""
        return Seen(self.query * sign[:, None, None], self.known, self.counts)


def correlations(seen: Seen, shape: Sequence[int], size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Correlate bands in every window of `size`, (Z, bands, windows), and return the share of it that counts, (Z, 1, windows)."""
    count, axes = density(shape), len(shape)
    pool = functional.avg_pool2d if axes == 2 else functional.avg_pool3d
    query, known, counts = (part.reshape(len(part), -1, *(count,) * axes) for part in (seen.query, seen.known, seen.counts))

    def pooled(values: Tensor) -> Tensor:
        found: Tensor = pool(values, size, max(1, count // 8))
        return found

    share = pooled(counts)
    safe = share.clamp_min(1e-6)
    query, known = query * counts, known * counts
    one, two = pooled(query) / safe, pooled(known) / safe
    shared = pooled(query * known) / safe - one * two
    spread = (pooled(query**2) / safe - one**2).clamp_min(1e-10) * (pooled(known**2) / safe - two**2).clamp_min(1e-10)
    return (shared / spread.sqrt()).flatten(2), share.flatten(2)


def information(correlation: Tensor, counted: Tensor, shape: Sequence[int], size: tuple[int, ...]) -> Tensor:
    """Return -n/2 log(1 - ρ²) in nats for correlations (Z, bands, windows) of all bands or the finest; negative ones say nothing.

    n is the number of areas 2.5 blurs wide in the part of the window that was `counted` (Z, 1, windows).
    """
    nats: Tensor = -0.5 * torch.log(1 - correlation.clamp(0, 0.999) ** 2)
    return nats * counted * freedom(correlation.shape[1], shape, size)[:, None]


def freedom(count: int, shape: Sequence[int], size: tuple[int, ...]) -> Tensor:
    """Return the degrees of freedom of each of the finest `count` bands in a window of `size` points, (count,)."""
    axes, share = len(shape), math.prod(size) / density(shape) ** len(shape)
    return torch.tensor([share * (REACH * scale / 2.5) ** axes for scale in SCALES[-count:]])


def nats(seen: Seen, shape: Sequence[int], size: tuple[int, ...]) -> Tensor:
    """Return the information that is shared in every window of `size`: (Z, bands, windows)."""
    return information(*correlations(seen, shape, size), shape, size)
