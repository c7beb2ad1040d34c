"""What a Report says: the verdicts, what they rest on, and what was not assessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medpipe import consent
from medpipe.gates import copy_gate, distributions, selftest
from medpipe.gates.measured import Measured
from medpipe.gates.verdict import Verdict

NOT_ASSESSED = (
    (
        "covariates",
        "Whether an image shows the age, sex or other covariate that it was asked to show: none was asked for, or a reader trained on real "
        "images does not find it in real images either.",
    ),
    (
        "stronger membership attacks",
        "Attackers who train models of their own on like images, or who know the training's randomness; those tried are in the tables.",
    ),
    (
        "heavily altered copies",
        "Copies by strong warps, of a small part of an image, or blended evenly: the detector's recall is listed by kind.",
    ),
    ("clinical truth", "No physician has looked at the images."),
)


MASKS = ("masks", "Whose shapes the masks are: those of a training split are of real patients.")


def report(
    measured: Measured,
    verdicts: list[Verdict],
    copied: copy_gate.Found,
    by_group: list[dict[str, Any]],
    tried: list[dict[str, Any]],
    tables: list[dict[str, Any]],
    more: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return `report.json`: every verdict and what it rests on, and what was not assessed."""
    cohort, data, cell = measured.cohort.facts, measured.data.facts, measured.recipe.gates.small_cell
    real = measured.data.index.iloc[measured.rows["train"]]
    asked = consent.evidence(cohort.get("consent"), cell)
    unknown = ("consent", consent.LEGAL if asked["checked"] else consent.NOT_CHECKED)
    shown = any(verdict.name == "condition_covariates" for verdict in verdicts)
    general = [gap for gap in NOT_ASSESSED if gap[0] != "covariates" or not shown]
    gaps = [{"what": what, "why": why} for what, why in (*general, *more, unknown, *([MASKS] if cohort.get("masks") else []))]
    if not any(verdict.name == "utility" for verdict in verdicts):
        why = "The images have no classes to tell apart." if len(data["classes"]) < 2 else "The candidates came without classes."
        gaps.insert(0, {"what": "utility", "why": why})
    small = [row["group"] for row in by_group if not row["assessed"]]
    if small or not by_group:
        why = f"Too few images for a figure: {', '.join(small)}." if small else "Nothing is known of the patients but their images."
        gaps.insert(0, {"what": "fairness for some groups" if small else "fairness", "why": why})
    if not any(verdict.name == "outliers" for verdict in verdicts):
        why = "gates.outlier_false_positive is 0: nobody looked for images unlike any real one."
        gaps.insert(0, {"what": "single bad images", "why": why})
    if not any(verdict.name == "gates_self_test" for verdict in verdicts):
        why = f"Fewer than {2 * selftest.HALF_MIN} images were held out, or too few of a class, to judge one half of them by the other."
        gaps.insert(0, {"what": "the gates themselves", "why": why})
    curve = pd.read_parquet(measured.cohort.path / "training.parquet") if (measured.cohort.path / "training.parquet").exists() else None
    splits = distributions.suppressed(list(data["splits"].values()), cell)
    return {
        "passed": all(verdict.passed for verdict in verdicts),
        "verdicts": [verdict.as_json() for verdict in verdicts],
        "small_cell": cell,
        "baseline": measured.yardstick,
        "not_assessed": gaps,
        "consent": asked,
        "copy_detector": copied.detector,
        "gates_self_test": tried,
        "fairness": [row for row in by_group if row["assessed"]],
        "tables": tables,
        "distributions": distributions.all_of(measured.train, measured.scored, real, measured.index, measured.covariates, cell),
        "composition": distributions.composition(real["label"], measured.index["label"], measured.classes, cell),
        "cohort": {name: value for name, value in cohort.items() if name not in ("cost", "covariates", "consent")},
        "dataset": {name: data.get(name) for name in ("shape", "dtype", "dimensions", "classes", "modality", "spacing_mm", "licence")}
        | {"splits": dict(zip(data["splits"], splits, strict=True))},
        "training": {} if curve is None or curve.empty else {name: _number(curve[name].iloc[-1]) for name in curve.columns},
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
