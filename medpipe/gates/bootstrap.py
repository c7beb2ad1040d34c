"""Paired bootstrap over test images: intervals of a figure of several arms, and of the difference between two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predictions = Sequence[NDArray[np.float32]]
Score = Callable[[NDArray[Any], NDArray[np.int64]], float]


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "–" if math.isnan(self.value) else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """Return `value` with the 2.5th and 97.5th percentile of its resamples; NaN where none is a number."""
    if np.isnan(resampled).all():
        return Estimate(value, math.nan, math.nan)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def paired(
    arms: Mapping[str, Predictions], labels: NDArray[np.int64], score: Score, resamples: int, draws: np.random.Generator
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Return each arm's mean score over its classifiers, and the same over test images drawn with replacement (resamples,).

    Every arm is scored on the same draws, so that differences of the returned arrays are paired. `arms` holds the
    probabilities (N, classes) of each classifier for the N test images. Source: Efron and Tibshirani 1993, chapter 13.
    """

    def mean(predictions: Predictions, rows: NDArray[np.int64]) -> float:
        return float(np.mean([score(predicted[rows], labels[rows]) for predicted in predictions]))

    everything = np.arange(len(labels))
    drawn = [draws.integers(0, len(labels), len(labels)) for _ in range(resamples)]
    values = {name: mean(predictions, everything) for name, predictions in arms.items()}
    return values, {name: np.array([mean(predictions, rows) for rows in drawn]) for name, predictions in arms.items()}


def difference(one: str, other: str, values: Mapping[str, float], resampled: Mapping[str, NDArray[np.float64]]) -> Estimate:
    """Return the score of arm `one` less that of arm `other`, with the interval of the paired differences."""
    return estimate(values[one] - values[other], resampled[one] - resampled[other])
