"""Real images that benchmarks share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(os.environ.get("MEDPIPE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def distinct(*parts: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images (N, 28, 28) and labels (N,) of the `parts` of PneumoniaMNIST (MEDPIPE_DATA), each image once, shuffled."""
    file = DATA / "pneumoniamnist.npz"
    if not file.is_file():
        sys.exit("no pneumoniamnist.npz: set MEDPIPE_DATA to the folder that holds it")
    with np.load(file) as held:
        images = np.concatenate([held[f"{part}_images"] for part in parts])
        labels = np.concatenate([held[f"{part}_labels"] for part in parts])[:, 0].astype(np.int64)
    images, places = np.unique(images, axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[places][order]
