"""Text burned into pixels: find it in every distinct frame, deny it by default, black it out, look again.

What is text that must go, `burned_in` says. What cannot be decoded is not passed.
Pixels without denied text keep their bytes as they were encoded; a segmentation with text is not blacked out but refused,
since a mask with a hole is another mask.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medpipe.deid import encapsulated, ocr
from medpipe.deid.burned_in import READ_MIN, STEP, Search, covering
from medpipe.deid.values import text_of
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

ROUNDS = 3
SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
CONVERSIONS = frozenset({"DV", "DF", "SD", "SI", "WSD", "DRW", "SYN"})
"""Digitised video and film, scanned documents and images, workstations, drawings (Conversion Type, PS3.3 C.8.6.1)."""
SCREENS = frozenset({"SCREEN SAVE", "SCREENSAVE", "SCREEN_CAPTURE", "SCREENSHOT"})
HIDDEN = 0.25
"""Where most values take less of the range than this, as beside an implant, they are looked at by themselves, too."""
ELEMENTS = {0x7FE00010: 0, 0x7FE00008: 32, 0x7FE00009: 64}
"""The elements that hold pixels, and the bits of one value where the element itself says so."""
Frame = NDArray[Any]


def clean(dataset: Dataset, settings: DeidSettings, counts: Counter[str]) -> Reason | None:
    """Clean the pixels of an object in place, before its header is cleaned; return why it must not pass, None where it may."""
    if problem := _trimmed(dataset):
        return problem
    compressed = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    decode = compressed and not encapsulated.blank(dataset, counts)
    if _hidden_overlay(dataset):
        if compressed:
            return Reason.EMBEDDED_OVERLAY
        _clear_unused_bits(dataset)
        counts["pixels, unused bits cleared"] += 1
    found: dict[bytes, list[ocr.Line]] = {}
    order = []
    search: Search | None = None
    try:
        for frame in frames(dataset):
            search = search or _search(dataset, frame)
            key = hashlib.sha256(np.ascontiguousarray(frame).tobytes()).digest()
            if key not in found:
                found[key] = _denied(search, frame, dataset)
            order.append(key)
    except MemoryError:
        raise
    except Exception:  # decoders raise whatever they like; without pixels nothing can be vouched for
        return Reason.UNDECODABLE
    if search is None:
        return Reason.UNDECODABLE
    if search.looked_at or not _one_bit(dataset):
        counts["frames searched for text"] += len(order)
    if not any(found.values()) and not decode:
        return None
    drawn = text_of(dataset, 0x00080016).strip() in SEGMENTATIONS
    if any(found.values()) and (settings.burned_in == "quarantine" or drawn):
        return Reason.BURNED_IN_TEXT
    counts["frames blacked out"] += sum(bool(found[key]) for key in order)
    counts["frames decoded"] += len(order) if decode else 0
    return _black_out(dataset, found, order, counts)


def _search(dataset: Dataset, frame: Frame) -> Search:
    grey_levels = int(dataset.get("BitsAllocated", 0) or 0) == 8 and int(dataset.get("BitsStored", 8) or 8) == 8
    step = STEP if grey_levels and text_of(dataset, 0x00280004).strip() != "PALETTE COLOR" else 0
    return Search(expected(dataset, frame.shape), step, evened=not _one_bit(dataset))


def _denied(search: Search, frame: Frame, dataset: Dataset) -> list[ocr.Line]:
    """Return the lines of text in the next frame that must go."""
    lines = search.frame(frame, *shown(frame, dataset))
    if text_of(dataset, 0x00080016).strip() in SEGMENTATIONS:  # the outlines of organs look like single letters, not like words
        lines = [line for line in lines if line.read >= READ_MIN and sum(letter.isalnum() for letter in line.text) > 2]
    return lines


def expected(dataset: Dataset, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return where the header lets text be expected in a frame of that shape (H, W), None where it says nothing.

    That is all that lies outside the regions of ultrasound (PS3.3 C.8.5.5), and the whole of what was taken from a film,
    a screen or paper (Conversion Type, PS3.3 C.8.6.1; a screen save) or is said to show text.
    """
    kinds = {part.strip().upper() for part in text_of(dataset, 0x00080008).split("\\")}
    taken = text_of(dataset, 0x00080064).strip().upper() in CONVERSIONS or bool(kinds & SCREENS)
    if taken or text_of(dataset, 0x00280301).strip().upper() == "YES":
        return np.ones(shape[:2], bool)
    regions = dataset.get("SequenceOfUltrasoundRegions", None) or ()
    mask = np.ones(shape[:2], bool)
    for region in regions:
        try:
            top, bottom = int(region.RegionLocationMinY0), int(region.RegionLocationMaxY1)
            left, right = int(region.RegionLocationMinX0), int(region.RegionLocationMaxX1)
        except (AttributeError, TypeError, ValueError):
            continue
        mask[max(0, top) : bottom + 1, max(0, left) : right + 1] = False
    return mask if regions and not mask.all() else None


