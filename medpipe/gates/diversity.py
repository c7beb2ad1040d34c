"""How varied images are: the Vendi score of features, and the structural similarity of random pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales (Wang, Simoncelli & Bovik 2003, section 3.2); the first ones, made to sum to 1, for small images."""


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


def scales(side: int) -> tuple[int, int]:
    """Return how many scales images of the shortest side `side` have room for, and the window's width: (1 to 5, odd)."""
    window = 11 if side >= 22 else 7
    count = 1
    while count < len(SCALES) and side >> count >= window:
        count += 1
    return count, window


def similarity(first: NDArray[np.unsignedinteger[Any]], second: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float64]:
    """Multi-scale structural similarity of pairs of stored images (N, C, …): (N,), 1 for equal ones (MONAI's implementation).

    Images too small for a window of 7 have none: NaN.
    """
    from monai.metrics.regression import compute_ms_ssim  # MONAI takes seconds to import

    shape, top = first.shape, float(np.iinfo(first.dtype).max)
    count, window = scales(min(shape[2:]))
    if min(shape[2:]) < window:
        return np.full(len(first), np.nan)
    weights = np.array(SCALES[:count]) / sum(SCALES[:count])
    one, other = (torch.from_numpy(images.astype(np.float32) / top) for images in (first, second))
    axes = len(shape) - 2
    found = compute_ms_ssim(
        one, other, spatial_dims=axes, kernel_size=(window,) * axes, kernel_sigma=(1.5,) * axes, weights=weights.tolist()
    )
    return np.asarray(found.double().numpy()).reshape(len(first))


def pairs(strata: NDArray[np.int64], most: int, draws: np.random.Generator) -> NDArray[np.int64]:
    """Draw at most `most` pairs of different images of one class each: (pairs, 2)."""
    found = []
    for number in np.unique(strata):
        rows = draws.permutation(np.flatnonzero(strata == number))
        found.append(rows[: len(rows) // 2 * 2].reshape(-1, 2))
    everyone = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    return np.asarray(draws.permutation(everyone)[:most], dtype=np.int64)
