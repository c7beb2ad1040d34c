"""The last look before a folder is signed: does it hold what may not leave?

The rooms upstream keep patients' values out by construction. This is the check at the door, on the bytes themselves, and
it fails closed: a doubt stops the release.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

from medpipe.errors import PrivacyError

UID = re.compile(r"(?<![\w.])(?:[0-2](?:\.(?:0|[1-9]\d*)){4,}|2\.25\.\d{20,})(?![\w.])")
"""A DICOM unique identifier (PS3.5 section 9): five or more dotted numbers, or one made from a UUID (B.2)."""


def check_counts(report: Mapping[str, Any], small_cell: int) -> None:
    """Raise PrivacyError when a Report would publish a count of real images from 1 to `small_cell` - 1."""
    for place, count in real_counts(report):
        if count is not None and 0 < count < small_cell:
            raise PrivacyError(f"{place} holds a real count below {small_cell}, which may not be published: validate again")


def check_texts(folder: Path, paths: Iterable[Path]) -> None:
    """Raise PrivacyError, and remove `folder`, when a file in it holds a UID or one of `paths`."""
    forbidden = [str(path.resolve()) for path in paths]
    for name, text in _texts(folder):
        found = "what looks like a DICOM unique identifier" if UID.search(text) else None
        if any(path in text for path in forbidden):
            found = "a path of this machine"
        if found:
            shutil.rmtree(folder)
            raise PrivacyError(f"{name} would hold {found}, so nothing is released: report this as a fault of medpipe")


def real_counts(report: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield every count of real images in a Report with the place that it stands at; None is a suppressed one."""
    for name, entry in report.get("distributions", {}).items():
        yield from ((f"the distribution of {name}", count) for count in entry["real"])
    for row in report.get("composition", []):
        yield "the composition", row["real"]
    for table in report.get("tables", []):  # of any gate: a column that says what it counts is taken at its word
        for number, column in enumerate(table["columns"]):
            if any(word in str(column).split() for word in ("patients", "real")):
                yield from ((f"the table {table['title']}", row[number]) for row in table["rows"] if type(row[number]) is int)
    for name, count in report.get("consent", {}).get("patients", {}).items():
        yield f"the count of patients {name}", count


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (path.suffix in (".json", ".md", ".html", ".cff") or path.name == "LICENSE"):
            yield name, path.read_text()
    table = pd.read_parquet(folder / "subjects.parquet")
    for column in table.columns:
        if not types.is_numeric_dtype(table[column]):
            yield f"subjects.parquet, column {column},", "\n".join(str(value) for value in table[column].dropna().unique())
