"""Binary values that are no numbers: text, and the patient's own numbers and dates, in the place of measurements."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement

from medpipe.deid.identifiers import Identifiers
from medpipe.deid.values import BULK

FORMATS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d", "AT": "HH"}
_TEXT = re.compile(rb"(?:[A-Za-z0-9 .,:;/^_\\#+=-]{8,}|[0-9]{6})[\0 ]*\Z")
"""Eight bytes and more that are all letters, digits and separators (doubles up to 131072 have a byte of another kind), or a date."""
_PRINTABLE = re.compile(rb"(?:[\t\r\n\x20-\x7E]{4,}|(?:[\x20-\x7E]\0){4,}|(?:\0[\x20-\x7E]){4,})[\0 ]*\Z")
"""Bulk values and tags of which every byte, or every 16 bits, is a character, such as a date or base 64: measurements have others."""
ARRAYS = frozenset(
    {
        0x00181638, 0x00221531, 0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00281204, 0x00281211,
        0x00281212, 0x00281213, 0x00281221, 0x00281222, 0x00281223, 0x00281224, 0x00281408, 0x00282000, 0x00283006, 0x00640009,
        0x00660016, 0x00660021, 0x00660022, 0x00660023, 0x00660024, 0x00660025, 0x00660029, 0x00660040, 0x00660041, 0x00660042,
        0x00660043, 0x00660125, 0x00660129, 0x006A0011, 0x0070150D, 0x00701808, 0x00701A07, 0x300A0664, 0x300A0665, 0x300A066B,
        0x54000110, 0x54000112, 0x54001010, 0x56000010, 0x56000020, 0x7FE00001, 0x7FE00002,
    }
)  # fmt: skip
"""Bulk values that are numbers by the standard: palettes, look-up tables, waveforms, spectra, meshes, maps; and colour profiles."""
COUNT_MAX = 4096
"""Longer arrays of numbers are searched as bytes only."""
NUMBER_MIN = 10_000
"""Smaller whole numbers name nobody."""
PALETTES = range(0x00281101, 0x00281224)
"""Look-up tables for colours: their ramps of values may look like text, and an image is not shown without them."""
RAMP_MIN = 64
"""Bytes from which on a look-up table is one."""


def identifies(element: DataElement | RawDataElement, vr: str, identifiers: Identifiers) -> bool:
    """Say whether a binary value is text, or holds one of the patient's identifiers."""
    value = element.value
    if not isinstance(value, bytes):
        return vr in FORMATS and any(_one_of(number, identifiers) for number in _numbers(value))
    if len(value) < 4 or not any(value):
        return False
    ramp = int(element.tag) in PALETTES and len(value) >= RAMP_MIN
    if not ramp and (_PRINTABLE if vr in BULK or vr == "AT" else _TEXT).match(value):
        return True
    if identifiers.in_bytes(value) or (vr in FORMATS and len(value) % struct.calcsize("<" + FORMATS[vr])):
        return True
    return vr in FORMATS and any(
        _one_of(number, identifiers) for number in _unpacked(value, vr, getattr(element, "is_little_endian", True))
    )


def _unpacked(value: bytes, vr: str, little: bool) -> Iterable[Any]:
    size = struct.calcsize("<" + FORMATS[vr])
    count = len(value) // size
    if count > COUNT_MAX or vr in ("US", "SS"):
        return ()
    if vr == "AT":
        return [int(f"{high:04X}{low:04X}") for high, low in struct.iter_unpack(("<" if little else ">") + "HH", value[: count * 4])
                if f"{high:04X}{low:04X}".isdigit()]  # fmt: skip
    return struct.unpack(f"{'<' if little else '>'}{count}{FORMATS[vr]}", value[: count * size])


def _numbers(value: object) -> Iterable[Any]:
    if isinstance(value, Iterable):
        return value
    return () if value is None else (value,)


def _one_of(number: Any, identifiers: Identifiers) -> bool:
    """Say whether a number of any type is one of the patient's."""
    return (
        isinstance(number, (int, float))
        and NUMBER_MIN <= abs(number) < 1e19
        and number == int(number)
        and abs(int(number)) in identifiers.known.whole
    )
