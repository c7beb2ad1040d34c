"""Intake of a folder: which files are whose, and which are set aside, by their headers alone.

A file that an earlier Collection knows by its content is not opened again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medpipe.consent import Why
from medpipe.deid import consent, patient
from medpipe.deid.consent import Standing
from medpipe.deid.earlier import Earlier, File
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.parallel import each
from medpipe.progress import Progress
from medpipe.settings import SourceSettings
from medpipe.sources.folder import Entry, Reason

BATCH = 32
"""Headers read in one go."""


@dataclass(frozen=True)
class Source:
    """A folder (or one file of arrays) that was looked at, the key, and the Collection that was made of it before."""

    path: Path = field(repr=False)
    entries: Sequence[Entry]
    digests: Sequence[str]
    """SHA-256 of each file, "unreadable" where it cannot be read."""
    fingerprint: str
    """SHA-256 of the names and digests of all files."""
    key_file: Path = field(repr=False)
    names: Pseudonyms
    standing: Standing
    """Who of its patients may be used."""
    earlier: Earlier | None = None

    def alias(self, ordinal: int) -> str:
        """Return the keyed digest by which a Collection remembers a file."""
        return self.names.alias("content", self.digests[ordinal])


@dataclass(frozen=True)
class Sorted:
    """The files of a source in their places."""

    reasons: dict[int, Reason]
    """Files that are set aside."""
    patients: dict[str, tuple[tuple[int, Path, str], ...]] = field(repr=False)
    """Patient to files: (ordinal, path, pseudonym of the instance)."""
    found: Mapping[int, patient.Found]
    """What each header told, of the files whose header was wanted; nothing of patients who may not be used."""
    judged: Mapping[str, Why | None] = field(repr=False)
    """Why each patient of the source may not be used, None where one may."""


def sort(source: Source, settings: SourceSettings, executor: Executor | None, progress: Progress) -> Sorted:
    """Read the headers that are new; return the files that are set aside, and the files by patient."""
    reasons, first = _by_content(source, settings)
    wanted = [entry.ordinal for entry in source.entries if entry.ordinal not in reasons]
    paths = {ordinal: source.path / source.entries[ordinal].name for ordinal in wanted}
    found = {ordinal: known for ordinal in wanted if (known := _known(source, ordinal)) is not None}
    files = [(ordinal, paths[ordinal]) for ordinal in wanted if ordinal not in found]
    batches = [patient.Search(tuple(files[at : at + BATCH]), source.key_file, settings.table_key) for at in range(0, len(files), BATCH)]
    for _, some in each(executor, patient.search, batches):
        found |= {item.ordinal: item for item in some}
        progress("read headers", len(found), len(wanted))
    # A copy of a file that is no DICOM is no duplicate image but one more such file.
    for ordinal, reason in reasons.items():
        original = found.get(first.get(source.digests[ordinal], -1))
        if reason is Reason.DUPLICATE and original is not None and original.reason is not None:
            reasons[ordinal] = original.reason
    whose = {item.patient: item for item in found.values() if item.reason is None}
    judged = source.standing.judged(whose, {item.patient for item in found.values() if item.refused})
    denied = {ordinal: why for ordinal, item in found.items() if (why := judged.get(item.patient)) is not None}
    reasons |= {ordinal: consent.reason(why) for ordinal, why in denied.items()}
    times = Counter(item.instance for item in found.values() if item.reason is None)
    found = {ordinal: item for ordinal, item in found.items() if ordinal not in denied}
    patients: dict[str, list[tuple[int, Path, str]]] = defaultdict(list)
    for ordinal, item in sorted(found.items()):
        if item.reason is not None:
            reasons[ordinal] = item.reason
        elif times[item.instance] > 1:
            reasons[ordinal] = Reason.CONFLICTING_DUPLICATE
        else:
            patients[item.patient].append((ordinal, paths[ordinal], item.instance))
    return Sorted(reasons, {name: tuple(files) for name, files in patients.items()}, found, judged)


def _by_content(source: Source, settings: SourceSettings) -> tuple[dict[int, Reason], dict[str, int]]:
    """Return the files that their bytes alone set aside, and the first file of each content."""
    reasons: dict[int, Reason] = {}
    first: dict[str, int] = {}
    for entry, digest in zip(source.entries, source.digests, strict=True):
        if entry.name == settings.table:
            reasons[entry.ordinal] = Reason.TABLE
        elif digest == "unreadable":
            reasons[entry.ordinal] = Reason.UNREADABLE if entry.regular else Reason.NOT_DICOM
        elif first.setdefault(digest, entry.ordinal) != entry.ordinal:
            reasons[entry.ordinal] = Reason.DUPLICATE
    return reasons, first


def contents(source: Source, settings: SourceSettings) -> list[tuple[str, Path]]:
    """Return each content of the source once: (keyed digest, path)."""
    reasons, _ = _by_content(source, settings)
    return [(source.alias(entry.ordinal), source.path / entry.name) for entry in source.entries if entry.ordinal not in reasons]


def _known(source: Source, ordinal: int) -> patient.Found | None:
    file = source.earlier.files.get(source.alias(ordinal)) if source.earlier is not None else None
    return None if file is None else patient.Found(ordinal, file.found, file.patient, file.instance, file.table_row)


def taken(source: Source, name: str, files: Sequence[tuple[int, Path, str]]) -> patient.Taken | None:
    """Return what the earlier Collection holds of one patient, None where it is nothing that can be used."""
    earlier = source.earlier
    if earlier is None or name not in earlier.seen:
        return None
    entries = earlier.of(name, {ordinal: source.alias(ordinal) for ordinal, _, _ in files})
    names = {ordinal: entry["row"]["path"] for ordinal, entry in entries.items() if entry["row"]}
    digests = {path: earlier.record.files[path][1] for path in names.values()}
    return patient.Taken(earlier.record.path, entries, digests, earlier.seen[name]) if entries else None


def files(source: Source, sorted_out: Sorted, entries: Sequence[dict[str, Any]]) -> dict[str, File]:
    """Return what a later run may want to know of each file, by its keyed digest."""
    became = {entry["ordinal"]: {name: value for name, value in entry.items() if name != "ordinal"} for entry in entries}
    return {
        source.alias(ordinal): File(item.patient, item.instance, item.table_row, item.reason, became.get(ordinal))
        for ordinal, item in sorted_out.found.items()
    }
