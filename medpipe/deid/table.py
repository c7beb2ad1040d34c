"""The table of labels and covariates: which of its values may enter a Collection, and to which instance each belongs.

A table's cells are free text typed by people. Only the columns that the recipe names are read; a label is one of the
classes that the recipe lists, or one of a few values that several patients share; and no value may hold an identifier.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

from medpipe.deid.identifiers import TOKEN, folded
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.times import AGE_LIMIT
from medpipe.errors import InputError
from medpipe.settings import SourceSettings

VALUES_MAX = 32
PATIENTS_MIN = 2
RESERVED = frozenset(
    {"instance", "series", "study", "patient", "path", "modality", "sop_class", "rows", "columns", "frames", "references", "day", "label",
     "row", "split", "order", "image"}
)  # fmt: skip
"""Columns that every index has: no covariate may be called so."""
FROM_HEADER = ("age", "sex", "site", "scanner")


@dataclass(frozen=True)
class Table:
    """The wanted columns of the table, by the keyed digest of what its rows are matched by."""

    columns: tuple[str, ...] = ()
    rows: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)


def read(source: Path, settings: SourceSettings, names: Pseudonyms) -> Table:
    """Read the wanted columns of the table; raises InputError naming the file's line or the column that is wrong."""
    if settings.table is None:
        if settings.label is not None:
            raise InputError("source.label names a column, but source.table names no table: give the CSV file inside the source folder")
        return Table()
    path = source / settings.table
    if not path.resolve().is_relative_to(source.resolve()) or not path.is_file():
        raise InputError("source.table is no file inside the source folder: give the CSV file's name relative to it")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _rows(csv.DictReader(file), settings, names)
    except UnicodeDecodeError:
        raise InputError("source.table is not UTF-8 text: save the table as UTF-8 CSV") from None
    except csv.Error:
        raise InputError("source.table cannot be read as CSV: save the table as UTF-8 CSV") from None


def _rows(reader: csv.DictReader[str], settings: SourceSettings, names: Pseudonyms) -> Table:
    header = tuple(reader.fieldnames or ())
    if settings.table_key not in header:
        raise InputError(f"source.table has no column '{settings.table_key}', which source.table_key names: add it or name another")
    if settings.label is not None and settings.label not in header:
        raise InputError(f"source.table has no column '{settings.label}', which source.label names: correct source.label")
    wanted = [name for name in (settings.label, *settings.continuous, *settings.categorical) if name is not None and name in header]
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        key = (row[settings.table_key] or "").strip()
        if not key:
            continue
        values = {name: (row[name] or "").strip() for name in wanted}
        if rows.setdefault(names.alias("table", key), values) != values:
            raise InputError(
                f"line {reader.line_num} of source.table contradicts an earlier line with the same {settings.table_key}: keep one"
            )
    return Table(tuple(wanted), rows)


def covariates(settings: SourceSettings, table: Table, *, characteristics: bool, sites: bool) -> list[str]:
    """Return the covariates that come from the headers; raises InputError for one that is nowhere, or that the recipe removes."""
    for name in (*settings.continuous, *settings.categorical):
        if name in RESERVED:
            raise InputError(f"a covariate cannot be called '{name}', which the index of a Collection uses itself: rename the column")
    out = [name for name in (*settings.continuous, *settings.categorical) if name not in table.columns]
    for name in out:
        if name in ("age", "sex") and not characteristics:
            raise InputError(
                f"source names the covariate '{name}', which deid.retain_patient_characteristics removes: keep them or drop it"
            )
        if name in ("site", "scanner") and not sites:
            raise InputError(f"source names the covariate '{name}', which deid.sites removes: set it to 'pseudonym' or drop it")
        if name not in FROM_HEADER and tag_for_keyword(name) is None:
            raise InputError(f"the covariate '{name}' is neither a column of source.table nor a DICOM keyword: correct its name")
    return out


def fill(
    rows: list[dict[str, Any]], keys: list[str], table: Table, settings: SourceSettings, names: Pseudonyms, words: set[str]
) -> Counter[str]:
    """Give each row of the index its label and covariates; return the counts of what was missing or refused.

    `keys` holds each row's match in the table, `words` the keyed digests of all that identifies.
    """
    counts: Counter[str] = Counter()
    found = [table.rows.get(key, {}) for key in keys]
    counts["instances without a row in the table"] = sum(not row for row in found) if table.columns else 0
    counts["rows of the table without an instance"] = len(set(table.rows) - set(keys))
    columns = {"label": settings.label} | {name: name for name in (*settings.continuous, *settings.categorical)}
    for name, column in columns.items():
        values = [row.get(column or "") or None if column in table.columns else old.get(name) for row, old in zip(found, rows, strict=True)]
        if name in settings.continuous:
            accepted: list[Any] = [_number(name, value) for value in values]
        else:
            accepted = _categories(name, values, [row["patient"] for row in rows], settings, names, words)
        counts[f"values of {name} refused"] = sum(old is not None and new is None for old, new in zip(values, accepted, strict=True))
        for row, value in zip(rows, accepted, strict=True):
            row[name] = value
    return Counter({name: count for name, count in counts.items() if count})


def _number(name: str, value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    return min(number, float(AGE_LIMIT)) if name.casefold() in ("age", "patientage") else number


def _categories(
    name: str, values: list[Any], patients: list[str], settings: SourceSettings, names: Pseudonyms, words: set[str]
) -> list[str | None]:
    """Keep the values that cannot name a patient: listed in the recipe, or few, shared by patients, and free of identifiers."""
    texts = [None if value is None else str(value) for value in values]
    if name == "label" and settings.classes:
        return [text if text in settings.classes else None for text in texts]
    if name in ("sex", "site", "scanner"):
        shared = {text for text in texts if text is not None}
    else:
        seen = {(text, patient) for text, patient in zip(texts, patients, strict=True) if text is not None}
        people = Counter(text for text, _ in seen)
        shared = {text for text, count in people.items() if count >= PATIENTS_MIN and not _identifies(text, names, words)}
        if len(people) > VALUES_MAX:
            raise InputError(
                f"the column for '{name}' has {len(people)} different values, and at most {VALUES_MAX} are a category: "
                "list the accepted ones in source.classes, or name another column"
            )
    return [text if text in shared else None for text in texts]


def _identifies(text: str, names: Pseudonyms, words: set[str]) -> bool:
    tokens = TOKEN.findall(folded(text))
    return any(names.alias(kind, token, 16) in words for token in (*tokens, "".join(tokens)) for kind in ("word", "number"))
