"""Conditional fidelity: do the images show what they were asked to show?

A linear model on the features of the gates learns from the training images to tell the class and each covariate. It
reads held-out images, then synthetic ones: where it finds the request as well in both, the condition was met. Labels that
were swapped show here, image by image.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from medpipe import seeds
from medpipe.gates import utility
from medpipe.gates.copy_gate import HOLDOUT_MIN
from medpipe.gates.measures import Sample
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

Values = NDArray[np.float64]
FOUND_MIN = {"classes": 0.6, "amount": 0.2}
"""What real held-out images must reach, at the lower end of the interval, for a condition to be found in images at all."""
RESAMPLES = 200
CLASS = "class"


@dataclass(frozen=True)
class Probe:
    """A linear reader of one condition: of `values` by name, or of an amount where there are none."""

    name: str
    values: tuple[str, ...]
    weights: Values  # (outputs, d)
    offsets: Values  # (outputs,)
    held: Values
    """What it finds in held-out images, over resamples: AUC, or correlation of an amount."""
    found: float
    n: int
    """Held-out images with a known value."""

    @property
    def kind(self) -> Literal["classes", "amount"]:
        return "classes" if self.values else "amount"

    def read(self, inputs: Values) -> Values:
        """Return the class scores (N, classes), or the amount (N, 1), for inputs (N, d)."""
        return np.asarray(inputs @ self.weights.T + self.offsets)

    def score(self, inputs: Values, truth: Values, draws: np.random.Generator) -> tuple[float, Values, int]:
        """Return how well the true values (N,) are found, the same over resamples of images, and how many values are known."""
        known = np.isfinite(truth)
        read, truth = self.read(inputs[known]), truth[known]
        n = len(truth)
        rows = [draws.integers(0, n, n) for _ in range(RESAMPLES if n else 0)]
        return self._agreement(read, truth), np.array([self._agreement(read[some], truth[some]) for some in rows]), n

    def _agreement(self, read: Values, truth: Values) -> float:
        if self.kind == "classes":
            return utility.auc(read, truth.astype(np.int64))
        return float(np.corrcoef(read[:, 0], truth)[0, 1]) if len(truth) > 2 and truth.std() > 0 and read.std() > 0 else math.nan


def inputs(sample: Sample) -> Values:
    """Join the spaces of `sample`: (N, d)."""
    return np.concatenate([sample.features[space] for space in sorted(sample.features)], axis=1)


def targets(
    strata: NDArray[np.int64], classes: Sequence[str], index: pd.DataFrame | None, covariates: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[tuple[str, ...], Values]]:
    """Return the conditions that images have: name to the values it may take (none for an amount) and that of each image, NaN
    where it is not known; of a class or category its number."""
    found: dict[str, tuple[tuple[str, ...], Values]] = {}
    if len(classes) > 1:
        found[CLASS] = (tuple(classes), np.where(strata >= 0, strata, np.nan).astype(np.float64))
    for item in covariates if index is not None else ():
        column = index[item["name"]] if index is not None and item["name"] in index else None
        if column is None:
            continue
        if item["kind"] == "continuous":
            found[item["name"]] = ((), column.to_numpy(np.float64, na_value=np.nan))
        elif len(values := item.get("values", ())) > 1:
            places = {value: float(number) for number, value in enumerate(values)}
            found[item["name"]] = (tuple(values), column.map(places).to_numpy(np.float64, na_value=np.nan))
    return found


Targets = Mapping[str, tuple[tuple[str, ...], Values]]


def fit(train: Sample, held: Sample, of_train: Targets, of_held: Targets, seed: int) -> list[Probe]:
    """Learn each condition from the training images and see how well it is found in held-out ones."""
    if len(held) < HOLDOUT_MIN or not len(train):
        return []
    seen, fresh, probes = inputs(train), inputs(held), []
    for name, (values, truth) in of_train.items():
        known = np.isfinite(truth)
        if known.sum() < HOLDOUT_MIN or np.isfinite(of_held[name][1]).sum() < HOLDOUT_MIN or len(np.unique(truth[known])) < 2:
            continue
        weights, offsets = _classes(seen[known], truth[known], len(values)) if values else _amount(seen[known], truth[known])
        blank = Probe(name, values, weights, offsets, np.empty(0), math.nan, 0)
        found, resampled, n = blank.score(fresh, of_held[name][1], seeds.generator(seed, "gates", "condition", name))
        probes.append(Probe(name, values, weights, offsets, resampled, found, n))
    return probes


def _classes(seen: Values, truth: Values, count: int) -> tuple[Values, Values]:
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged reads a little worse, of real and synthetic images alike
        model = LogisticRegression(C=0.1, max_iter=200).fit(seen, truth.astype(np.int64))
    weights, offsets = np.zeros((count, seen.shape[1])), np.full(count, -1e9)
    rows, shift = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        rows, shift = np.concatenate([-rows, rows]) / 2, np.concatenate([-shift, shift]) / 2
    weights[model.classes_], offsets[model.classes_] = rows, shift
    return weights, offsets


def _amount(seen: Values, truth: Values) -> tuple[Values, Values]:
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=np.logspace(-1, 4, 11)).fit(seen, truth)
    return np.asarray(model.coef_, dtype=np.float64)[None], np.array([float(model.intercept_)])


def as_arrays(probes: Sequence[Probe]) -> dict[str, NDArray[Any]]:
    """Return everything as arrays, to be stored and digested."""
    said = [[probe.name, list(probe.values), probe.found if math.isfinite(probe.found) else None, probe.n] for probe in probes]
    arrays: dict[str, NDArray[Any]] = {"probes": np.array([json.dumps(said)], dtype=np.str_)}
    for number, probe in enumerate(probes):
        arrays |= {f"probe-{number}-{part}": getattr(probe, part) for part in ("weights", "offsets", "held")}
    return arrays


def of_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Probe]:
    """Return what `as_arrays` stored."""
    found = []
    for number, (name, values, reached, n) in enumerate(json.loads(str(arrays["probes"][0]))):
        weights, offsets, held = (arrays[f"probe-{number}-{part}"] for part in ("weights", "offsets", "held"))
        found.append(Probe(name, tuple(values), weights, offsets, held, math.nan if reached is None else reached, n))
    return found


@dataclass(frozen=True)
class Reading:
    """How well one condition is found in the cohort, beside held-out images."""

    probe: Probe
    value: float
    low: float
    high: float
    bound: float
    n: int
    assessed: bool
    """Whether real images show it at all."""

    @property
    def passed(self) -> bool:
        return bool(self.low >= self.bound)


def read(probe: Probe, cohort: Sample, truth: Values, settings: GatesSettings, judged: int, seed: int) -> Reading:
    """Read the condition off the cohort; the bound is on the lower end of the interval.

    It lies below what held-out images reach by what the recipe allows, or by what chance does at the level of one of `judged` gates.
    """
    draws = seeds.generator(seed, "gates", "condition", "cohort", probe.name)
    value, resampled, n = probe.score(inputs(cohort), truth, draws)
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) > RESAMPLES // 2 else (math.nan, math.nan)
    held = probe.held[np.isfinite(probe.held)]
    spread = float(held.std(ddof=1)) if len(held) > RESAMPLES // 2 else math.nan
    error = spread * math.sqrt(1 + probe.n / max(n, 1))
    reach = float(stats.norm.ppf(1 - settings.family_level / (2 * judged)))
    allowed = settings.condition_drop_max if probe.name == CLASS else settings.covariate_drop_max
    bound = probe.found - 1.96 * spread * math.sqrt(probe.n / max(n, 1)) - max(allowed, reach * error)
    assessed = bool(len(held) and np.percentile(held, 2.5) >= FOUND_MIN[probe.kind])
    return Reading(probe, value, float(low), float(high), bound, n, assessed)


def verdicts(readings: Sequence[Reading]) -> list[Verdict]:
    """Judge the class, and the covariate that fares worst of those that real images show."""
    by_class = [reading for reading in readings if reading.probe.name == CLASS and reading.assessed]
    others = [reading for reading in readings if reading.probe.name != CLASS and reading.assessed]
    found = [_verdict("condition_label", reading, "Class") for reading in by_class]
    if others:
        worst = min(others, key=lambda one: one.low - one.bound if math.isfinite(one.low - one.bound) else -math.inf)
        found.append(_verdict("condition_covariates", worst, f"Covariate found worst ({worst.probe.name}, of {len(others)})"))
    return found


def _verdict(name: str, reading: Reading, what: str) -> Verdict:
    unit = "AUC: 1 always, 0.5 by chance" if reading.probe.kind == "classes" else "correlation: 1 exactly, 0 by chance"
    return judge(
        name,
        "fidelity",
        reading.value,
        (reading.low, reading.high),
        bound=reading.bound,
        direction="at least",
        baseline=reading.probe.found,
        n=reading.n,
        meaning=f"{what}: how well a reader trained on real images finds in the synthetic ones what they were asked to show ({unit}).",
        on="interval",
    )
