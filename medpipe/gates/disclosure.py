"""Disclosure control of the table that is released with the images: which values it may tell of a synthetic subject.

A combination of covariates (continuous ones in bands) is told only where at least `gates.small_cell` training patients share it
(k-anonymity; Sweeney 2002) and their classes differ (l-diversity; Machanavajjhala et al. 2007), since a rare combination, drawn by a
model that learned it from one person, would say that this person is there. Where it is not so, covariates of that row are
hidden one after the other, each time the one whose absence leaves the most patients. That hides combinations of nobody like those of
few, so that what is hidden does not tell which of the two it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from medpipe import identifiers
from medpipe.gates.table import table
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

AGE_BANDS = (18.0, 40.0, 65.0, 80.0)
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What the table of a cohort may tell."""

    verdicts: list[Verdict]
    hidden: list[str]
    """For each row of the Cohort the covariates to hide, joined by commas; empty where there are no covariates at all."""
    tables: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[dict[str, str]] = field(default_factory=list)


def cuts(name: str, known: NDArray[np.float64]) -> list[float]:
    """Return where a continuous covariate is cut into bands: ages at 18, 40, 65, 80; others at thirds, rounded to tell no value."""
    if name.casefold() in ("age", "patientage"):
        return list(AGE_BANDS)
    known = known[np.isfinite(known)]
    if len(known) < 2 or not known.std():
        return []
    step = float(f"{known.std() / 2:.1g}")
    return sorted({step * round(x / step) for x in np.quantile(known, [1 / 3, 2 / 3])})


def coded(of: Sequence[pd.DataFrame], covariates: Sequence[Mapping[str, Any]]) -> list[Codes]:
    """Return each table as numbers (N, covariates): a category's or a band's; -1 where nothing is known. The first lays out the bands."""
    columns: list[list[Codes]] = [[] for _ in of]
    for item in covariates:
        name = item["name"]
        if item["kind"] == "categorical":
            values = {value: number for number, value in enumerate(dict.fromkeys(v for t in of for v in t[name].dropna()))}
            for column, part in zip(columns, of, strict=True):
                column.append(part[name].map(values).fillna(-1).to_numpy(np.int64))
        else:
            numbers = [part[name].to_numpy(np.float64, na_value=np.nan) for part in of]
            edges = cuts(name, numbers[0])
            for column, found in zip(columns, numbers, strict=True):
                column.append(np.where(np.isfinite(found), np.digitize(found, edges), -1).astype(np.int64))
    return [np.stack(column, 1) if column else np.empty((len(part), 0), np.int64) for column, part in zip(columns, of, strict=True)]


class Population:
    """The training patients by what is known of them."""

    def __init__(self, codes: Codes, patients: Sequence[Any], labels: Sequence[Any]) -> None:
        self.names = [str(number) for number in range(codes.shape[1])]
        of = pd.DataFrame(codes, columns=self.names).assign(patient=list(patients), label=list(labels))
        self.of = of.drop_duplicates()
        self.patients, self.classes = self.of["patient"].nunique(), self.of["label"].nunique()
        self._counts: dict[tuple[int, ...], dict[tuple[int, ...], tuple[int, int]]] = {}

    def sharing(self, combination: Codes, columns: tuple[int, ...]) -> tuple[int, int]:
        """Count the patients who have the values of `combination` in `columns`, and the classes among them."""
        if not columns:
            return self.patients, self.classes
        if columns not in self._counts:
            groups = self.of.groupby([self.names[column] for column in columns])
            counts = groups[["patient", "label"]].nunique()
            keys = [key if isinstance(key, tuple) else (key,) for key in counts.index]
            pairs = zip(counts["patient"].tolist(), counts["label"].tolist(), strict=True)
            self._counts[columns] = dict(zip(keys, pairs, strict=True))
        return self._counts[columns].get(tuple(int(combination[column]) for column in columns), (0, 0))

    def tellable(self, combination: Codes, k: int, diversity: int) -> tuple[int, ...]:
        """Return the columns of `combination` that may be told."""
        columns = tuple(column for column in range(len(combination)) if combination[column] >= 0)
        while columns:
            patients, classes = self.sharing(combination, columns)
            if patients >= k and classes >= diversity:
                break
            fewer = [tuple(c for c in columns if c != column) for column in reversed(columns)]
            columns = max(fewer, key=lambda rest: self.sharing(combination, rest)[0])
        return columns


