"""What the report shows of real data: counts over bins, small cells suppressed, never a pixel, never an extreme value.

Bins are laid out by the synthetic data alone; real values beyond them fall into the outermost bin, so that no edge tells
the largest or smallest value of a patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.gates import fidelity

BINS = 24
GREY_BINS = 32
TITLES = {"mean": "mean brightness of an image", "spread": "contrast within an image", "detail": "fine detail of an image"}


def grey_histogram(images: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
    """Count pixels in GREY_BINS equal bins of the stored range."""
    bins = images.astype(np.int64).ravel() * GREY_BINS // (int(np.iinfo(images.dtype).max) + 1)
    return np.bincount(bins, minlength=GREY_BINS)


def suppressed(counts: Sequence[int] | NDArray[np.integer[Any]], small_cell: int) -> list[int | None]:
    """Hide counts of 1 to `small_cell` - 1, and then the next smallest while a total would tell what is hidden: while that is
    one cell only, or cells that are together fewer than `small_cell`."""
    shown: list[int | None] = [int(count) if count == 0 or count >= small_cell else None for count in counts]
    while None in shown:
        left = [number for number, count in enumerate(shown) if count]
        hidden = sum(int(count) for count, cell in zip(counts, shown, strict=True) if cell is None)
        if not left or (shown.count(None) > 1 and hidden >= small_cell):
            break
        shown[min(left, key=lambda number: int(counts[number]))] = None
    return shown


def histogram(real: NDArray[np.float64], synthetic: NDArray[np.float64], small_cell: int) -> dict[str, Any] | None:
    """Count real and synthetic values over common bins; None where the synthetic ones are not numbers."""
    known = synthetic[np.isfinite(synthetic)]
    if not len(known):
        return None
    low, high = np.percentile(known, [0.5, 99.5])
    room = max(0.2 * (high - low), 1e-3 * max(1.0, abs(high)))
    edges = np.round(np.linspace(low - room, high + room, BINS + 1), 6)
    cells = [np.histogram(np.clip(values[np.isfinite(values)], edges[0], edges[-1]), edges)[0] for values in (real, known)]
    return {
        "edges": edges.tolist(),
        "real": suppressed(cells[0], small_cell),
        "synthetic": [int(count) for count in cells[1]],
        "kind": "continuous",
    }


def categories(real: pd.Series[Any], synthetic: pd.Series[Any], values: Sequence[str], small_cell: int) -> dict[str, Any]:
    """Count each of `values`."""
    return {
        "edges": list(values),
        "real": suppressed([int((real == value).sum()) for value in values], small_cell),
        "synthetic": [int((synthetic == value).sum()) for value in values],
        "kind": "categorical",
    }


def all_of(
    train: Mapping[str, NDArray[Any]],
    cohort: Mapping[str, NDArray[Any]],
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    covariates: Sequence[Mapping[str, Any]],
    small_cell: int,
) -> dict[str, Any]:
    """Return every distribution of the report by its title; `train` and `cohort` hold the statistics and "grey" counts."""
    found: dict[str, Any] = {
        "grey value of a pixel": {
            "edges": np.linspace(0, 1, GREY_BINS + 1).round(5).tolist(),
            "real": suppressed(train["grey"], small_cell),
            "synthetic": [int(count) for count in cohort["grey"]],
            "kind": "continuous",
        }
    }
    for name in fidelity.STATISTICS:
        found[TITLES[name]] = histogram(train[name], cohort[name], small_cell)
    for item in covariates:
        name = item["name"]
        if name not in real or name not in synthetic:
            continue
        if item["kind"] == "categorical":
            found[name] = categories(real[name], synthetic[name], list(item["values"]), small_cell)
        else:
            found[name] = histogram(
                real[name].to_numpy(np.float64, na_value=np.nan), synthetic[name].to_numpy(np.float64, na_value=np.nan), small_cell
            )
    return {name: entry for name, entry in found.items() if entry is not None}


def composition(real: pd.Series[Any], synthetic: pd.Series[Any], classes: Sequence[str], small_cell: int) -> list[dict[str, Any]]:
    """Count each class among training and synthetic images."""
    cells = categories(real, synthetic, classes, small_cell)
    return [
        {"label": name, "real": ours, "synthetic": theirs}
        for name, ours, theirs in zip(classes, cells["real"], cells["synthetic"], strict=True)
    ]
