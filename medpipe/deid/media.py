"""A Collection as a file-set on a medium (PS3.10): copies under legal names, and a DICOMDIR made of their cleaned headers.

A Collection names its files by UID, which PS3.10 8.2 does not allow (eight characters, capitals and digits), so the
file-set is a copy and the Collection stays as it is. Equal Collections give equal bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from medpipe import records
from medpipe.deid.instance import IMPLEMENTATION
from medpipe.errors import InputError

_LEVELS = (("PATIENT", "patient", "PT"), ("STUDY", "study", "ST"), ("SERIES", "series", "SE"))
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_KINDS = {
    "9.": "WAVEFORM", "11.": "PRESENTATION", "66.1": "REGISTRATION", "66.2": "FIDUCIAL", "66.3": "REGISTRATION", "66.5": "SURFACE",
    "66.6": "TRACT", "67": "VALUE MAP", "88.59": "KEY OBJECT DOC", "88.": "SR DOCUMENT", "91.1": "ANNOTATION", "481.2": "RT DOSE",
    "481.3": "RT STRUCTURE SET", "481.5": "RT PLAN", "481.8": "RT PLAN", "481.": "RT TREAT RECORD",
}  # fmt: skip
"""Kind of object to type of directory record (PS3.3 F.4), first match; all others are images."""
_KEYS: dict[str, tuple[str, ...]] = {
    "PATIENT": ("PatientName", "PatientID"),
    "STUDY": ("StudyDate", "StudyTime", "AccessionNumber", "StudyDescription", "StudyInstanceUID", "StudyID"),
    "SERIES": ("Modality", "SeriesInstanceUID", "SeriesNumber"),
    "": ("InstanceNumber", "ContentDate", "ContentTime", "ContentLabel", "ContentDescription"),
}
_EMPTY = frozenset({"PatientName", "PatientID", "StudyDate", "StudyTime", "AccessionNumber", "StudyDescription", "StudyID", "SeriesNumber"})
"""Keys that a record must have, if without a value."""
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def write(collection: Path, out: Path) -> Path:
    """Write the file-set of a Collection of DICOM into `out`, a folder that is not there yet, and return its DICOMDIR.

    Raises InputError where `out` exists or the Collection is one of arrays, RecordError where it was altered.
    """
    record = records.load(collection, "Collection", verify=True)
    if record.facts["form"] != "dicom":
        raise InputError("the Collection holds arrays, and a DICOMDIR lists DICOM files: give a Collection made of DICOM")
    if out.exists():
        raise InputError("the folder for the file-set is there already: name a new one")
    rows = pq.read_table(collection / "index.parquet", columns=["patient", "study", "series", "instance", "path"]).to_pylist()
    rows.sort(key=lambda row: [row[name] or "" for name in ("patient", "study", "series", "instance")])
    building = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    directory = [item for row, place in _placed(rows) for item in _copied(collection / row["path"], building, row, place)]
    (building / "DICOMDIR").write_bytes(_linked(directory, record.content))
    building.rename(out)
    return out / "DICOMDIR"


def _placed(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Give each row its File ID; each level is numbered within the one above."""
    counts: dict[tuple[str, ...], int] = {}
    known: dict[tuple[str, ...], tuple[str, ...]] = {(): ()}
    for row in rows:
        key: tuple[str, ...] = ()
        for _, name, prefix in (*_LEVELS, ("", "instance", "IM")):
            above, key = known[key], (*key, str(row[name] or ""))
            if key not in known:
                known[key] = (*above, f"{prefix}{_numbered(counts.get(above, 0))}")
                counts[above] = counts.get(above, 0) + 1
        yield row, known[key]


def _numbered(number: int) -> str:
    out = ""
    for _ in range(6):
        number, digit = divmod(number, len(_DIGITS))
        out = _DIGITS[digit] + out
    return out


def _copied(source: Path, out: Path, row: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[int, Dataset]]:
    """Copy an instance; yield (level, record) of what begins with it, and of itself."""
    target = out.joinpath(*place)
    new = [not out.joinpath(*place[:level]).exists() for level in (1, 2, 3)]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    dataset = pydicom.dcmread(target, stop_before_pixels=True)
    for level, (kind, name, _) in enumerate(_LEVELS):
        if new[level]:
            item = _record(kind, _KEYS[kind], dataset)
            if kind == "STUDY" and not item.get("StudyInstanceUID"):
                item.StudyInstanceUID = row[name] or dataset.SOPInstanceUID
            yield level, item
    sop_class = str(dataset.SOPClassUID)
    kind = next((kind for start, kind in _KINDS.items() if sop_class.startswith(_STORAGE + start)), "IMAGE")
    item = _record(kind, _KEYS[""], dataset)
    item.ReferencedFileID = list(place)
    item.ReferencedSOPClassUIDInFile, item.ReferencedSOPInstanceUIDInFile = dataset.SOPClassUID, dataset.SOPInstanceUID
    item.ReferencedTransferSyntaxUIDInFile = dataset.file_meta.TransferSyntaxUID
    yield len(_LEVELS), item


def _record(kind: str, keys: tuple[str, ...], dataset: FileDataset) -> Dataset:
    item = Dataset()
    item.OffsetOfTheNextDirectoryRecord, item.RecordInUseFlag, item.OffsetOfReferencedLowerLevelDirectoryEntity = 0, 0xFFFF, 0
    item.DirectoryRecordType = kind
    for key in keys:
        if key in dataset or key in _EMPTY:
            setattr(item, key, dataset.get(key) if dataset.get(key) is not None else "")
    return item


def _linked(directory: list[tuple[int, Dataset]], content: str) -> bytes:
    """Return the DICOMDIR whose records point to the next one of their level and to the first one below (PS3.3 F.2.2.2)."""
    items = [item for _, item in directory]
    data = _encoded(items, (0, 0), content)  # all offsets have a fixed length: the places of the records do not move
    places = [int(item.seq_item_tell) for item in pydicom.dcmread(BytesIO(data)).DirectoryRecordSequence]
    last: dict[int, int] = {}
    for number, (level, _) in enumerate(directory):
        if level in last:
            items[last[level]].OffsetOfTheNextDirectoryRecord = places[number]
        elif level:
            items[last[level - 1]].OffsetOfReferencedLowerLevelDirectoryEntity = places[number]
        last = {above: at for above, at in last.items() if above < level} | {level: number}
    roots = [place for place, (level, _) in zip(places, directory, strict=True) if level == 0]
    return _encoded(items, (roots[0], roots[-1]), content)


def _encoded(items: list[Dataset], ends: tuple[int, int], content: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    number = int.from_bytes(hashlib.sha256(f"file-set {content}".encode()).digest()[:15], "big")
    meta.MediaStorageSOPInstanceUID = f"2.25.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION, "MEDPIPE"
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.FileSetID = "MEDPIPE"
    file.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity, file.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = ends
    file.FileSetConsistencyFlag = 0
    file.DirectoryRecordSequence = Sequence(items)
    buffer = BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
