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


def correlations(query: Tensor, known: Tensor, shape: Sequence[int], size: tuple[int, ...]) -> Tensor:
    """Correlate bands (Z, bands, P) read on the lattice in every window of `size`: (Z, bands, windows)."""
    count, axes = density(shape), len(shape)
    pool = functional.avg_pool2d if axes == 2 else functional.avg_pool3d
    query, known = (part.reshape(len(part), -1, *(count,) * axes) for part in (query, known))

    def mean(values: Tensor) -> Tensor:
        pooled: Tensor = pool(values, size, max(1, count // 8))
        return pooled

    one, two = mean(query), mean(known)
    shared = mean(query * known) - one * two
    spread = (mean(query**2) - one**2).clamp_min(1e-10) * (mean(known**2) - two**2).clamp_min(1e-10)
    return (shared / spread.sqrt()).flatten(2)


def information(correlation: Tensor, shape: Sequence[int], size: tuple[int, ...]) -> Tensor:
    """Return -n/2 log(1 - ρ²) in nats for correlations (Z, bands, …) of all bands or the finest; negative ones say nothing.

    n is the number of areas 2.5 blurs wide in the window.
    """
    axes, share = len(shape), math.prod(size) / density(shape) ** len(shape)
    freedom = torch.tensor([share * (REACH * scale / 2.5) ** axes for scale in SCALES[-correlation.shape[1] :]])
    nats: Tensor = -0.5 * torch.log(1 - correlation.clamp(0, 0.999) ** 2)
    return nats * freedom.reshape(1, -1, *(1,) * (correlation.ndim - 2))
