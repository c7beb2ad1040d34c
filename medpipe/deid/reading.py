"""Read a file as DICOM without trust: it is a dataset, or a reason why not; nothing that it holds is logged or warned of."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medpipe.deid.values import text_of
from medpipe.sources.folder import Reason

PREAMBLE = 128
UNDEFINED = 0xFFFFFFFF
INFLATED_MAX = 2**31
"""Most bytes that a deflated dataset may become."""
_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""First bytes of a DICOM file without preamble: group 0002 or 0008, in either byte order."""


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep the reader silent: its warnings and log lines repeat values of the file. Gives the list of warnings."""
    logger, mode = pydicom.config.logger, pydicom.config.settings.reading_validation_mode
    was = logger.disabled
    logger.disabled = True
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        logger.disabled = was
        pydicom.config.settings.reading_validation_mode = mode


def read(path: Path, *, header: bool = False) -> FileDataset | Reason:
    """Read a file, without its pixels where only the header is wanted; call within `quiet`."""
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE + 4)
            if not _promising(start):
                return Reason.NOT_DICOM
            file.seek(0)
            data = file.read() if not header else _header(file.read(1 << 20), path)
    except OSError:
        return Reason.UNREADABLE
    return parsed(data, header=header)


def parsed(data: bytes, *, header: bool = False) -> FileDataset | Reason:
    """Read the bytes of a file as `read` does."""
    return _parsed(data, _marked(data), header) if _promising(data) else Reason.NOT_DICOM


def _marked(start: bytes) -> bool:
    return start[PREAMBLE : PREAMBLE + 4] == b"DICM"


def _promising(start: bytes) -> bool:
    return _marked(start) or start.startswith(_STARTS)


def _header(start: bytes, path: Path) -> bytes:
    """Return enough of a file to hold its header: large files are pixels for the most part."""
    return start if len(start) < 1 << 20 else path.read_bytes()


def _swells(data: bytes) -> bool:
    """Say whether a deflated dataset inflates beyond INFLATED_MAX: a few kilobytes could fill the memory."""
    if DeflatedExplicitVRLittleEndian.encode() not in data[:2048]:
        return False
    marked = data[PREAMBLE + 4 : PREAMBLE + 12] == b"\x02\0\0\0UL\x04\0"
    start = PREAMBLE + 16 + int.from_bytes(data[PREAMBLE + 12 : PREAMBLE + 16], "little") if marked else len(data)
    inflater, rest, total = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0
    try:
        while rest and total <= INFLATED_MAX:
            total += len(inflater.decompress(rest, 1 << 24))
            rest = inflater.unconsumed_tail
    except zlib.error:
        return False  # the reader will say so
    return total > INFLATED_MAX


def _parsed(data: bytes, marked: bool, header: bool) -> FileDataset | Reason:
    if _swells(data):
        return Reason.MALFORMED
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=header)
            cut, identified = _cut(dataset), _identified(dataset, marked)
        except (MemoryError, KeyboardInterrupt):
            raise
        except EOFError:
            return Reason.TRUNCATED if marked else Reason.NOT_DICOM
        except Exception:  # a broken file can make the parser raise anything
            return Reason.MALFORMED if marked else Reason.NOT_DICOM
    if any("end of file" in str(warning.message).lower() for warning in caught) or cut:
        return Reason.TRUNCATED if marked or "SOPClassUID" in dataset else Reason.NOT_DICOM
    return identified


def _cut(dataset: FileDataset) -> bool:
    """Say whether a value is shorter than its length field says: the file ends within it."""
    return any(
        isinstance(element, RawDataElement)
        and element.value is not None
        and len(element.value) < element.length
        and element.length != UNDEFINED
        for element in dataset.values()
    )


def _identified(dataset: FileDataset, marked: bool) -> FileDataset | Reason:
    meta = dataset.file_meta
    kind = text_of(dataset, 0x00080016).strip(" \0") or str(meta.get("MediaStorageSOPClassUID", "") or "")
    if kind == MediaStorageDirectoryStorage or "DirectoryRecordSequence" in dataset:
        return Reason.DICOMDIR
    instance = text_of(dataset, 0x00080018).strip(" \0") or str(meta.get("MediaStorageSOPInstanceUID", "") or "")
    if not kind or not instance:
        return Reason.INCOMPLETE_HEADER if marked or len(dataset) > 3 else Reason.NOT_DICOM
    if not text_of(dataset, 0x00080016).strip(" \0"):
        dataset.SOPClassUID = kind
    if not text_of(dataset, 0x00080018).strip(" \0"):
        dataset.SOPInstanceUID = instance
    if not str(meta.get("TransferSyntaxUID", "") or ""):
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = syntax
    if meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian  # what pydicom inflated; a search of bytes must see the bytes
    return dataset


def identity(dataset: FileDataset) -> str:
    """Return what tells patients apart: the Patient ID, else name and birth date, else the study, else the object."""
    for tags in ((0x00100020,), (0x00100010, 0x00100030), (0x0020000D,), (0x00080018,)):
        found = [" ".join(text_of(dataset, tag).split()) for tag in tags]
        if found[0]:
            return "\x1f".join([f"{tags[0]:08X}", *found])
    return ""
