"""The Basic Application Level Confidentiality Profile of PS3.15 Annex E as data, and what each row means under a recipe.

`profile.json` holds table E.1-1: tag, name, basic action, and the option columns. The actions are those of the edition
that it names; rows newer than its edition of the option columns have no option, which is the strict reading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from medpipe.settings import DeidSettings

Action = Literal["remove", "empty", "dummy", "uid", "keep", "shift", "patient", "name", "accession", "site", "scanner"]

BASIC: dict[str, Action] = {
    "X": "remove",
    "Z": "empty",
    "D": "dummy",
    "U": "uid",
    # Where the table leaves the choice to the object's definition, the action that no definition forbids is taken.
    "X/Z": "empty",
    "X/D": "dummy",
    "Z/D": "dummy",
    "X/Z/D": "dummy",
    "X/Z/U*": "uid",
}
PSEUDONYMS: dict[int, Action] = {0x00100020: "patient", 0x00100010: "name", 0x00080050: "accession"}
SITES: dict[int, Action] = {0x00080080: "site", 0x00181000: "scanner"}


@dataclass(frozen=True)
class Row:
    """One row of table E.1-1."""

    tag: str
    """Eight hexadecimal digits, with X for any digit, or PRIVATE."""
    name: str
    """As the standard writes it; empty for rows whose name the source of the table lacks."""
    basic: str
    """The Basic Profile's action code."""
    options: dict[str, str]
    """Option to code: K keep, C clean."""


@lru_cache
def _data() -> dict[str, object]:
    return dict(json.loads((files("medpipe.deid") / "profile.json").read_text()))


def edition() -> str:
    """Return the edition of the standard whose actions are used."""
    return str(_data()["edition"])


def options_edition() -> str:
    """Return the edition of the standard whose option columns are used."""
    return str(_data()["options_edition"])


@lru_cache
def rows() -> tuple[Row, ...]:
    """Return the table, sorted by tag."""
    data = _data()["rows"]
    if not isinstance(data, list):
        raise TypeError("profile.json has no rows")
    return tuple(Row(*row) for row in data)


def action(row: Row, settings: DeidSettings) -> Action:
    """Return what a recipe does with the elements of `row`.

    `shift` applies to values that are dates and times of day; other values under it fall back to the basic action.
    """
    tag = int(row.tag, 16) if "X" not in row.tag and row.tag != "PRIVATE" else -1
    if tag in PSEUDONYMS:
        return PSEUDONYMS[tag]
    if settings.sites == "pseudonym" and tag in SITES:
        return SITES[tag]
    if settings.retain_patient_characteristics and row.options.get("patient") == "K":
        return "keep"
    if settings.dates == "shift" and row.options.get("modified_dates") == "C":
        return "shift"
    return BASIC[row.basic]


def basic(row: Row) -> Action:
    """Return the action of the Basic Profile alone."""
    return BASIC[row.basic]


@lru_cache
def policy(settings: DeidSettings) -> dict[int, tuple[Action, Action]]:
    """Return tag to (action, basic action) for every row with one tag; repeating groups and private elements always go."""
    return {int(row.tag, 16): (action(row, settings), basic(row)) for row in rows() if row.tag != "PRIVATE" and "X" not in row.tag}


def codes(settings: DeidSettings, *, pixels_cleaned: bool, faces_cleaned: bool = False) -> list[tuple[str, str]]:
    """Return the CID 7050 codes (value, meaning) of what was done, in the order of the context group."""
    out = [("113100", "Basic Application Confidentiality Profile")]
    if pixels_cleaned:
        out.append(("113101", "Clean Pixel Data Option"))
    if faces_cleaned:
        out.append(("113102", "Clean Recognizable Visual Features Option"))
    if settings.dates == "shift":
        out.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    if settings.retain_patient_characteristics:
        out.append(("113108", "Retain Patient Characteristics Option"))
    return out
