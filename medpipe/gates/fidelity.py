"""Distances between two samples of images: each a few lines against its published formula."""

from __future__ import annotations

import math
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


def precision_recall(real: Features, made: Features, k: int = 3) -> tuple[float, float]:
    """Precision and recall over balls that reach to each image's k-th neighbour (Kynkäänniemi et al. 2019, equation 2)."""
    between = cdist(real, made)
    real_radius = np.partition(cdist(real, real), k, axis=1)[:, k]  # position 0 is the image itself
    made_radius = np.partition(cdist(made, made), k, axis=1)[:, k]
    precision = (between <= real_radius[:, None]).any(0).mean()
    recall = (between <= made_radius[None, :]).any(1).mean()
    return float(precision), float(recall)


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
