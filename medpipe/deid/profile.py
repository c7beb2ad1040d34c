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

Action = Literal[
    "remove", "empty", "dummy", "uid", "keep", "retain", "clean", "shift", "keep date", "patient", "name", "accession", "site", "scanner"
]

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
OPTIONAL = frozenset({0x00081110})
"""Rows X/Z whose attribute no object must have: Referenced Study Sequence must have items where it is (PS3.3 table C.7-3)."""
PSEUDONYMS: dict[int, Action] = {0x00100020: "patient", 0x00100010: "name", 0x00080050: "accession"}
SITES: dict[int, Action] = {0x00080080: "site", 0x00181000: "scanner"}
GRAPHICS = 0x00700001
"""Graphic Annotation Sequence."""
GRAPHIC_TEXT = 0x00700006
"""Unformatted Text Value: newer than the option columns, and what Clean Graphics is about."""
DATES = ("DA", "DT", "TM")


@dataclass(frozen=True)
class Option:
    """One option of PS3.15 Annex E: its column in table E.1-1, its CID 7050 code, and the setting that chooses it."""

    column: str
    code: str
    meaning: str
    setting: str
    value: str | bool


OPTIONS = (
    Option("graphics", "113103", "Clean Graphics Option", "graphics", "clean"),
    Option("content", "113104", "Clean Structured Content Option", "structured_content", "clean"),
    Option("descriptors", "113105", "Clean Descriptors Option", "descriptors", "clean"),
    Option("full_dates", "113106", "Retain Longitudinal Temporal Information Full Dates Option", "dates", "keep"),
    Option("modified_dates", "113107", "Retain Longitudinal Temporal Information Modified Dates Option", "dates", "shift"),
    Option("patient", "113108", "Retain Patient Characteristics Option", "retain_patient_characteristics", True),
    Option("devices", "113109", "Retain Device Identity Option", "retain_device_identity", True),
    Option("uids", "113110", "Retain UIDs Option", "retain_uids", True),
    Option("private", "113111", "Retain Safe Private Option", "retain_safe_private", True),
    Option("institutions", "113112", "Retain Institution Identity Option", "retain_institution_identity", True),
)
"""In the order of CID 7050; Clean Pixel Data (113101) is no column of the table and is claimed where it was done."""


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


def chosen(settings: DeidSettings) -> frozenset[str]:
    """Return the columns of the options that a recipe chooses."""
    return frozenset(option.column for option in OPTIONS if getattr(settings, option.setting) == option.value)


def action(row: Row, settings: DeidSettings) -> Action:
    """Return what a recipe does with the elements of `row`.

    `shift` and `keep date` apply to values that are dates and times of day, `keep`, `retain` and `clean` to values that
    pass their checks; other values fall back to the basic action.
    """
    tag = int(row.tag, 16) if "X" not in row.tag and row.tag != "PRIVATE" else -1
    if tag in PSEUDONYMS:
        return PSEUDONYMS[tag]
    if "full_dates" in row.options:  # also of a device that is kept: its dates are moved like all others
        dates: dict[str, Action] = {"shift": "shift", "keep": "keep date", "remove": basic(row)}
        return dates[settings.dates]
    on = {option: code for option, code in row.options.items() if option in chosen(settings)}
    if "K" in on.values():
        return "keep" if "patient" in on else "retain"
    if settings.sites == "pseudonym" and tag in SITES:
        return SITES[tag]
    if on or (tag == GRAPHIC_TEXT and settings.graphics == "clean"):
        return "clean"
    return "remove" if tag == GRAPHICS else basic(row)  # a dummy could only be drawn


def basic(row: Row) -> Action:
    """Return the action of the Basic Profile alone."""
    optional = row.basic == "X/Z" and "X" not in row.tag and int(row.tag, 16) in OPTIONAL
    return "remove" if optional else BASIC[row.basic]


@lru_cache
def policy(settings: DeidSettings) -> dict[int, tuple[Action, Action]]:
    """Return tag to (action, basic action) for every row with one tag; repeating groups and private elements always go."""
    return {tag: (action(row, settings), basic(row)) for tag, row in _listed().items()}


@dataclass(frozen=True)
class Retained:
    """Attributes that a recipe keeps although they identify: what stands there is not searched for elsewhere."""

    tags: frozenset[int] = frozenset()
    dates: bool = False
    uids: bool = False

    def covers(self, tag: int, vr: str) -> bool:
        """Say whether the values of an element stay."""
        if vr in DATES:
            return self.dates and (tag not in _listed() or "full_dates" in _listed()[tag].options)
        return self.uids if vr == "UI" else tag in self.tags


@lru_cache
def retained(settings: DeidSettings) -> Retained:
    """Return what a recipe keeps although it identifies."""
    tags = frozenset(tag for tag, (action, _) in policy(settings).items() if action == "retain")
    return Retained(tags, settings.dates == "keep", settings.retain_uids)


@lru_cache
def _listed() -> dict[int, Row]:
    return {int(row.tag, 16): row for row in rows() if row.tag != "PRIVATE" and "X" not in row.tag}


def codes(settings: DeidSettings, *, pixels_cleaned: bool, faces_cleaned: bool = False) -> list[tuple[str, str]]:
    """Return the CID 7050 codes (value, meaning) of what was done, in the order of the context group."""
    pixels = [("113101", "Clean Pixel Data Option")] if pixels_cleaned else []
    faces = [("113102", "Clean Recognizable Visual Features Option")] if faces_cleaned else []
    options = [(option.code, option.meaning) for option in OPTIONS if option.column in chosen(settings)]
    return [("113100", "Basic Application Confidentiality Profile"), *pixels, *faces, *options]
