"""Before training: an image that is there twice is trained once, since what is seen more often is memorised first (Carlini et al. 2023).

Exact duplicates have one digest, mirrored and quarter-turned ones included. Near ones correlate so highly that no two images of
different patients were seen to (docs/training.md). The first of each in the Dataset's order stays.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medpipe.gates.copies import canonical_digests
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model

NEAR = 0.995
"""Correlation of two images' grey levels from which they are one image: different patients reached 0.991."""
NEAR_MAX = 20_000
"""Most images among which near duplicates are looked for: the work grows with their square."""
SIDE, BLOCK = 32, 1024
DUPLICATE = "duplicate"
"""What the index in memory calls a training image that is left out."""


def once(data: Dataset, which: Literal["off", "exact", "near"]) -> Dataset:
    """Return the Dataset with every duplicate taken out of its training split; its record and its pixels stay as they are."""
    rows = data.rows("train")
    if which == "off" or not len(rows):
        return data
    again = exact(data, rows)
    if which == "near" and (~again).sum() <= NEAR_MAX:
        left = np.flatnonzero(~again)
        again[left[near(data, rows[left])]] = True
    if not again.any():
        return data
    index = data.index.copy()
    index.loc[index["row"].isin(rows[again]), "split"] = DUPLICATE
    return Dataset(data.record, index)


def count(data: Dataset) -> int:
    """Return how many duplicates were taken out."""
    return int((data.index["split"] == DUPLICATE).sum())


def exact(data: Dataset, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which images of `rows` (n,) have the canonical digest of one before them."""
    seen: set[bytes] = set()
    again = []
    for start in range(0, len(rows), BLOCK):
        for digest in canonical_digests(data.images(rows[start : start + BLOCK])):
            again.append(digest in seen)
            seen.add(digest)
    return np.array(again, dtype=bool)


def near(data: Dataset, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which images of `rows` (n,) correlate by at least NEAR with one before them that stays."""
    unit = torch.cat([_unit(data, rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)])
    again = np.zeros(len(rows), bool)
    for start in range(0, len(rows), BLOCK):
        alike = (unit[start : start + BLOCK] @ unit[: start + BLOCK].T >= NEAR).nonzero().numpy()
        for place, other in alike:  # in order of place: whether an earlier one stays is known
            if other < start + place and not again[other]:
                again[start + place] = True
    return again


def _unit(data: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """Return images (n, d) of at most SIDE pixels a side, their means taken off, of unit length; 0 for an empty one."""
    images = torch.from_numpy(to_model(data.images(rows)))
    sides = [min(SIDE, side) for side in images.shape[2:]]
    if list(images.shape[2:]) != sides:
        images = functional.interpolate(images, size=sides, mode="area")
    flat = images.flatten(1)
    return functional.normalize(flat - flat.mean(1, keepdim=True), dim=1, eps=1e-3)