def _one_bit(dataset: Dataset) -> bool:
    return int(dataset.get("BitsAllocated", 0) or 0) == 1


def shown(frame: Frame, dataset: Dataset) -> tuple[ocr.Image8, NDArray[np.float32] | None]:
    """Return a frame as a person would see it, and, where a few values make all others dark, those spread evenly (H, W).

    The frame is (H, W) or (H, W, samples), what is seen (H, W) or (H, W, 3) in 8 bits.
    """
    stored = min(8, int(dataset.get("BitsStored", 8) or 8))
    if text_of(dataset, 0x00280004).strip() == "PALETTE COLOR":
        frame = apply_color_lut(frame, dataset)
        if frame.dtype != np.uint8:
            frame = (frame >> (8 if frame.max() > 255 else 0)).astype(np.uint8)  # 16-bit tables (PS3.3 C.7.6.3.1.5)
        stored = 8
    if frame.ndim == 3:
        frame = frame[..., :3] if frame.shape[-1] >= 3 else frame[..., 0]
    if frame.dtype == np.uint8:
        return np.asarray(np.rint(frame * np.float32(255 / (2**stored - 1))).clip(0, 255), dtype=np.uint8), None
    values = np.nan_to_num(frame.astype(np.float32), posinf=0.0, neginf=0.0)
    low, most_low, most_high, high = np.percentile(values, [0.1, 2, 98, 99.9])
    hidden = most_high - most_low < HIDDEN * (high - low)
    if high <= low:  # nearly constant: what little there is may be text
        low, high, hidden = float(values.min()), float(values.max()), False
    scaled = (values - low) * (255 / max(high - low, 1e-6))
    return np.asarray(scaled.clip(0, 255), dtype=np.uint8), _spread(values) if hidden and values.ndim == 2 else None


def _spread(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each value's rank, 0 to 255: one bright implant does not make all the rest dark."""
    edges = np.quantile(values[::4, ::4] if values.size > 2**18 else values, np.linspace(0, 1, 257))
    return np.asarray(np.interp(values, *_rising(edges)), dtype=np.float32)


def _rising(edges: NDArray[np.floating[Any]]) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Return the distinct edges and the middle of the ranks that each stands for."""
    distinct, first, times = np.unique(edges, return_index=True, return_counts=True)
    return distinct, (first + (times - 1) / 2) * (255 / 256)


def _black_out(dataset: Dataset, found: dict[bytes, list[ocr.Line]], order: list[bytes], counts: Counter[str]) -> Reason | None:
    if "PixelData" not in dataset:
        return Reason.BURNED_IN_TEXT  # floating-point maps have no black
    redacted = bytearray()
    dtype: np.dtype[Any] | None = None
    again: Search | None = None
    for frame, key in zip(frames(dataset), order, strict=True):
        out, lines = np.array(frame), found[key]
        again = again or _search(dataset, frame)
        for _ in range(ROUNDS):
            for line in lines:
                _fill(out, line, dataset)
            counts["text regions blacked out"] += len(lines)
            again.lines = []  # what was found before is black now
            lines = again.frame(out.copy(), *shown(out, dataset))
            if not lines:
                break
        if lines:
            return Reason.RESIDUAL_TEXT
        dtype = out.dtype
        redacted += out.tobytes()
    replace(dataset, bytes(redacted), dtype)
    return None


def frames(dataset: Dataset) -> Iterator[Frame]:
    """Decode an object's frames one by one, each (H, W) or (H, W, samples)."""
    if not _one_bit(dataset) or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset)
        return
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames", 1) or 1)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little", count=rows * columns * count)
    yield from bits.reshape(count, rows, columns)  # frames need not begin with a byte (PS3.5 8.1.1)


