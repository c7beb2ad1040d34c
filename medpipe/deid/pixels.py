"""Text burned into pixels: find it in every distinct frame, deny it by default, black it out, look again.

Only lines made wholly of technical tokens (side marks, projections, units) stay. What cannot be decoded is not passed.
Pixels without denied text keep their bytes as they were encoded; a segmentation with text is not blacked out but refused,
since a mask with a hole is another mask.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medpipe.deid import encapsulated, ocr
from medpipe.deid.values import text_of
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

READ_MIN = 0.4
"""From this mean probability on, what the recogniser read is text (smallest over 720 drawn lines: 0.58)."""
LINE_MIN = 2.5
"""A box this many times wider than high is a line of text even where it cannot be read, as in a foreign script."""
ROUNDS = 3
MARGIN_PX = 2
ALLOWED = frozenset(
    {
        "L", "R", "LT", "RT", "LEFT", "RIGHT", "LINKS", "RECHTS", "H", "F", "A", "P", "S", "I", "HEAD", "FEET", "AP", "PA", "LAT",
        "LATERAL", "OBL", "AXIAL", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "PORTABLE", "PORT", "MOBILE", "LIEGEND", "STEHEND",
        "SITZEND", "BETTAUFNAHME", "STANDING", "SITTING", "INSP", "EXP", "INSPIRATION", "EXPIRATION", "CC", "MLO", "ML", "LM", "RCC",
        "LCC", "RMLO", "LMLO", "XCCL", "KVP", "KV", "MA", "MAS", "MM", "CM", "M", "HZ", "MHZ", "DB", "FPS", "BPM", "MSEC", "MS",
        "SEC", "MI", "TIS", "TIB", "TIC", "WL", "WW", "TE", "TR", "TI", "FOV", "ST", "THK", "DFOV", "ZOOM", "GAIN", "DR", "PRF", "HU",
        "SUV", "MGY",
    }
)  # fmt: skip
_WORD = re.compile(r"[^\W_]+")
_UNITS = "(?:KVP|KV|MAS|MA|MM|CM|HZ|MHZ|DB|FPS|BPM|MS|SEC|%)"
_MEASURE = re.compile(rf"[0-9]{{1,3}}(?:[.,][0-9]{{1,2}})?{_UNITS}\Z")
_SPACED = re.compile(rf"(?<=[0-9])\s+(?={_UNITS}(?![A-Z]))")
SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
ELEMENTS = {0x7FE00010: 0, 0x7FE00008: 32, 0x7FE00009: 64}
"""The elements that hold pixels, and the bits of one value where the element itself says so."""
Frame = NDArray[Any]


def allowed(text: str) -> bool:
    """Say whether a line of text is wholly technical: side marks, projections, and numbers with their unit."""
    words = [word for word in _SPACED.sub("", text.upper()).split() if _WORD.search(word)]
    return all(_MEASURE.match(word) or all(part in ALLOWED for part in _WORD.findall(word)) for word in words)


def denied(line: ocr.Line) -> bool:
    """Say whether a line found in an image must go."""
    letters = "".join(_WORD.findall(line.text))
    wide = line.right - line.left >= LINE_MIN * (line.bottom - line.top)
    if len(letters) < 2:
        return wide and line.read < READ_MIN  # one letter names nobody, an unread line might
    if line.read >= READ_MIN:
        return not allowed(line.text)
    return wide


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
    try:
        for frame in _frames(dataset):
            key = hashlib.sha256(np.ascontiguousarray(frame).tobytes()).digest()
            if key not in found:
                found[key] = _denied(frame, dataset)
            order.append(key)
    except MemoryError:
        raise
    except Exception:  # decoders raise whatever they like; without pixels nothing can be vouched for
        return Reason.UNDECODABLE
    if not order:
        return Reason.UNDECODABLE
    if len(found) > 1 or not _one_bit(dataset) or found[order[0]]:
        counts["frames searched for text"] += len(order)
    if not any(found.values()) and not decode:
        return None
    drawn = text_of(dataset, 0x00080016).strip() in SEGMENTATIONS
    if any(found.values()) and (settings.burned_in == "quarantine" or drawn):
        return Reason.BURNED_IN_TEXT
    counts["frames blacked out"] += sum(bool(found[key]) for key in order)
    counts["frames decoded"] += len(order) if decode else 0
    return _black_out(dataset, found, order, counts)


def _denied(frame: Frame, dataset: Dataset) -> list[ocr.Line]:
    """Return the lines of text in a frame that must go; a frame of one value shows none."""
    if _one_bit(dataset) and frame.min() == frame.max():
        return []
    lines = [line for line in ocr.lines(grey(frame, dataset)) if denied(line)]
    if text_of(dataset, 0x00080016).strip() in SEGMENTATIONS:  # the outlines of organs look like single letters, not like words
        lines = [line for line in lines if line.read >= READ_MIN and sum(len(word) for word in _WORD.findall(line.text)) > 2]
    return lines


def _one_bit(dataset: Dataset) -> bool:
    return int(dataset.get("BitsAllocated", 0) or 0) == 1


def grey(frame: Frame, dataset: Dataset) -> ocr.Grey:
    """Return a frame (H, W) or (H, W, samples) as a person would see it, in 8-bit grey (H, W)."""
    stored = min(8, int(dataset.get("BitsStored", 8) or 8))
    if text_of(dataset, 0x00280004).strip() == "PALETTE COLOR":
        frame, stored = apply_color_lut(frame, dataset), 8
    values = frame.astype(np.float32)
    if values.ndim == 3:
        values = values[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) if values.shape[-1] >= 3 else values[..., 0]
    if frame.dtype == np.uint8:
        return np.asarray(np.rint(values * (255 / (2**stored - 1))).clip(0, 255), dtype=np.uint8)
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    low, high = np.percentile(values, [0.1, 99.9])
    if high <= low:  # nearly constant: what little there is may be text
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / max(high - low, 1e-6))
    return np.asarray(scaled.clip(0, 255), dtype=np.uint8)


def _black_out(dataset: Dataset, found: dict[bytes, list[ocr.Line]], order: list[bytes], counts: Counter[str]) -> Reason | None:
    if "PixelData" not in dataset:
        return Reason.BURNED_IN_TEXT  # floating-point maps have no black
    redacted = bytearray()
    dtype: np.dtype[Any] | None = None
    for frame, key in zip(_frames(dataset), order, strict=True):
        out = np.array(frame)
        lines = found[key]
        for _ in range(ROUNDS):
            for line in lines:
                _fill(out, line, dataset)
            counts["text regions blacked out"] += len(lines)
            lines = [line for line in ocr.lines(grey(out, dataset)) if denied(line)] if lines else []
            if not lines:
                break
        if lines:
            return Reason.RESIDUAL_TEXT
        dtype = out.dtype
        redacted += out.tobytes()
    replace(dataset, bytes(redacted), dtype)
    return None


def _frames(dataset: Dataset) -> Iterator[Frame]:
    if not _one_bit(dataset) or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset)
        return
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames", 1) or 1)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little", count=rows * columns * count)
    yield from bits.reshape(count, rows, columns)  # frames need not begin with a byte (PS3.5 8.1.1)


def _fill(frame: Frame, line: ocr.Line, dataset: Dataset) -> None:
    """Black out a box: the value that is shown darkest, so that nothing draws the eye and no edge looks like text."""
    box = slice(max(0, line.top - MARGIN_PX), line.bottom + MARGIN_PX), slice(max(0, line.left - MARGIN_PX), line.right + MARGIN_PX)
    photometric = text_of(dataset, 0x00280004).strip()
    if photometric == "PALETTE COLOR":
        shown = grey(frame, dataset)
        frame[box] = frame.reshape(-1)[int(shown.argmin())]
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
