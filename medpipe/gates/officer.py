"""What a data-protection officer has to know, in plain sentences: what was attacked, how strongly, what was found, what was not tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medpipe.release.charts import number

PRIVATE = ("membership", "re-identif", "disclosure", "attacks on", "copies", "mask", "consent", "too good")
"""Words by which a gap is known to be about patients."""


def section(report: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the section of `report` (`report.json`): one row for each attack, one for each that was not tried.

    A row has `what`, `strength` (what the attack was seen to find where the truth is known), `found`, and `state` (passed, failed).
    """
    verdicts = [verdict for verdict in report["verdicts"] if verdict["kind"] == "privacy"]
    detector = _detector(report.get("copy_detector", []))
    attacks = [
        {
            "what": str(verdict["name"]).replace("_", " "),
            "meaning": verdict["meaning"],
            "strength": detector if str(verdict["name"]).startswith("cop") else None,
            "found": _found(verdict),
            "state": "passed" if verdict["passed"] else "failed",
        }
        for verdict in verdicts
    ]
    gaps = [gap for gap in report["not_assessed"] if any(word in gap["what"] for word in PRIVATE)]
    passed = sum(bool(verdict["passed"]) for verdict in verdicts)
    return {
        "summary": f"{passed} of {len(verdicts)} measurements of what the cohort could tell about a patient are within their bounds; "
        f"{len(gaps)} questions were not answered by a measurement.",
        "attacks": attacks,
        "not_assessed": [{"what": gap["what"], "why": gap["why"]} for gap in gaps],
    }


def _found(verdict: Mapping[str, Any]) -> str:
    """Say what was found beside what is allowed."""
    value, low, high, baseline = (verdict[name] for name in ("value", "low", "high", "baseline"))
    if value is None:
        return "It could not be measured, which counts as failed."
    interval = (
        f" (95 % interval {number(low)} to {number(high)})"
        if low is not None and high is not None and (low, high) != (value, value)
        else ""
    )
    held = f"; held-out patients: {number(baseline)}" if baseline is not None and math.isfinite(baseline) else ""
    return f"{number(value)}{interval}, allowed is {verdict['direction']} {number(verdict['bound'])}{held}."


def _detector(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Say how many kinds of planted copies were found, and which is found worst."""
    known = [row for row in rows if row.get("recall") is not None]
    if not known:
        return None
    good = sum(row["recall"] >= 0.95 for row in known)
    worst = min(known, key=lambda row: float(row["recall"]))
    return (
        f"Of {len(known)} kinds of copies planted among the candidates, {good} were found in 95 % of cases or more; "
        f"found worst: {str(worst['what']).replace('_', ' ')}, {100 * worst['recall']:.0f} %."
    )
