"""The verdicts on copies: what the scores of the cohort mean beside those of real held-out patients and of planted copies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.gates import copies
from medpipe.gates.alignment import MEASURES, Measures
from medpipe.gates.copies import Scores
from medpipe.gates.copy_rule import CopyRule
from medpipe.gates.table import table as figures
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

HOLDOUT_MIN = 50
"""Fewer held-out images than this set no threshold: the cohort cannot be certified."""
UNCERTIFIED = f"Cannot be certified: fewer than {HOLDOUT_MIN} real images were held out to compare with."
RULES = ("copy_likelihood", "aligned_correlation")
"""Scores that have a limit each: the learned one, and the plain correlation, which no learning can spoil."""
LEVELS = (0.9, 0.1)
"""Part of the false-positive level that each may use."""
SHOWN = ("pixel_ratio", "information", "next_all", "half", "votes_scale", "patch_scale")
"""Measures that stand in images.parquet beside them."""
FOLDS = 5


@dataclass(frozen=True)
class Found:
    """What the search for copies found."""

    verdicts: list[Verdict]
    withheld: NDArray[np.bool_]  # (N,) of the cohort
    reasons: list[str]  # (N,), "" where not withheld
    detector: list[dict[str, Any]]
    """One row per family of planted copies: {"what", "recall", "low", "high", "n", "required"}."""
    scores: Scores
    """(N, rules) of the cohort."""
    false_alarms: dict[str, Any]
    """A table: how often held-out images that set no limit were called copies."""


def assess(
    cohort: Measures,
    exact: NDArray[np.bool_],
    real: Measures,
    planted: Mapping[str, tuple[Measures, NDArray[np.bool_]]],
    rule: CopyRule,
    settings: GatesSettings,
    patients: NDArray[Any] | None = None,
) -> Found:
    """Judge the measures of the cohort (N, measures).

    `exact` (N,) says which images have a training image's digest, `real` are the measures of held-out images (of the `patients`, or
    each of its own), `planted` holds for each family of copies the measures and the exact matches; `rule` weighs the measures.
    """
    certifiable = len(real) >= HOLDOUT_MIN
    scores, held = scored(cohort, rule), scored(real, rule)
    limits = limits_on(held, settings.copy_false_positive) if certifiable else np.full(len(RULES), math.nan)
    near = copies.flagged(scores, limits) if certifiable else ~np.isfinite(scores).all(axis=1)
    detector = [_recall(family, scored(found, rule), same, limits) for family, (found, same) in planted.items()]
    near = np.asarray(near, dtype=np.bool_)
    withheld = np.logical_or(near, exact)
    reasons = ["exact_copy" if same else "near_copy" if alike else "" for same, alike in zip(exact.tolist(), near.tolist(), strict=True)]
    people = np.arange(len(real)) if patients is None else patients
    called = _called(held, people, settings.copy_false_positive) if certifiable else 0
    verdicts = [_exact(exact), _near(withheld, called, len(real), settings, certifiable), _self_test(detector, settings.copy_recall_min)]
    return Found(verdicts, withheld, reasons, detector, scores, _false_alarms(called, len(real), settings, certifiable))


def scored(measures: Measures, rule: CopyRule) -> Scores:
    """Turn measures (N, measures) into the scores (N, rules) that have limits."""
    return np.stack([rule(measures), measures[:, MEASURES.index("aligned_correlation")]], 1)


def limits_on(real: Scores, share: float) -> Scores:
    """Set the limits on the scores (N, rules) of held-out images so that at most about `share` of them is called a copy."""
    return np.concatenate([copies.thresholds(real[:, [rule]], share * level) for rule, level in enumerate(LEVELS)])


def _called(real: Scores, patients: NDArray[Any], share: float) -> int:
    """Count the held-out images that are called copies by limits set on four fifths of the patients, who are not theirs."""
    _, person = np.unique(patients, return_inverse=True)
    fold = (person if person.max(initial=0) >= FOLDS else np.arange(len(real))) % FOLDS  # of too few patients images are taken
    return sum(int(copies.flagged(real[fold == k], limits_on(real[fold != k], share)).sum()) for k in range(FOLDS))


def _false_alarms(called: int, n: int, settings: GatesSettings, certifiable: bool) -> dict[str, Any]:
    low, high = copies.clopper_pearson(called, n)
    return figures(
        "False alarms of the search for copies",
        "Share of held-out real images that are called near copies by limits set on other held-out patients, with its 95 % interval; "
        "the limits aim at the stated level.",
        ("images", "share", "low", "high", "stated level"),
        [("held-out images", called / n, low, high, settings.copy_false_positive)] if certifiable else [],
    )


def _recall(family: str, scores: Scores, same: NDArray[np.bool_], limits: Scores) -> dict[str, Any]:
    """Count the copies found; an exact or mirrored one must be found by its digest and by its likeness."""
    alike = copies.flagged(scores, limits) & np.isfinite(limits).all()
    hits = int((alike & same if family in ("exact", "mirrored") else alike).sum())
    low, high = copies.clopper_pearson(hits, len(scores))
    recall = hits / len(scores) if len(scores) else 0.0
    return {"what": family, "recall": recall, "low": low, "high": high, "n": len(scores), "required": family in copies.REQUIRED}


def _exact(exact: NDArray[np.bool_]) -> Verdict:
    count, n = int(exact.sum()), len(exact)
    return judge(
        "copies_exact",
        "privacy",
        float(count),
        (float(count), float(count)),
        bound=0,
        direction="at most",
        baseline=0,
        n=n,
        meaning="Synthetic images that are a training image pixel for pixel, also when mirrored or turned by a quarter: there may be none.",
    )


def _near(near: NDArray[np.bool_], called: int, real: int, settings: GatesSettings, certifiable: bool) -> Verdict:
    """The bound is what held-out images may reach, at the upper end of their own interval, plus the excess that is allowed:
    the fewer were held out, the less their threshold is worth."""
    hits, n = int(near.sum()), len(near)
    share = hits / n if certifiable and n else math.nan
    return judge(
        "copies_near",
        "privacy",
        share,
        copies.clopper_pearson(hits, n),
        bound=max(settings.copy_false_positive, copies.clopper_pearson(called, real)[1]) + settings.copy_excess_max,
        direction="at most",
        baseline=called / real if certifiable else math.nan,
        n=n,
        meaning="Share of synthetic images that match a training image more closely than images of other real patients do; "
        "they are withheld, and too many of them mean that the model itself repeats patients."
        if certifiable
        else UNCERTIFIED,
        on="interval",
    )


def _self_test(detector: list[dict[str, Any]], recall_min: float) -> Verdict:
    """The weakest required family decides; one missed exact copy fails whatever the rest reach."""
    required = [row for row in detector if row["required"]]
    weakest = min(required, key=lambda row: row["recall"], default=None)
    missed = any(row["what"] == "exact" and row["recall"] != 1 for row in required) or len(required) < len(copies.REQUIRED)
    value = 0.0 if missed or weakest is None else float(weakest["recall"])
    return judge(
        "copy_detector_self_test",
        "privacy",
        value,
        (weakest["low"], weakest["high"]) if weakest and not missed else (0.0, 0.0),
        bound=recall_min,
        direction="at least",
        baseline=1.0,
        n=sum(row["n"] for row in required),
        meaning="Share of known copies, hidden among the candidates, that the detector found in the kind it finds worst"
        + (f" ({weakest['what']})" if weakest else "")
        + ": a detector that misses what was planted proves nothing.",
    )


def table(found: Found, measures: Measures) -> dict[str, Any]:
    """Return the columns of images.parquet; a neighbour is never named."""
    columns: dict[str, Any] = {
        "row": np.arange(len(measures), dtype=np.int64),
        "withheld": found.withheld,
        "reason": [reason or None for reason in found.reasons],
    }
    columns |= {name: np.round(found.scores[:, number], 4) for number, name in enumerate(RULES)}
    return columns | {name: np.round(measures[:, MEASURES.index(name)], 4) for name in SHOWN}
