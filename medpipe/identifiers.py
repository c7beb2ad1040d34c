"""What an identifier of a person looks like in a text: patterns for the last look at tables and texts that leave.

No image room may import `deid`, which knows patients; these are the shapes alone. They look for what should never be there, so a
pattern errs on the side of finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

PATTERNS: Mapping[str, re.Pattern[str]] = {
    "a DICOM unique identifier": re.compile(r"(?<![\w.])(?:[0-2](?:\.(?:0|[1-9]\d*)){4,}|2\.25\.\d{20,})(?![\w.])"),
    "a date": re.compile(r"(?<!\d)(?:(?:19|20)\d\d[-./]\d\d?[-./]\d\d?|\d\d?[-./]\d\d?[-./](?:19|20)\d\d)(?!\d)"),
    "a DICOM date": re.compile(r"(?<!\d)(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)"),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.\w+"),
    "a name as DICOM writes it": re.compile(r"[^\W\d_]+\^[^\W\d_]*"),
    "a telephone number": re.compile(r"(?<!\w)(?:\+|00)\d[\d ()/-]{6,}\d(?!\w)"),
    "a long number, as records are numbered": re.compile(r"(?<![\w.])[A-Za-z]{0,3}[-#]?\d{6,}(?![\w.])"),
}
"""What it is to its pattern. The first is PS3.5 section 9 and B.2; the name is PS3.5 6.2.1."""


def looks_like(text: str) -> str | None:
    """Say what kind of identifier `text` holds; None where it holds none."""
    return next((what for what, pattern in PATTERNS.items() if pattern.search(text)), None)


def among(texts: Iterable[str]) -> dict[str, int]:
    """Count the different texts that hold each kind of identifier."""
    found: dict[str, int] = {}
    for text in sorted(set(texts)):
        if (what := looks_like(text)) is not None:
            found[what] = found.get(what, 0) + 1
    return found
