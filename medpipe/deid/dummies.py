"""What stands in the place of a value that an object must have: nothing, or a value that says nothing."""

from __future__ import annotations

from medpipe.deid.values import BULK, NUMERIC

TEXT_DUMMY = "REMOVED"
DUMMIES: dict[str, object] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), TEXT_DUMMY),
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV"), 0),
    **dict.fromkeys(("FL", "FD"), 0.0),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "DS": "0",
    "IS": "0",
    "UR": "urn:removed",
    "AT": 0,
    **dict.fromkeys(("OB", "OW"), b"\x00\x00"),
    **dict.fromkeys(("OF", "OL"), b"\x00\x00\x00\x00"),
    **dict.fromkeys(("OD", "OV"), b"\x00" * 8),
}
"""VR to dummy; an element of another VR is removed."""


def empty(vr: str) -> object:
    """Return an empty value of a VR."""
    return b"" if vr in BULK else None if vr in NUMERIC else ""
