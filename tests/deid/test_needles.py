"""Many strings are found at once exactly where one would find each of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.deid.needles import Needles, Strings

BYTES = st.text("ab1.\0", max_size=40).map(str.encode)
STRINGS = st.sets(st.text("ab1.\0", min_size=4, max_size=9).map(str.encode), max_size=12)


@given(STRINGS, BYTES, st.integers(0, 1200), BYTES)
def test_strings_are_found_where_they_are(strings: set[bytes], before: bytes, padding: int, after: bytes) -> None:
    data = before + b"\xff" * padding + after  # short data and long are looked up in two ways
    every = {(s, at) for s in strings for at in range(len(data)) if data.startswith(s, at)}
    assert sorted(Strings(strings).within(data)) == sorted(every)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 262_141, 262_142, 262_143, 262_144, 262_145, 499_993])
def test_a_string_is_found_at_every_offset_of_long_data(at: int) -> None:
    data = bytearray(500_000)
    data[at : at + 7] = b"mueller"
    assert list(Strings([b"mueller", b"jackson"]).within(bytes(data))) == [(b"mueller", at)]


@given(STRINGS, STRINGS, BYTES, BYTES, BYTES)
def test_needles_count_as_they_are_described(anywhere: set[bytes], alone: set[bytes], header: bytes, pixels: bytes, rest: bytes) -> None:
    data, around = header + pixels + rest, header + b"\0" + rest

    def lonely(needle: bytes) -> bool:
        beside = rb"[0-9.]" if needle.isdigit() else rb"[a-z]"
        return bool(re.search(rb"(?<!" + beside + rb")" + re.escape(needle) + rb"(?!" + beside + rb")", around))

    wanted = any(needle in (data if len(needle) >= 6 else around) for needle in anywhere) or any(lonely(needle) for needle in alone)
    found = Needles(frozenset(anywhere), frozenset(alone)).within(data, slice(len(header), len(header + pixels)))
    assert found is wanted


def test_short_strings_are_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        Strings([b"abc"])
