"""Which words of a header may stay: a whole value where all of it is harmless, or the technical words of a description."""

from __future__ import annotations

import re

from medpipe.deid import freetext
from medpipe.deid.identifiers import Identifiers

_UNKNOWN_LETTERS = {"CS": 3, "sequence name": 5}
"""How many letters an unknown word may have where the standard or the vendors write abbreviations."""
PLAIN = re.compile(r"[\x20-\x7E\r\n\t]*\Z")
"""Text that needs no character set."""
_TITLES = frozenset(
    {
        "by", "doctor", "dr", "dra", "frau", "herr", "hr", "madam", "miss", "mister", "mlle", "mme", "mr", "mrs", "ms", "nurse",
        "prof", "professor", "sig", "sir", "sister", "sr", "sra", "technician", "technologist",
    }
)  # fmt: skip
_SHORT = frozenset(
    {
        "an", "as", "at", "cc", "cm", "dB", "g", "Gy", "HU", "Hz", "in", "is", "kg", "kV", "mg", "mGy", "ml", "mL", "mm", "ms", "MHz",
        "no", "of", "on", "or", "to", "with", "without", "CXR", "IV", "LT", "RT",
    }
)  # fmt: skip
"""Short words of descriptions and units; any other unknown word of two letters may be a name, such as Li and Ng."""
_LONG_NUMBER = re.compile(r"[0-9]{4}|[0-9]+\.[0-9]+\.[0-9]")
_LETTER = re.compile(r"[A-Za-z]")
DIGITS_MAX = 7
"""A number with more digits before the point measures nothing that a header tells: it may be somebody's number."""
_PIECE = 24
"""Words that are judged together once more, for what they form together."""


def harmless(vr: str, value: str, kind: str, identifiers: Identifiers) -> bool:
    """Say whether one value that the table does not list may stay; `kind` is code, sequence name or nothing."""
    value = value.strip()
    if not value:
        return True
    if vr in ("DS", "IS"):
        fits = len(value) <= (12 if vr == "IS" else 16)  # PS3.5 table 6.2-1
        measured = len(value.lstrip("+-0").split(".")[0]) <= DIGITS_MAX
        return fits and measured and bool(freetext.NUMBER.match(value)) and not identifiers.is_number(value)
    if kind == "code":
        return bool(freetext.CODE.match(value)) and not identifiers.within(value)
    if vr == "CS" and value in freetext.CLOSED:
        return True
    if vr == "CS" and not freetext.CODED.match(value):
        return False
    return freetext.technical(value, _UNKNOWN_LETTERS.get(kind or vr, 2)) and not identifiers.within(value)


def plain(value: str, identifiers: Identifiers) -> bool:
    """Say whether a value that identifies a device or a place may stay: it needs no character set and names no patient."""
    return bool(PLAIN.match(value)) and not identifiers.within(value)


def technical_words(text: str, identifiers: Identifiers) -> str:
    """Return the technical words of a description in their order; "" where none is left.

    Unknown words go however short they are, numbers of four digits and more, numbers beside numbers, what follows a
    title, and whatever holds one of the patient's identifiers.
    """
    words = _untitled(text.replace("^", " ").replace("=", " ").split())
    words = [word for word in words if not _LONG_NUMBER.search(word) and _technical(word) and not identifiers.within(word)]
    words = _without_runs_of_numbers(words)
    pieces = [words[at : at + _PIECE] for at in range(0, len(words), _PIECE)]
    out = " ".join(filter(None, (_judged(piece) for piece in pieces)))
    return "" if identifiers.within(out) else out


def _technical(word: str) -> bool:
    bare = word.strip(".,;:()")
    return bare in _SHORT or bare in freetext.CLOSED or freetext.technical(word, 1)


def _untitled(words: list[str]) -> list[str]:
    """Drop titles, and the two words after one where they begin with a capital: the name of a doctor can be a technical word."""
    out, left = [], 0
    for word in words:
        if word.strip(".,:;()").lower() in _TITLES:
            left = 2
        elif left and word[:1].isupper():
            left -= 1
        else:
            left = 0
            out.append(word)
    return out


def _without_runs_of_numbers(words: list[str]) -> list[str]:
    numbers = [False, *(not _LETTER.search(word) for word in words), False]
    return [word for at, word in enumerate(words, 1) if not (numbers[at] and (numbers[at - 1] or numbers[at + 1]))]


def _judged(words: list[str]) -> str:
    for some in (words, [word for word in words if not any(letter.isdigit() for letter in word)]):
        if some and freetext.technical(" ".join(some)[: freetext.LENGTH_MAX]):
            return " ".join(some)[: freetext.LENGTH_MAX]
    return ""
