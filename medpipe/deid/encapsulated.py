"""Encapsulated pixels (PS3.5 A.4): frames without room for text, and offsets that lead to frames and to nothing else."""

from __future__ import annotations

import struct
from collections import Counter

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from medpipe.deid.codestreams import blanked

ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
OFFSETS, LENGTHS = 0x7FE00001, 0x7FE00002
OFFSET_MAX = 2**32 - 1


def blank(dataset: Dataset, counts: Counter[str]) -> bool:
    """Blank what the frames hold beside the image; False where a frame cannot be followed and must be decoded instead.

    Frames that have nothing to blank keep their bytes.
    """
    element = dataset.get_item(0x7FE00010)
    value = bytes(element.value or b"") if element is not None else b""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        size = int(dataset.Rows) * int(dataset.Columns)
        frames = list(generate_frames(value, number_of_frames=int(dataset.get("NumberOfFrames", 1) or 1)))
        items = _items(value)
    except (AttributeError, TypeError, ValueError, struct.error):
        return False
    clean = [blanked(frame, syntax, size) for frame in frames]
    out = [frame for frame in clean if frame is not None]
    if len(out) < len(frames):
        return False
    if out != frames or items is None:
        small = sum(len(frame) + 9 for frame in out) <= OFFSET_MAX
        dataset.add_new(0x7FE00010, "OB", encapsulate(out, has_bot=small))
        dataset["PixelData"].is_undefined_length = True
        counts["frames blanked beside the image"] += sum(old != new for old, new in zip(frames, out, strict=True))
    if out != frames or items is None or not _extended(dataset, items):
        for tag in (OFFSETS, LENGTHS):
            if tag in dataset:
                del dataset[tag]
    return True


def _items(value: bytes) -> list[int] | None:
    """Return the lengths of all fragments, None where offsets lead elsewhere or anything stands behind the last fragment."""
    lengths, at = [], 0
    while value[at : at + 4] == ITEM:
        lengths.append(struct.unpack_from("<I", value, at + 4)[0])
        at += 8 + lengths[-1]
    if not lengths or at > len(value) or value[at:] not in (b"", END):
        return None
    table = struct.unpack_from(f"<{lengths[0] // 4}I", value, 8)
    starts = [sum(8 + length for length in lengths[1:number]) for number in range(1, len(lengths))]
    good = lengths[0] % 4 == 0 and list(table) == sorted(set(table)) and set(table) <= set(starts) and table[:1] in ((), (0,))
    return lengths[1:] if good else None


def _extended(dataset: Dataset, lengths: list[int]) -> bool:
    """Say whether the Extended Offset Table (PS3.3 C.7.6.3.1.8), where there is one, is that of the fragments."""
    starts = [sum(8 + length for length in lengths[:number]) for number in range(len(lengths))]
    found = [bytes(dataset[tag].value or b"") if tag in dataset else b"" for tag in (OFFSETS, LENGTHS)]
    if found == [b"", b""]:
        return True
    unpadded = struct.unpack(f"<{len(found[1]) // 8}Q", found[1][: len(found[1]) // 8 * 8])
    fits = len(unpadded) == len(lengths) and all(length - one in (0, 1) for length, one in zip(lengths, unpadded, strict=True))
    return fits and found[0] == struct.pack(f"<{len(starts)}Q", *starts) and len(found[1]) == 8 * len(lengths)
