"""Private elements that PS3.15 E.3.10 calls safe, known by creator, group and element; all others go.

Of the standard's list this is the part of CT, MR and PET whose entries are numbers or short technical words. A value stays
if it has the VR and the number of values that its manufacturer gives it, and passes the checks of all other values.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from medpipe.deid.identifiers import Identifiers
from medpipe.deid.values import parts, text_of
from medpipe.deid.wording import harmless

_BINARY = {"FD": "f8", "FL": "f4", "SL": "i4", "SS": "i2", "US": "u2"}


@dataclass(frozen=True)
class Safe:
    """One safe element: the last two digits of its element number, its VR, and how many values it has at most."""

    creator: str
    group: str
    element: str
    vr: str
    values: int
    name: str


@lru_cache
def rows() -> tuple[Safe, ...]:
    """Return the list, sorted by creator and tag."""
    return tuple(Safe(*row) for row in json.loads((files("medpipe.deid") / "safe_private.json").read_text())["elements"])


@lru_cache
def _known() -> dict[tuple[str, int, int], Safe]:
    return {(row.creator, int(row.group, 16), int(row.element, 16)): row for row in rows()}


def safe(dataset: Dataset, identifiers: Identifiers) -> dict[int, DataElement]:
    """Return the private elements of `dataset` that stay, made anew, with the creators of their blocks."""
    out: dict[int, DataElement] = {}
    for tag in list(dataset.keys()):
        block = tag.element >> 8
        if not tag.is_private or block < 0x10:
            continue
        creator_tag = Tag(tag.group, block)
        creator = text_of(dataset, creator_tag).strip()
        known = _known().get((creator, tag.group, tag.element & 0xFF))
        values = None if known is None else _values(dataset, tag, known, identifiers)
        if known is not None and values:
            out[tag] = DataElement(tag, known.vr, values if len(values) > 1 else values[0])
            out[creator_tag] = DataElement(creator_tag, "LO", known.creator)
    return out


def _values(dataset: Dataset, tag: int, known: Safe, identifiers: Identifiers) -> list[object] | None:
    """Return the values of an element, None where they are not what its manufacturer writes there, or not harmless."""
    element = dataset.get_item(tag)
    value = element.value if element is not None else None
    out: list[object]
    if known.vr in _BINARY:
        if isinstance(value, bytes):
            big = isinstance(element, RawDataElement) and not element.is_little_endian
            kind = np.dtype(_BINARY[known.vr]).newbyteorder(">" if big else "<")
            if not value or len(value) % kind.itemsize:
                return None
            out = np.frombuffer(value, kind).tolist()
        else:
            out = list(value) if isinstance(value, MultiValue) else [value]
        fine = all(isinstance(one, (int, float)) and math.isfinite(one) and not identifiers.is_number(f"{one:.0f}") for one in out)
    else:
        texts = parts(text_of(dataset, tag))
        out = list(texts)
        fine = any(texts) and all(harmless(known.vr, one, "", identifiers) for one in texts)
    return out if fine and len(out) <= known.values else None
