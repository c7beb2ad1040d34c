"""Overlays (PS3.3 C.9.2): one bit a pixel, kept only where no text is found in any frame, and then without their texts."""

from __future__ import annotations

from collections import Counter

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medpipe.deid.burned_in import Search
from medpipe.deid.values import text_of

KEPT = {0x0010: "US", 0x0011: "US", 0x0015: "IS", 0x0040: "CS", 0x0050: "SS", 0x0051: "US", 0x0100: "US", 0x0102: "US"}
"""Elements of an overlay that are numbers or a code: element to VR."""
DATA = 0x3000


def verified(dataset: Dataset, counts: Counter[str]) -> frozenset[int]:
    """Return the groups of overlays in which no text was found, cut to what they need; the others are left as they are."""
    groups = {tag.group for tag in list(dataset.keys()) if tag.group >> 8 == 0x60 and not tag.group & 1}
    fine = frozenset(group for group in groups if _clean(dataset, group))
    counts["overlays kept, no text found"] += len(fine)
    return fine


def _clean(dataset: Dataset, group: int) -> bool:
    def number(element: int, otherwise: int = 0) -> int:
        tag = Tag(group, element)
        return int(dataset[tag].value) if tag in dataset and str(dataset[tag].value).strip() else otherwise

    try:
        rows, columns, frames = number(0x0010), number(0x0011), number(0x0015, 1)
        plain = number(0x0100, 1) == 1 and number(0x0102) == 0 and text_of(dataset, Tag(group, 0x0040)).strip() in ("G", "R")
        values = bytes(dataset[Tag(group, DATA)].value)
    except (KeyError, TypeError, ValueError):
        return False
    count = rows * columns * frames
    big = not dataset.file_meta.TransferSyntaxUID.is_little_endian
    if not plain or not count or len(values) < -(-count // 8) or big:
        return False
    bits = np.unpackbits(np.frombuffer(values, np.uint8), bitorder="little", count=count).reshape(frames, rows, columns)
    search = Search(evened=False)
    if any(search.frame(frame, frame * np.uint8(255)) for frame in bits):
        return False
    for tag in [tag for tag in list(dataset.keys()) if tag.group == group]:
        if tag.element not in KEPT and tag.element != DATA:
            del dataset[tag]
        elif tag.element != DATA and KEPT[tag.element] != dataset[tag].VR:
            return False
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    dataset.add_new(Tag(group, DATA), "OW", packed + b"\0" * (len(packed) % 2))
    return True
