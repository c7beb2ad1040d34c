"""Binary values: text and the patient's own numbers are found in them, measurements are left alone."""

from __future__ import annotations

import struct

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medpipe.deid import binary
from medpipe.deid.identifiers import Identifiers

LUT, PALETTE = 0x00283006, 0x00281201


def identifies(value: bytes, vr: str, tag: int = LUT) -> bool:
    """Judge the value of a patient called Quimby with the number 48213377."""
    identifiers = Identifiers()
    identifiers.add("Quimby^Rowena")
    identifiers.add("48213377", number=True)
    identifiers.add("1234", number=True)
    element = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True, True)
    return binary.identifies(element, vr, identifiers)


@pytest.mark.parametrize(
    ("value", "vr"),
    [
        (b"250912", "OW"),
        (b"250912", "US"),
        (b"250912", "AT"),
        (b"UXVpbWJ5", "OF"),
        (b"UXVpbWJ5aQ==", "AT"),
        (b"UXVpbWJ5aQ==", "UL"),
        (b"Dr. Svendson ", "UL"),
        ("Svendson".encode("utf-16-le"), "OW"),
        ("Svendson".encode("utf-16-be"), "OW"),
        (b"\1\2\xf3quimby\0", "OB"),
        ("\u4e00Quimby\u4e00".encode("utf-16-be"), "OW"),
        (struct.pack("<2L", 7, 48213377), "UL"),
        (struct.pack("<2d", 0.5, 48213377.0), "FD"),
        (b"\1\2\3\4\5\6\7", "FL"),
    ],
)
def test_text_and_the_patients_numbers_are_found(value: bytes, vr: str) -> None:
    assert identifies(value, vr)


@pytest.mark.parametrize(
    ("value", "vr"),
    [
        (struct.pack("<4f", 0.5, -3.25, 1e-6, 131072.0), "FL"),
        (struct.pack("<3H", 4096, 0, 16), "US"),
        (struct.pack("<2d", 0.0, 131072.0), "FD"),
        (b"", "OW"),
        (bytes(64), "OW"),
    ],
)
def test_measurements_are_left_alone(value: bytes, vr: str) -> None:
    assert not identifies(value, vr)


def test_a_palette_that_counts_upwards_is_no_text_and_holds_no_number() -> None:
    assert not identifies(struct.pack("<95H", *range(32, 127)), "OW", PALETTE)
    assert identifies(b"250912", "OW", PALETTE)
