"""Fairness: is the cohort as like, as useful and as frequent for every group of patients as it is for all?

Groups are the values of each categorical covariate, bands of each continuous one, the classes, and pairs of these where
there are images enough. Each is measured as the whole is, against real held-out images of the same group. A group that
is too small is listed as not assessed; it never passes in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.gates import copies, fidelity, fidelity_gate, utility
from medpipe.gates.features import SPACES
from medpipe.gates.fidelity_gate import Sample
from medpipe.gates.utility_gate import Predictions
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

GROUP_MIN = 40
"""Fewest images of a group, held out and synthetic, on which a figure rests."""
AGE_BANDS = (40.0, 65.0)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """One group of patients: which images of the Dataset and of the Cohort are of it."""

    name: str
    real: Mask
    made: Mask
    attribute: str = ""
    """The covariate, or "class", of which it is one value or band; empty for a pair."""


def find(
    real: pd.DataFrame, made: pd.DataFrame, covariates: Sequence[Mapping[str, Any]], classes: Sequence[str], train: Mask
) -> list[Group]:
    """Return the groups of the Dataset's index `real` and the Cohort's index `made`; `train` (N,) marks the training images."""
    by_attribute: dict[str, list[Group]] = {}
    if len(classes) > 1:
        by_attribute["class"] = [_equal("class", name, real["label"], made["label"]) for name in classes]
    for item in covariates:
        name = item["name"]
        if name not in real or name not in made:
            continue
        if item["kind"] == "categorical":
            by_attribute[name] = [_equal(name, value, real[name], made[name]) for value in item["values"]]
        else:
            by_attribute[name] = _bands(name, real[name], made[name], train)
    singles = [group for groups in by_attribute.values() for group in groups]
    pairs = [
        Group(f"{a.name}, {b.name}", a.real & b.real, a.made & b.made)
        for one, other in combinations(by_attribute.values(), 2)
        for a in one
        for b in other
    ]
    return singles + pairs


def _equal(name: str, value: str, real: pd.Series[Any], made: pd.Series[Any]) -> Group:
    said = value if name != "class" and value.casefold().startswith(name.casefold()) else f"{name} {value}"  # sites are called "site-…"
    return Group(said, (real == value).fillna(False).to_numpy(bool), (made == value).fillna(False).to_numpy(bool), name)


def _bands(name: str, real: pd.Series[Any], made: pd.Series[Any], train: Mask) -> list[Group]:
    """Cut a continuous covariate: ages at 40 and 65, others at thirds of the training images, rounded so that no value is told."""
    ours, theirs = (column.to_numpy(np.float64, na_value=np.nan) for column in (real, made))
    known = ours[train & np.isfinite(ours)]
    if len(known) < 2 or not known.std():
        return []
    step = float(f"{known.std() / 2:.1g}")
    cuts = (
        AGE_BANDS
        if name.casefold() in ("age", "patientage")
        else sorted({step * round(x / step) for x in np.quantile(known, [1 / 3, 2 / 3])})
    )
    edges = [-math.inf, *cuts, math.inf]
    found = []
    for low, high in pairwise(edges):
        said = f"below {high:g}" if low == -math.inf else f"from {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        found.append(Group(f"{name} {said}", (ours >= low) & (ours < high), (theirs >= low) & (theirs < high), name))
    return found


@dataclass(frozen=True)
class Evidence:
    """What is compared: the embedded samples with their rows in the indices, and the probabilities on real test images."""

    samples: Mapping[str, tuple[Sample, NDArray[np.int64]]]
    """train, holdout, cohort: the Sample and the rows it holds."""
    arms: Mapping[str, Predictions]
    """real, synthetic: probabilities (N, classes) of each classifier for the test images."""
    tested: NDArray[np.int64]
    truth: NDArray[np.int64]  # (N,) class numbers of the test images
    withheld: Mask
    expected: Mapping[str, float]
    """Group to the share it should have in the cohort."""


def assess(groups: Sequence[Group], evidence: Evidence, settings: GatesSettings, seed: int) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """Judge the worst group by likeness, use and frequency; return the verdicts and one row of figures per group that was assessed.

    Groups that are too small come with no figure but `assessed` false; pairs that are too small are left out.
    """
    rows = []
    for group in groups:
        row = _figures(group, evidence, settings, seed)
        if row["assessed"] or ", " not in group.name:
            rows.append(row)
    verdicts = [_worst(rows, *figure) for figure in _figures_of(settings)]
    return [verdict for verdict in verdicts if verdict is not None], rows


def _figures_of(settings: GatesSettings) -> list[tuple[str, str, float, str]]:
    """Name of the verdict, figure of a row, bound and meaning."""
    return [
        (
            "fairness_likeness",
            "frechet_over_bound",
            1.0,
            "Fréchet distance, in the worst of the three spaces, of the synthetic images of the group that fares worst to its training "
            "images, in units of what its own real held-out patients allow",
        ),
        (
            "fairness_utility",
            "utility_gap",
            settings.fairness_utility_gap_max,
            "How much more a classifier loses on the real patients of the group that fares worst, by training on synthetic "
            "images, than it loses on all patients",
        ),
        (
            "fairness_share",
            "share_gap",
            settings.fairness_share_gap_max,
            "How far the share of the group that is most over- or under-represented lies from its share among the patients trained on",
        ),
    ]


def _worst(rows: Sequence[dict[str, Any]], name: str, figure: str, bound: float, meaning: str) -> Verdict | None:
    """Judge the largest of one figure; None where no group has it."""
    found = [row for row in rows if row["assessed"] and row[figure] is not None]
    if not found:
        return None
    worst = max(found, key=lambda row: -math.inf if math.isnan(row[figure]) else row[figure])
    value = math.nan if any(math.isnan(row[figure]) for row in found) else float(worst[figure])
    low, high = worst.get(f"{figure}_interval") or (value, value)
    text = f"{meaning} ({worst['group']}; {len(found)} groups)."
    return judge(
        name,
        "fairness",
        value,
        (low, high),
        bound=bound,
        direction="at most",
        baseline=worst.get(f"{figure}_real", 0.0),
        n=worst["synthetic"],
        meaning=text,
    )


def _figures(group: Group, evidence: Evidence, settings: GatesSettings, seed: int) -> dict[str, Any]:
    parts = {
        what: sample.take(np.flatnonzero((group.made if what == "cohort" else group.real)[rows]).astype(np.int64))
        for what, (sample, rows) in evidence.samples.items()
    }
    synthetic = int(group.made.sum())
    row: dict[str, Any] = {"group": group.name, "synthetic": synthetic, "assessed": False}
    shares = fidelity_gate.mix(parts["holdout"], parts["train"], parts["cohort"]) if len(parts["holdout"]) else {}
    n = fidelity_gate.size(shares, *parts.values()) if shares else 0
    if min(len(parts["holdout"]), synthetic) < GROUP_MIN or n < fidelity_gate.SMALLEST:
        return row
    share, copied = synthetic / len(group.made), int(evidence.withheld[group.made].sum())
    row |= {"assessed": True, "copies": copied / synthetic, "copies_interval": copies.clopper_pearson(copied, synthetic)}
    row |= {"share": share, "share_interval": copies.clopper_pearson(synthetic, len(group.made))}
    row |= _likeness(parts, shares, n, settings, seeds.generator(seed, "gates", "fairness", group.name))
    row |= _use(group, evidence, settings, seeds.generator(seed, "gates", "fairness", "utility", group.name))
    expected = evidence.expected.get(group.name)
    row |= {"expected_share": expected, "share_gap": None if expected is None else abs(share - expected)}
    return row


def _likeness(
    parts: Mapping[str, Sample], shares: Mapping[int, float], n: int, settings: GatesSettings, draws: np.random.Generator
) -> dict[str, Any]:
    """Compare the group's synthetic and held-out images with its training images, at equal size and mix of classes; in the worst space."""
    weights = np.zeros(len(parts["train"]))
    for number, share in shares.items():
        here = parts["train"].strata == number
        weights[here] = share / here.sum()
    wholes = {space: fidelity.moments(parts["train"].features[space], weights) for space in SPACES}
    drawn: dict[str, list[Sample]] = {"holdout": [], "cohort": []}
    for _ in range(settings.resamples):
        for what, samples in drawn.items():
            samples.append(fidelity_gate.draw(parts[what], shares, n, draws))
    worst: dict[str, Any] = {}
    for space in SPACES:
        found = {
            what: [fidelity.frechet(wholes[space], fidelity.moments(sample.features[space])) for sample in samples]
            for what, samples in drawn.items()
        }
        real, *_ = fidelity.spread(found["holdout"])
        value, low, high = fidelity.spread(found["cohort"])
        bound = max(settings.frechet_ratio_max * real, max(found["holdout"]))  # of many groups the worst is judged: no tail is too far
        if not worst or not value / bound <= worst["frechet_over_bound"]:  # NaN is the worst
            worst = {
                "frechet_over_bound": value / bound,
                "frechet_over_bound_interval": (low / bound, high / bound),
                "frechet_over_bound_real": real / bound,
            }
    return worst