def _fill(frame: Frame, line: ocr.Line, dataset: Dataset) -> None:
    """Black out a box: the value that is shown darkest, so that nothing draws the eye and no edge looks like text."""
    box = covering(line, frame.shape)
    photometric = text_of(dataset, 0x00280004).strip()
    if photometric == "PALETTE COLOR":
        seen, _ = shown(frame, dataset)
        frame[box] = frame.reshape(-1)[int(seen.max(-1).argmin())]
    elif photometric == "MONOCHROME1":
        frame[box] = frame.max()
    else:
        frame[box] = 0 if frame.ndim == 3 else frame.min()


def replace(dataset: Dataset, values: bytes, dtype: np.dtype[Any] | None) -> None:
    """Put decoded pixels in the place of encoded ones."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if int(dataset.get("SamplesPerPixel", 1) or 1) > 1:
        dataset.PlanarConfiguration = 0
        if str(dataset.PhotometricInterpretation).startswith("YBR"):
            dataset.PhotometricInterpretation = "RGB"  # the decoder converts
    wide = dtype is not None and dtype.itemsize > 1
    if wide:
        values = np.frombuffer(values, dtype=dtype).astype(dtype.newbyteorder("<")).tobytes() if dtype is not None else values
    if dtype is not None and dtype.itemsize * 8 != int(dataset.BitsAllocated):
        dataset.BitsAllocated = dtype.itemsize * 8
    for offsets in (0x7FE00001, 0x7FE00002):
        if offsets in dataset:
            del dataset[offsets]
    implicit = dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    dataset.add_new(0x7FE00010, "OW" if wide or implicit else "OB", values + b"\0" * (len(values) % 2))


def _expected(dataset: Dataset, bits: int) -> int:
    """Return the bytes that native pixels take without padding (PS3.5 8.1.1)."""
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    pixels = int(dataset.Rows) * int(dataset.Columns) * frames * samples
    if text_of(dataset, 0x00280004).strip() == "YBR_FULL_422":
        pixels = pixels * 2 // 3
    return -(-pixels * (bits or int(dataset.BitsAllocated)) // 8)


def _trimmed(dataset: Dataset) -> Reason | None:
    """Check native pixels for their length, and cut what stands behind the last one: padding can hold anything."""
    elements = [tag for tag in ELEMENTS if tag in dataset]
    if len(elements) > 1:
        return Reason.UNDECODABLE  # only one of them would be looked at
    if not elements or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return None
    tag = elements[0]
    try:
        expected = _expected(dataset, ELEMENTS[tag])
    except (AttributeError, TypeError, ValueError, OverflowError):
        return Reason.UNDECODABLE
    element = dataset.get_item(tag)
    values = bytes(element.value or b"") if element is not None else b""
    if expected == 0:
        return Reason.UNDECODABLE
    if len(values) < expected:
        return Reason.TRUNCATED
    vr = element.VR if element is not None and element.VR in ("OB", "OW") else None
    padded = values[:expected] + b"\0" * (expected % 2)
    if expected % 2 and vr == "OW" and not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        padded = values[: expected - 1] + b"\0" + values[expected : expected + 1]  # the last byte is the low one of a swapped word
    if padded != values:
        wide = int(dataset.get("BitsAllocated", 8) or 8) > 8 or dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        dataset.add_new(tag, {0: vr or ("OW" if wide else "OB"), 32: "OF", 64: "OD"}[ELEMENTS[tag]], padded)
    return None


def _hidden_overlay(dataset: Dataset) -> bool:
    """Say whether an overlay lies in the unused bits of the pixels (retired, PS3.5-2004 8.1.2)."""
    groups = {tag.group for tag in list(dataset.keys()) if tag.group >> 8 == 0x60}
    return any(int(dataset.get((group, 0x0102)).value or 0) > 0 for group in groups if (group, 0x0102) in dataset)


def _clear_unused_bits(dataset: Dataset) -> None:
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", stored - 1))
    order = ">" if not dataset.file_meta.TransferSyntaxUID.is_little_endian else "<"
    kind = np.dtype(f"{order}u{allocated // 8}")
    values = np.frombuffer(bytes(dataset.PixelData), kind) & kind.type(((1 << stored) - 1) << (high + 1 - stored))
    if int(dataset.get("PixelRepresentation", 0) or 0) and high == stored - 1:  # the sign fills the unused bits again
        negative = (values >> kind.type(high)) & kind.type(1) == 1
        values = np.where(negative, values | kind.type(((1 << allocated) - 1) ^ ((1 << stored) - 1)), values).astype(kind)
    dataset.add_new(0x7FE00010, "OW" if allocated > 8 else "OB", values.tobytes())
