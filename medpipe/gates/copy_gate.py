"""The verdicts on copies: what the scores of the cohort mean beside those of real held-out patients and of planted copies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.gates import copies
from medpipe.gates.alignment import RULES
from medpipe.gates.copies import Scores
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

HOLDOUT_MIN = 50
"""Fewer held-out images than this set no threshold: the cohort cannot be certified."""
UNCERTIFIED = f"Cannot be certified: fewer than {HOLDOUT_MIN} real images were held out to compare with."


@dataclass(frozen=True)
class Found:
    """What the search for copies found."""

    verdicts: list[Verdict]
    withheld: NDArray[np.bool_]  # (N,) of the cohort
    reasons: list[str]  # (N,), "" where not withheld
    detector: list[dict[str, Any]]
    """One row per family of planted copies: {"what", "recall", "low", "high", "n", "required"}."""


def assess(
    cohort: Scores,
    exact: NDArray[np.bool_],
    real: Scores,
    planted: Mapping[str, tuple[Scores, NDArray[np.bool_]]],
    settings: GatesSettings,
) -> Found:
    """Judge the copy scores of the cohort (N, rules).

    `exact` (N,) says which images have a training image's digest, `real` are the scores of held-out images, `planted`
    holds for each family of copies the scores and the exact matches.
    """
    certifiable = len(real) >= HOLDOUT_MIN
    limits = copies.thresholds(real, settings.copy_false_positive) if certifiable else np.full(cohort.shape[1], math.nan)
    near = copies.flagged(cohort, limits) if certifiable else ~np.isfinite(cohort).all(axis=1)
    detector = [_recall(family, scores, same, limits) for family, (scores, same) in planted.items()]
    near = np.asarray(near, dtype=np.bool_)
    withheld = np.logical_or(near, exact)
    reasons = ["exact_copy" if same else "near_copy" if alike else "" for same, alike in zip(exact.tolist(), near.tolist(), strict=True)]
    verdicts = [_exact(exact), _near(withheld, real, limits, settings, certifiable), _self_test(detector, settings.copy_recall_min)]
    return Found(verdicts, withheld, reasons, detector)


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


def _near(near: NDArray[np.bool_], real: Scores, limits: Scores, settings: GatesSettings, certifiable: bool) -> Verdict:
    """The bound is what held-out images may reach, at the upper end of their own interval, plus the excess that is allowed:
    the fewer were held out, the less their threshold is worth."""
    hits, n = int(near.sum()), len(near)
    share = hits / n if certifiable and n else math.nan
    called = int(copies.flagged(real, limits).sum()) if certifiable else 0
    return judge(
        "copies_near",
        "privacy",
        share,
        copies.clopper_pearson(hits, n),
        bound=max(settings.copy_false_positive, copies.clopper_pearson(called, len(real))[1]) + settings.copy_excess_max,
        direction="at most",
        baseline=called / len(real) if certifiable else math.nan,
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


def table(found: Found, scores: Scores) -> dict[str, Any]:
    """Return the columns of images.parquet; a neighbour is never named."""
    columns: dict[str, Any] = {
        "row": np.arange(len(scores), dtype=np.int64),
        "withheld": found.withheld,
        "reason": [reason or None for reason in found.reasons],
    }
    return columns | {name: np.round(scores[:, number], 4) for number, name in enumerate(RULES)}