def _use(group: Group, evidence: Evidence, settings: GatesSettings, draws: np.random.Generator) -> dict[str, Any]:
    """Compare what training on synthetic images costs on the group's real test images with what it costs on all."""
    nothing = {"auc_real": None, "auc_real_interval": None, "auc_synthetic": None, "auc_synthetic_interval": None, "utility_gap": None}
    mine = np.flatnonzero(group.real[evidence.tested])
    counts = np.bincount(evidence.truth[mine]) if len(mine) else np.array([0])
    if len(mine) < GROUP_MIN or (counts >= 10).sum() < 2 or not evidence.arms.get("real") or not evidence.arms.get("synthetic"):
        return nothing

    def mean(arm: str, rows: NDArray[np.int64]) -> float:
        return float(np.mean([utility.auc(predicted[rows], evidence.truth[rows]) for predicted in evidence.arms[arm]]))

    everyone = np.arange(len(evidence.truth))
    of_all = mean("real", everyone) - mean("synthetic", everyone)
    drawn = [draws.choice(mine, len(mine)) for _ in range(settings.resamples)]
    of_mine = {arm: np.array([mean(arm, some) for some in drawn]) for arm in ("real", "synthetic")}
    gap = of_mine["real"] - of_mine["synthetic"] - of_all
    real, synthetic = mean("real", mine), mean("synthetic", mine)
    return {
        "auc_real": real,
        "auc_real_interval": _interval(of_mine["real"]),
        "auc_synthetic": synthetic,
        "auc_synthetic_interval": _interval(of_mine["synthetic"]),
        "utility_gap": real - synthetic - of_all,
        "utility_gap_interval": _interval(gap),
    }


def _interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def expected(
    groups: Sequence[Group],
    train: Mask,
    real_strata: NDArray[np.int64],
    made_strata: NDArray[np.int64],
    balanced: Mapping[int, Sequence[Mask]] | None = None,
) -> dict[str, float]:
    """Return the share each group should have in the cohort: that of the training images of each class, at the cohort's mix of classes.

    A cohort that was asked to be balanced by class so has the training data's sexes and sites within each class. `balanced` says
    for a class which of its training images have each value of a covariate that was asked to be equally frequent.
    """
    out = {}
    for group in groups:
        total = 0.0
        for number, count in zip(*np.unique(made_strata, return_counts=True), strict=True):
            parts = (balanced or {}).get(int(number)) or [train & (real_strata == number)]
            within = [float(group.real[part].mean()) if part.any() else math.nan for part in parts]
            total += (count / len(made_strata)) * float(np.mean(within))
        if not group.name.startswith("class ") and math.isfinite(total):
            out[group.name] = total
    return out
