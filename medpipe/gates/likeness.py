"""The likeness of one cohort, judged by the frozen yardstick: verdicts, outliers, and the tables of figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.gates import bands, conditions, fidelity, fidelity_gate, measures, outliers
from medpipe.gates.conditions import Reading, Targets
from medpipe.gates.frozen import ORDER, Frozen
from medpipe.gates.measures import BY_NAME, Sample
from medpipe.gates.table import table
from medpipe.gates.verdict import Verdict
from medpipe.settings import GatesSettings

BY_CLASS = ("frechet", "kid", "precision", "recall", "coverage")
"""Measures that are shown class by class."""
BY_CLASS_RESAMPLES = 20
COLUMNS = ("measure", "n", "synthetic", "95 % interval", "other real images", "95 % of these", "what it says")
OTHERS = {
    "frechet_infinity": "Fréchet distance extrapolated to endlessly many images: what is left of it when small samples are allowed for.",
    "similarity": "Structural similarity (MS-SSIM) of random pairs of one class: higher than that of real pairs means little variety.",
}


@dataclass(frozen=True)
class Judged:
    """What the gates on likeness say of a cohort."""

    verdicts: list[Verdict]
    outliers: NDArray[np.bool_]  # (N,) of the cohort
    readings: list[Reading] = field(default_factory=list)
    made: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    n: int = 0
    """Images of a resample, for `made`."""


def judge(
    frozen: Frozen,
    train: Sample,
    cohort: Sample,
    far: NDArray[np.float64],
    near: NDArray[np.float64],
    rows: NDArray[np.int64],
    truths: Targets,
    settings: GatesSettings,
    resamples: int,
    seed: int,
) -> Judged:
    """Judge a cohort: `cohort` is what was embedded of it, its `rows`; `far` and `near` say how far each of its images lies from training.

    A few odd images move a distance between distributions more than all others, and are withheld: the rest is compared, with real
    images that are not odd either. Where there are more of them than the gate on outliers allows, all are.
    """
    names = [space for space in ORDER if space in frozen.directions]
    nearer = outliers.too_near(names, near, frozen.arrays["near"], frozen.arrays["patients"])
    odd, out = outliers.assess(far, frozen.arrays["far"], frozen.arrays["limits"], settings)
    kept = np.flatnonzero(~out[rows]) if odd.passed else np.arange(len(cohort))
    compared = cohort.take(kept)
    made = fidelity_gate.figures(frozen.baseline, train, compared, resamples, seed)
    verdicts = fidelity_gate.verdicts(frozen.baseline, made, compared, settings, nearer)
    if settings.outlier_false_positive:
        verdicts.append(odd)
    judged = len(frozen.baseline.names) + 2
    readings = [
        conditions.read(probe, compared, truths[probe.name][1][kept], settings, judged, seed)
        for probe in frozen.probes
        if probe.name in truths
    ]
    n, _ = frozen.baseline.size_for(compared)
    return Judged([*verdicts, *conditions.verdicts(readings)], out, readings, made, n)


def tables(
    judged: Judged,
    frozen: Frozen,
    samples: dict[str, Sample],
    similar: dict[str, NDArray[np.float64]],
    classes: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Return the tables of the report: every measure, the conditions, the classes."""
    found = [_measures(judged, frozen, samples, similar, seed)]
    if judged.readings:
        found.append(_conditions(judged.readings))
    by_class = _by_class(samples, classes, seed)
    if by_class:
        columns = ("class and measure", "n", "synthetic", "95 % interval", "other real images", "95 % of these")
        sentence = "The main measures for each class alone, beside other real images of that class, as many and drawn alike."
        found.append(table("Likeness, class by class", sentence, columns, by_class))
    return found


def _cells(made: NDArray[np.float64], real: NDArray[np.float64]) -> list[str | float | None]:
    value, low, high = fidelity.spread(made.tolist())
    middle, least, most = fidelity.spread(real.tolist())
    return [value, _interval(low, high), middle, _interval(least, most)]


def _interval(low: float, high: float) -> str | None:
    return f"{low:.3g} to {high:.3g}" if math.isfinite(low) and math.isfinite(high) else None


