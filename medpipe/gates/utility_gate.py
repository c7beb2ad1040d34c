"""The verdict on use: a classifier that never saw a patient, on real patients, beside one that was trained on patients."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.gates import utility
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

Predictions = list[NDArray[np.float32]]


def assess(real: Predictions, synthetic: Predictions, labels: NDArray[np.int64], settings: GatesSettings, seed: int) -> Verdict:
    """Judge the probabilities (N, classes) that the classifiers of the two arms give for N real test images."""
    if not real or not synthetic:
        value = low = high = baseline = math.nan
    else:
        baseline, *_ = utility.intervals(real, labels, settings.resamples, seeds.generator(seed, "gates", "utility", "test"))
        value, low, high = utility.intervals(synthetic, labels, settings.resamples, seeds.generator(seed, "gates", "utility", "test"))
    return judge(
        "utility",
        "utility",
        value,
        (low, high),
        bound=baseline - settings.utility_drop_max,
        direction="at least",
        baseline=baseline,
        n=len(labels),
        meaning="How well a classifier trained on synthetic images alone tells the classes of real patients apart "
        "(AUC: 1 always, 0.5 by chance), beside one trained on as many real images."
        if real and synthetic
        else "Cannot be certified: the real test images do not hold two classes.",
    )
