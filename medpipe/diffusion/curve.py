"""The loss as training goes on, and by noise level: what the curve of a Checkpoint holds.

A diffusion loss is the mean over noise levels of very unequal tasks; by level it shows what is still being learned.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

EDGES = torch.logspace(math.log10(0.002), math.log10(80.0), 17)
"""Limits of the 16 noise levels σ; what lies beyond counts to the outermost."""
BINS = len(EDGES) - 1
BY_SIGMA = "loss-by-sigma.parquet"
POINTS = ("images", "loss", "validation_loss", "probe_loss", "gap")
"""Columns of the curve: `probe_loss` is that of training images outside of a step, by the averaged weights, as `validation_loss` is."""
COLUMNS = ("images", "sigma_low", "sigma_high", "loss", "count", "validation_loss", "validation_count")


def binned(losses: Tensor, sigma: Tensor) -> Tensor:
    """Return (2, BINS) of losses (N,) at σ (N,): sum and number at each level."""
    place = torch.bucketize(sigma, EDGES[1:-1])
    sums = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, losses.double())
    return torch.stack((sums, torch.bincount(place, minlength=BINS).double()))


def rows(images: int, training: Tensor, validation: Tensor) -> list[tuple[float, ...]]:
    """Return one row of COLUMNS for each level that was seen after `images` images, of two results of `binned`."""
    means = [(part[0] / part[1]).tolist() for part in (training, validation)]  # NaN where there is none
    return [
        (images, float(EDGES[i]), float(EDGES[i + 1]), means[0][i], float(training[1, i]), means[1][i], float(validation[1, i]))
        for i in range(BINS)
        if training[1, i] or validation[1, i]
    ]


def picture(checkpoint: Path) -> bytes:
    """Draw the loss against σ of a Checkpoint, early, midway and at the end, as a PNG."""
    from matplotlib.figure import Figure

    table = pd.read_parquet(checkpoint / BY_SIGMA)
    figure = Figure(figsize=(6, 3.4), dpi=90, layout="constrained")
    axes = figure.subplots()
    moments = sorted(table["images"].unique())
    for at, style in zip(_spread(moments, 3), (":", "--", "-")[3 - min(len(moments), 3) :], strict=True):
        part = table[(table["images"] == at) & (table["count"] > 0)]
        axes.plot((part["sigma_low"] * part["sigma_high"]) ** 0.5, part["loss"], style, color="black", label=f"{int(at):,} images")
    last = table[(table["images"] == table["images"].max()) & (table["validation_count"] > 0)]
    if len(last):
        axes.plot((last["sigma_low"] * last["sigma_high"]) ** 0.5, last["validation_loss"], "o", mfc="none", label="validation, at the end")
    axes.set(xscale="log", yscale="log", xlabel="noise level σ", ylabel="loss (weighted, Karras et al. 2022)")
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def with_gap(points: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return the points of a curve with `gap`: by which share the loss on validation images lies above that on training images.

    Both are taken over as many images with the same noise, so that the gap is what the model knows of its own images by heart.
    """
    return [{**point, "gap": point["validation_loss"] / point["probe_loss"] - 1} for point in points]


def gap(curve: Sequence[Mapping[str, float]], limit: float, points: int = 3) -> bool:
    """Say whether at each of the last `points` points the validation loss lay above that on training images by the share `limit`."""
    last = [point["validation_loss"] / point["probe_loss"] - 1 for point in curve[-points:]]
    return len(last) == points and all(value > limit for value in last)