def _measures(
    judged: Judged,
    frozen: Frozen,
    samples: dict[str, Sample],
    similar: dict[str, NDArray[np.float64]],
    seed: int,
) -> dict[str, Any]:
    n = judged.n
    rows: list[list[str | float | None]] = []
    for place, name in enumerate(frozen.baseline.names):
        if name in judged.made:
            rows.append([name, n, *_cells(judged.made[name], frozen.baseline.real[n][:, place]), BY_NAME[name].meaning])
    if n:
        whole = measures.moments(samples["train"], frozen.baseline.shares)["learned"]
        drawn = {what: np.array([_at_infinity(samples[what], frozen, whole, seed, k) for k in range(8)]) for what in ("cohort", "holdout")}
        rows.append(["frechet_infinity", n, *_cells(drawn["cohort"], drawn["holdout"]), OTHERS["frechet_infinity"]])
    pairs = {what: _means(values, seeds.generator(seed, "gates", "similarity", what)) for what, values in similar.items()}
    if len(pairs["cohort"]) and len(pairs["holdout"]):
        rows.append(["similarity", len(similar["cohort"]), *_cells(pairs["cohort"], pairs["holdout"]), OTHERS["similarity"]])
    sentence = (
        "Each figure is measured on as many images as n says, drawn again and again; beside it stands what held-out images of other real "
        "patients reach when they are drawn alike. Those with a bound are gates above; the others are for the reader."
    )
    return table("Likeness, measure by measure", sentence, COLUMNS, rows)


def _at_infinity(sample: Sample, frozen: Frozen, whole: tuple[NDArray[np.float64], NDArray[np.float64]], seed: int, number: int) -> float:
    """Extrapolate for one half of `sample`."""
    shares = bands.mix_of(frozen.baseline.shares, sample)
    draws = seeds.generator(seed, "gates", "infinity", number)
    some = bands.draw(sample, shares, bands.size(shares, sample), draws)
    return fidelity.frechet_at_infinity(whole, some.features["learned"], draws)


def _means(values: NDArray[np.float64], draws: np.random.Generator) -> NDArray[np.float64]:
    """Bootstrap the mean of `values`; empty where one is not a number."""
    if not len(values) or not np.isfinite(values).all():
        return np.empty(0)
    return np.array([values[draws.integers(0, len(values), len(values))].mean() for _ in range(200)])


def _conditions(readings: Sequence[Reading]) -> dict[str, Any]:
    rows: list[list[str | float | None]] = [
        [
            reading.probe.name,
            reading.n,
            reading.value,
            _interval(reading.low, reading.high),
            reading.probe.found,
            reading.bound if reading.assessed else None,
            ("correlation" if reading.probe.kind == "amount" else "AUC")
            + ("" if reading.assessed else "; not assessed: real images do not show it to this reader either"),
        ]
        for reading in readings
    ]
    columns = ("condition", "n", "synthetic", "95 % interval", "held-out real images", "at least", "what it is")
    sentence = (
        "How well a linear reader, trained on the real training images, finds in an image what it was asked to show. "
        "The lower end of the interval is judged."
    )
    return table("Do images show what they were asked to show?", sentence, columns, rows)


def _by_class(samples: dict[str, Sample], classes: Sequence[str], seed: int) -> list[list[str | float | None]]:
    rows: list[list[str | float | None]] = []
    for number, name in enumerate(classes):
        part = {what: sample.take(np.flatnonzero(sample.strata == number).astype(np.int64)) for what, sample in samples.items()}
        shares = {number: 1.0}
        n = min(256, bands.size(shares, *part.values()))
        if n < bands.SMALLEST:
            continue
        whole = {"learned": fidelity.moments(part["train"].features["learned"])}
        values = {
            what: bands.values(part["train"], part[what], shares, shares, whole, 0.0, n, BY_CLASS_RESAMPLES, seed)
            for what in ("cohort", "holdout")
        }
        rows += [[f"{name}: {measure}", n, *_cells(values["cohort"][measure], values["holdout"][measure])] for measure in BY_CLASS]
    return rows