def assess(
    real: pd.DataFrame, made: pd.DataFrame, covariates: Sequence[Mapping[str, Any]], classes: Sequence[str], settings: GatesSettings
) -> Found:
    """Judge the table `made` (row, id, label, covariates) beside the training rows `real` (patient, label, covariates)."""
    covariates = [item for item in covariates if item["name"] in real and item["name"] in made]
    verdicts = [_identifiers(made, [*(item["name"] for item in covariates), "label"])]
    if not covariates:
        why = "The table holds no covariates: only ids and classes are released with the images."
        return Found(verdicts, [], [], [{"what": "disclosure by covariates", "why": why}])
    names = [item["name"] for item in covariates]
    ours, theirs = coded((real, made), covariates)
    population = Population(ours, real["patient"].tolist(), real["label"].tolist())
    k, diversity = settings.small_cell, min(settings.diversity_min, len(classes)) if len(classes) > 1 else 0
    combinations, of_row = np.unique(theirs, axis=0, return_inverse=True)
    told = [population.tellable(combination, k, diversity) for combination in combinations]
    hidden = [
        ",".join(names[c] for c in range(len(names)) if row[c] >= 0 and c not in kept) for row, kept in zip(combinations, told, strict=True)
    ]
    shared = [population.sharing(row, kept) for row, kept in zip(combinations, told, strict=True)]
    verdicts += _shared(shared, len(made), k, diversity)
    by_row = [hidden[number] for number in of_row.ravel()]
    return Found(verdicts, by_row, [_hidden(by_row, names, made, k)])


def without(index: pd.DataFrame, hidden: Sequence[str]) -> pd.DataFrame:
    """Return the table with the covariates of each row that `hidden` names left empty; as it is where nothing is to be hidden."""
    out = index.copy()
    for name in sorted({name for names in hidden for name in names.split(",") if name}):
        here = np.array([name in names.split(",") for names in hidden])
        out[name] = out[name].mask(here, np.nan if types.is_numeric_dtype(out[name]) else None)
    return out


def _shared(shared: Sequence[tuple[int, int]], n: int, k: int, diversity: int) -> list[Verdict]:
    fewest, least = (float(min(pair[number] for pair in shared)) for number in (0, 1))
    verdicts = [
        judge(
            "disclosure_k_anonymity",
            "privacy",
            fewest,
            (fewest, fewest),
            bound=k,
            direction="at least",
            baseline=math.nan,  # what it would be without hiding may be a count of few patients
            n=n,
            meaning="Fewest training patients who share what the released table tells of any subject, continuous covariates in bands; what "
            "fewer would share is hidden.",
        )
    ]
    if diversity:
        verdicts.append(
            judge(
                "disclosure_l_diversity",
                "privacy",
                least,
                (least, least),
                bound=diversity,
                direction="at least",
                baseline=math.nan,
                n=n,
                meaning="Fewest classes among the training patients who share a combination of covariates: with one class alone, knowing a "
                "person's covariates would tell the class.",
            )
        )
    return verdicts


def _identifiers(made: pd.DataFrame, names: Sequence[str]) -> Verdict:
    """Values of the text columns that look like an identifier; what they are stays in the house."""
    texts = [column for column in names if not types.is_numeric_dtype(made[column])]
    found = sum(count for name in texts for count in identifiers.among(str(value) for value in made[name].dropna().unique()).values())
    return judge(
        "disclosure_identifiers",
        "privacy",
        float(found),
        (float(found), float(found)),
        bound=0,
        direction="at most",
        baseline=0,
        n=len(made),
        meaning="Values in the table that look like a date, a UID, a name, an address, a telephone or a record number: there may be none.",
    )


def _hidden(hidden: Sequence[str], names: Sequence[str], made: pd.DataFrame, k: int) -> dict[str, Any]:
    rows: list[list[str | float | None]] = []
    for name in names:
        known = int(made[name].notna().sum())
        count = sum(name in row.split(",") for row in hidden)
        rows.append([name, known, count, None if not known else f"{100 * count / known:.1f} %"])
    return table(
        "What the released table does not tell",
        f"Covariates of synthetic subjects that are left empty, so that what remains is shared by at least {k} training patients.",
        ("covariate", "synthetic subjects", "hidden", "share"),
        rows,
    )
