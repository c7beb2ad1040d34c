"""What protects patients beside the search for copies: quarantine, the table that is released, attacks on it, re-identification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.gates import disclosure
from medpipe.gates.measured import Measured
from medpipe.gates.verdict import Verdict
from medpipe.release import refill


@dataclass(frozen=True)
class Guarded:
    """Verdicts, tables and gaps for the Report; which rows a release would take; columns for `images.parquet`."""

    verdicts: list[Verdict]
    tables: list[dict[str, Any]]
    gaps: list[dict[str, str]]
    selection: refill.Selection
    columns: dict[str, list[str]]


def assess(measured: Measured, withheld: NDArray[np.bool_]) -> Guarded:
    """Judge the table as it would be released: without the images `withheld`, spare ones in their places, small cells hidden."""
    facts = measured.cohort.facts
    selection = refill.select(measured.index, withheld, refill.asked(facts), measured.covariates)
    table = measured.table()
    released = disclosure.without(measured.index, table.hidden).iloc[selection.rows]
    attacked, attacks, unsure = measured.attacks(released)
    patients = measured.patients()
    gaps = [*table.gaps, *unsure]
    if patients.gap is not None:
        gaps.append({"what": "re-identification of a patient", "why": patients.gap})
    return Guarded(
        [*table.verdicts, *attacked, *([patients.verdict] if patients.verdict is not None else [])],
        [*([patients.table] if patients.table is not None else []), *table.tables, *attacks],
        gaps,
        selection,
        {"hidden": table.hidden} if table.hidden else {},
    )
