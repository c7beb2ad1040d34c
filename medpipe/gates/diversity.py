"""How varied images are: the Vendi score of features, and the structural similarity of random pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medpipe.gates.features import blurred

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales (Wang, Simoncelli & Bovik 2003, section 3.2); the first ones, made to sum to 1, for small images."""

RADIUS = 5
WINDOW = 2 * RADIUS + 1
"""Pixels of the Gaussian window (σ 1.5)."""


def vendi(features: NDArray[np.float64]) -> float:
    """Vendi score of features (N, d) with the cosine kernel: exp of the entropy of the eigenvalues of K/N (Friedman & Dieng 2023,
    definition 3.1), from 1 (all alike) to min(N, d).

    The eigenvalues of the kernel matrix are those of the d × d matrix of the unit features. NaN where a feature is not a number.
    """
    if not np.isfinite(features).all():
        return float("nan")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    values = np.linalg.eigvalsh(unit.T @ unit / len(unit))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def scales(side: int) -> int:
    """Return how many scales images of the shortest side `side` have room for: 1 to 5."""
    return max(1, sum(side >> scale >= WINDOW for scale in range(len(SCALES))))


def similarity(first: NDArray[np.unsignedinteger[Any]], second: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float64]:
    """Multi-scale structural similarity of pairs of stored images (N, C, …): (N,), 1 for equal ones (Wang, Simoncelli & Bovik 2003,
    equation 7, with their constants).

    Windows that reach over the edge do not count, but in images smaller than a window, whose edges are mirrored.
    """
    count, top = scales(min(first.shape[2:])), float(np.iinfo(first.dtype).max)
    weights = np.array(SCALES[:count]) / sum(SCALES[:count])
    one, other = (torch.from_numpy(images.astype(np.float32) / top) for images in (first, second))
    found = torch.ones(len(first))
    for scale, weight in enumerate(weights.tolist()):
        brightness, structure = _compared(one, other)
        last = scale == count - 1
        found = found * (brightness * structure if last else structure).flatten(1).mean(1).clamp_min(0) ** weight
        if not last:
            pool = functional.avg_pool2d if one.ndim == 4 else functional.avg_pool3d
            one, other = pool(one, 2), pool(other, 2)
    return np.asarray(found.double().numpy())


def _compared(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Compare brightness and structure around each pixel (Wang et al. 2004, equations 6 and 9 times 10)."""
    inner = (..., *[slice(RADIUS, -RADIUS) if side >= WINDOW else slice(None) for side in one.shape[2:]])

    def mean(images: Tensor) -> Tensor:
        return blurred(images, 1.5)[inner]

    a, b = mean(one), mean(other)
    variance_a, variance_b, covariance = mean(one * one) - a * a, mean(other * other) - b * b, mean(one * other) - a * b
    brightness = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    return brightness, (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)


def pairs(strata: NDArray[np.int64], most: int, draws: np.random.Generator) -> NDArray[np.int64]:
    """Draw at most `most` pairs of different images of one class each: (pairs, 2)."""
    found = []
    for number in np.unique(strata):
        rows = draws.permutation(np.flatnonzero(strata == number))
        found.append(rows[: len(rows) // 2 * 2].reshape(-1, 2))
    everyone = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    return np.asarray(draws.permutation(everyone)[:most], dtype=np.int64)
