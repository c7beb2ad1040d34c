"""What an earlier Collection of the same source holds already: instances whose files did not change are taken from it.

An instance depends on its file, the settings, the key, the code, and on what identifies its patient, which any of that
patient's files can tell. So a Collection keeps, under the key, a journal of what became of each file and the digests of
what identified each patient; a later run compares them and cleans again whatever could come out otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medpipe import records
from medpipe.deid.identifiers import Identifiers
from medpipe.deid.reading import read
from medpipe.deid.values import TEXT, parts, text_of
from medpipe.errors import RecordError
from medpipe.records import RECORD, MadeFrom, Record, file_digest
from medpipe.sources.folder import Reason

JOURNAL, SEEN = "journal.parquet", "seen.parquet"
_COLUMNS = ("file", "patient", "instance", "table_row", "found", "entry")


@dataclass(frozen=True)
class File:
    """What became of one file: where it belongs, under pseudonyms, and its entry (None where its header was set aside)."""

    patient: str
    instance: str
    table_row: str
    found: Reason | None
    entry: dict[str, Any] | None


@dataclass(frozen=True)
class Earlier:
    """An earlier Collection, by the keyed digests of its source files."""

    record: Record
    files: Mapping[str, File] = field(repr=False)
    seen: Mapping[str, frozenset[str]] = field(repr=False)
    """Patient to the keyed digests of what identified them."""

    def of(self, patient: str, aliases: Mapping[int, str]) -> dict[int, dict[str, Any]]:
        """Return the entries of a patient's files (ordinal to keyed digest) that are known; none where one of the files has gone.

        What identified a patient in a file that has gone may be what kept a value from staying.
        """
        was = {alias for alias, file in self.files.items() if file.patient == patient and file.entry is not None}
        if not was <= set(aliases.values()):
            return {}
        known = {ordinal: self.files[alias].entry for ordinal, alias in aliases.items() if alias in was}
        return {ordinal: entry for ordinal, entry in known.items() if entry is not None}


def open_earlier(path: Path, wanted: MadeFrom) -> Earlier | None:
    """Open the Collection at `path`, or None where it was not made as `wanted` is to be made, but from another state of the source.

    Raises RecordError where it is no finished Collection.
    """
    record = records.load(path, "Collection")
    if not _alike(record, wanted) or JOURNAL not in record.files:
        return None
    rows = pq.read_table(path / JOURNAL).to_pylist()
    files = {
        row["file"]: File(
            row["patient"],
            row["instance"],
            row["table_row"],
            Reason(row["found"]) if row["found"] else None,
            json.loads(row["entry"]) if row["entry"] else None,
        )
        for row in rows
    }
    seen = {row["patient"]: frozenset(row["digests"]) for row in pq.read_table(path / SEEN).to_pylist()}
    return Earlier(record, files, seen)


def _alike(record: Record, wanted: MadeFrom) -> bool:
    """Say whether only the source's files, or who of its patients may be used, can differ: neither changes what one file becomes."""
    return "consent" in record.made_from["settings"] and _cleaning(record.made_from) == _cleaning(wanted.as_json())


def _cleaning(made_from: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {**made_from["inputs"], "source": "", "consent": ""}
    return {**made_from, "inputs": inputs, "settings": {**made_from["settings"], "consent": {}}}


def newest(folder: Path, wanted: MadeFrom) -> Path | None:
    """Return the newest finished Collection in `folder` that a Collection made from `wanted` can take from, if there is one."""
    found = []
    for path in folder.glob(f"*/{RECORD}"):
        with contextlib.suppress(RecordError, OSError):
            if _alike(records.load(path.parent, "Collection"), wanted):
                found.append((path.stat().st_mtime_ns, path.parent))
    return max(found, default=(0, None))[1]


def write(folder: Path, files: Mapping[str, File], seen: Mapping[str, Iterable[str]]) -> None:
    """Write the journal of a Collection, sorted, so that its bytes do not depend on the order of the work."""
    rows = [
        {
            "file": alias,
            "patient": file.patient,
            "instance": file.instance,
            "table_row": file.table_row,
            "found": str(file.found or ""),
            "entry": "" if file.entry is None else json.dumps(file.entry, sort_keys=True),
        }
        for alias, file in sorted(files.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in _COLUMNS])), folder / JOURNAL)
    patients = sorted(seen)
    schema = pa.schema([("patient", pa.string()), ("digests", pa.list_(pa.string()))])
    table = pa.table({"patient": patients, "digests": [sorted(seen[name]) for name in patients]}, schema=schema)
    pq.write_table(table, folder / SEEN)


def take(earlier: Path, out: Path, name: str, sha: str) -> bool:
    """Give `out` the instance `name` of an earlier Collection, by a link where the file system can; False where it was altered."""
    source, target = earlier / name, out / name
    try:
        if file_digest(source) != sha:
            return False
    except FileNotFoundError:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    return True


def holds(path: Path, identifiers: Identifiers) -> bool:
    """Say whether a cleaned file has a value that `identifiers`, which were not known when it was cleaned, would not let stay."""
    dataset = read(path, header=True)
    return isinstance(dataset, Reason) or _holds(dataset, identifiers)


def _holds(dataset: Dataset, identifiers: Identifiers) -> bool:
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if isinstance(element.value, Sequence):
            if any(_holds(item, identifiers) for item in element.value):
                return True
        elif element.VR in ("DS", "IS"):
            if any(identifiers.is_number(value) for value in parts(text_of(dataset, tag))):
                return True
        elif (element.VR in TEXT or element.VR in ("DA", "DT", "TM", "UI")) and identifiers.within(text_of(dataset, tag)):
            return True
    return False
