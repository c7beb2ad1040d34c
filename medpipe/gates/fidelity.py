"""Distances between two samples of images: each a few lines against its published formula."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Features = NDArray[np.float64]


def moments(features: Features, weights: NDArray[np.float64] | None = None) -> tuple[Features, Features]:
    """Return the mean (d,) and covariance (d, d) of `features` (N, d), with `weights` (N,) where images count unequally."""
    share = np.full(len(features), 1 / len(features)) if weights is None else weights / weights.sum()
    mean = share @ features
    centred = features - mean
    covariance = (centred * share[:, None]).T @ centred / max(1 - float((share**2).sum()), 1e-12)
    return mean, covariance


def frechet(a: tuple[Features, Features], b: tuple[Features, Features]) -> float:
    """Fréchet distance between two Gaussians given as (mean, covariance) (Heusel et al. 2017, equation 6).

    tr √(AB) is taken from the eigenvalues of √A B √A, which is symmetric, so that no complex root can appear. NaN where a
    moment is not a number.
    """
    if not all(np.isfinite(part).all() for part in (*a, *b)):
        return math.nan
    values, vectors = np.linalg.eigh(a[1])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b[1] @ root), 0, None)).sum()
    return float(((a[0] - b[0]) ** 2).sum() + np.trace(a[1]) + np.trace(b[1]) - 2 * cross)


def kid(a: Features, b: Features) -> float:
    """Kernel distance: unbiased squared MMD with the kernel (x·y/d + 1)³ (Bińkowski et al. 2018, section 4)."""
    d, n, m = a.shape[1], len(a), len(b)
    aa, bb, ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


@dataclass(frozen=True)
class Distances:
    """Euclidean distances within real images (N, N), within made ones (M, M), and between (N, M)."""

    real: Features
    made: Features
    between: Features

    @classmethod
    def of(cls, real: Features, made: Features) -> Distances:
        """Measure features (N, d) and (M, d)."""
        return cls(cdist(real, real), cdist(made, made), cdist(real, made))


def precision_recall(distances: Distances, k: int = 3) -> tuple[float, float]:
    """Precision and recall over balls that reach to each image's k-th neighbour (Kynkäänniemi et al. 2019, equation 2)."""
    real_radius, made_radius = _radius(distances.real, k), _radius(distances.made, k)
    precision = (distances.between <= real_radius[:, None]).any(0).mean()
    recall = (distances.between <= made_radius[None, :]).any(1).mean()
    return float(precision), float(recall)


def density_coverage(distances: Distances, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, equations 4 and 5): how many real balls hold a made image, as a part of k, on
    average (above 1 where images crowd), and the share of real balls that hold any."""
    inside = distances.between < _radius(distances.real, k)[:, None]
    return float(inside.sum(0).mean() / k), float(inside.any(1).mean())


def _radius(within: Features, k: int) -> NDArray[np.float64]:
    """Distance to the k-th neighbour; position 0 is the image itself."""
    return np.asarray(np.partition(within, k, axis=1)[:, k])


def mmd(distances: Distances) -> float:
    """Unbiased squared maximum mean discrepancy with a Gaussian kernel (Gretton et al. 2012, equation 3), whose width is the
    median distance between real images (the median heuristic, their section 8)."""
    n, m = distances.between.shape
    width = float(np.median(distances.real[np.triu_indices(n, 1)]))
    rr, mm, rm = (np.exp(-np.square(part) / (2 * width**2)) for part in (distances.real, distances.made, distances.between))
    return float((rr.sum() - n) / (n * (n - 1)) + (mm.sum() - m) / (m * (m - 1)) - 2 * rm.mean())


def frechet_at_infinity(whole: tuple[Features, Features], features: Features, draws: np.random.Generator, sizes: int = 12) -> float:
    """Fréchet distance extrapolated to endlessly many images (Chong & Forsyth 2020, section 3.2, FID∞): the distance is linear in
    1/n, so a line through draws of several sizes is read at 0.

    `whole` are the moments of the reference. Draws go from a third of `features` (N, d) to all of them, and hold at least
    twice as many images as dimensions; NaN where there are fewer than four times as many.
    """
    n, d = features.shape
    if n < 4 * d:
        return math.nan
    counts = np.linspace(max(n // 3, 2 * d), n, sizes).astype(np.int64)
    found = [frechet(whole, moments(features[draws.permutation(n)[:count]])) for count in counts]
    return float(np.polyfit(1 / counts, found, 1)[1])


def ks(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance between two samples of one number: the largest gap between their distributions."""
    places = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(sample), places, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


STATISTICS = ("mean", "spread", "detail")


def statistics(images: NDArray[np.unsignedinteger[Any]]) -> dict[str, NDArray[np.float64]]:
    """Describe stored images (N, C, …) by one number each: mean and standard deviation of the grey values as parts of the
    full range, and detail (root mean square of the second difference along the image axes, same unit)."""
    scale = float(np.iinfo(images.dtype).max)
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in STATISTICS}
    for start in range(0, len(images), 256):
        unit = images[start : start + 256].astype(np.float64) / scale
        axes = tuple(range(1, unit.ndim))
        found["mean"].append(unit.mean(axes))
        found["spread"].append(unit.std(axes))
        squares = [np.square(np.diff(unit, 2, axis)).mean(axes) for axis in range(2, unit.ndim) if unit.shape[axis] > 2]
        found["detail"].append(np.sqrt(sum(squares) / max(1, len(squares))) if squares else np.zeros(len(unit)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the 2.5th and 97.5th percentile of resampled values; NaN where any is not a number."""
    if not values or not all(math.isfinite(value) for value in values):
        return math.nan, math.nan, math.nan
    low, middle, high = np.percentile(values, [2.5, 50, 97.5])
    return float(middle), float(low), float(high)
