"""Search bytes for many strings at once: a series of a thousand instances has a thousand UIDs that no file of it may hold.

Every place of the data is looked up by its last four bytes in a table of the strings' last four (a filter as that of Wu and
Manber 1994), and only where the table says so are strings compared. The time grows with the data and hardly with the
number of strings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

END = 4
"""Bytes by which strings are looked up."""
_FEW = 512
"""Shorter data are looked up place by place."""
_BLOCK = 1 << 18
"""Bytes that are looked up in one go: what is computed of them fits a processor's cache."""
_BITS = 16
_MULTIPLIER = np.uint32(2654435761)
"""Knuth's multiplicative hash, The Art of Computer Programming 6.4: four bytes to the 16 bits of the table."""
PIXEL_NEEDLE = 6
"""Shorter identifiers occur by chance among pixels and are searched for in the header only."""


class Strings:
    """Strings of at least four bytes, prepared to be searched for together."""

    def __init__(self, strings: Iterable[bytes]) -> None:
        """Prepare; raises ValueError for a string that is too short to be looked up."""
        ends: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for string in strings:
            if len(string) < END:
                raise ValueError(f"a string of fewer than {END} bytes cannot be searched for")
            ends[string[-END:]].append(string)
        self._ends = dict(ends)
        self._table = np.zeros(1 << _BITS, bool)
        self._table[_hashed(np.frombuffer(b"".join(self._ends), "<u4"))] = True

    def within(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield (string, where it begins) for each place at which `data` holds one."""
        for at in self._places(data):
            for string in self._ends.get(data[at : at + END], ()):
                if data.endswith(string, 0, at + END):
                    yield string, at + END - len(string)

    def _places(self, data: bytes) -> Iterator[int]:
        """Yield the places where four bytes may be the end of a string."""
        if not self._ends:
            return
        if len(data) < _FEW:
            yield from range(len(data) - END + 1)
            return
        for begin in range(0, len(data), _BLOCK):
            for at in range(begin, min(begin + END, len(data))):
                words = np.frombuffer(data, "<u4", min(_BLOCK, len(data) - at) // END, at)
                yield from (at + np.flatnonzero(self._table[_hashed(words)]) * END).tolist()


def _hashed(words: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return (words * _MULTIPLIER) >> np.uint32(32 - _BITS)


@dataclass(frozen=True)
class Needles:
    """What no file of one patient may hold, in lower case."""

    anywhere: frozenset[bytes] = field(repr=False)
    alone: frozenset[bytes] = field(repr=False)
    """Numbers that count only with no digit or point beside them, and words only with no letter."""

    @cached_property
    def _long(self) -> Strings:
        return Strings(needle for needle in self.anywhere if len(needle) >= PIXEL_NEEDLE)

    @cached_property
    def _short(self) -> Strings:
        return Strings({needle for needle in self.anywhere if len(needle) < PIXEL_NEEDLE} | self.alone)

    def within(self, data: bytes, pixels: slice) -> bool:
        """Say whether any of them is in a file's bytes; `pixels` is where its pixel values lie."""
        low = data.lower()
        if any(True for _ in self._long.within(low)):
            return True
        header = low[: pixels.start] + b"\0" + low[pixels.stop :]
        found = self._short.within(header)
        return any(needle in self.anywhere or _stands_alone(header, begin, begin + len(needle)) for needle, begin in found)


def _stands_alone(data: bytes, begin: int, end: int) -> bool:
    beside = b"0123456789." if data[begin:end].isdigit() else b"abcdefghijklmnopqrstuvwxyz"
    return not (begin and data[begin - 1] in beside) and not (end < len(data) and data[end] in beside)
