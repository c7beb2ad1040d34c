"""One patient as a unit of work: gather the identifiers from all headers, then de-identify file by file.

Every finished file leaves a line in the patient's journal, so that an interrupted run goes on with the next one. What
is passed in and what comes back may cross machines: file names are hidden from representations, and only pseudonyms,
counts and keyed digests return.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset

from medpipe.deid import earlier, instance, profile, pseudonyms
from medpipe.deid.actions import Cleaner
from medpipe.deid.consent import said
from medpipe.deid.faces import Faces
from medpipe.deid.identifiers import Identifiers
from medpipe.deid.needles import Needles
from medpipe.deid.reading import identity, quiet, read
from medpipe.deid.times import shifted_date
from medpipe.deid.values import text_of
from medpipe.records import write_bytes
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

KEPT_BYTES = 2**27
"""Files of one patient that are kept in memory between the search for identifiers and the cleaning."""


@dataclass(frozen=True)
class Search:
    """Files to look at in one go."""

    files: tuple[tuple[int, Path], ...] = field(repr=False)
    """(ordinal, path)."""
    key_file: Path = field(repr=False)
    table_key: str


@dataclass(frozen=True)
class Found:
    """What the header of one file tells about where it belongs, under pseudonyms."""

    ordinal: int
    reason: Reason | None
    patient: str = ""
    instance: str = ""
    table_row: str = ""
    """Keyed digest of the value that the table is matched by."""
    refused: bool = False
    """Its header refuses consent."""


def search(work: Search) -> list[Found]:
    """Read headers and say to which patient each file belongs."""
    names = pseudonyms.load(work.key_file)
    out = []
    for ordinal, path in work.files:
        with quiet():
            dataset = read(path, header=True)
            if isinstance(dataset, Reason):
                out.append(Found(ordinal, dataset))
                continue
            who = names.patient(identity(dataset))
            key = text_of(dataset, tag_for_keyword(work.table_key) or 0).strip()
            uid, row = names.uid(text_of(dataset, 0x00080018).strip(" \0")), names.alias("table", key) if key else ""
            out.append(Found(ordinal, None, who, uid, row, said(dataset).refused))
    return out


@dataclass(frozen=True)
class Taken:
    """What an earlier Collection holds of one patient."""

    path: Path = field(repr=False)
    entries: dict[int, dict[str, Any]]
    """Ordinal of the file to what became of it."""
    digests: dict[str, str]
    """Path of an instance to its SHA-256 there."""
    seen: frozenset[str]
    """Keyed digests of what identified the patient."""


@dataclass(frozen=True)
class Unit:
    """All files of one patient."""

    patient: str
    files: tuple[tuple[int, Path, str], ...] = field(repr=False)
    """(ordinal, path, pseudonym of the instance)."""
    out: Path = field(repr=False)
    """Folder of the Collection."""
    state: Path = field(repr=False)
    key_file: Path = field(repr=False)
    settings: DeidSettings
    covariates: tuple[str, ...]
    taken: Taken | None = None


@dataclass
class Journal:
    """What became of a patient's files, as far as it is known, and the keyed digests of what identifies the patient."""

    file: Path
    seen: list[str] = field(default_factory=list)
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, unit: Unit) -> Journal:
        """Take up what an interrupted run left, and cut off the line that it did not finish."""
        journal = cls(unit.state / f"{unit.patient}.jsonl")
        with contextlib.suppress(FileNotFoundError):
            for line in journal.file.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, list):
                        journal.seen = entry
                    elif entry["reason"] or (unit.out / entry["row"]["path"]).is_file():
                        journal.entries[entry["ordinal"]] = entry
            lines = [json.dumps(line, sort_keys=True) for line in (journal.seen, *journal.entries.values())]
            write_bytes(journal.file, "".join(f"{line}\n" for line in lines).encode())
        return journal

    def add(self, entry: dict[str, Any]) -> None:
        """Add what became of a file."""
        self.entries[entry["ordinal"]] = entry
        self._append(entry)

    def name(self, seen: frozenset[str]) -> None:
        """Add the digests of what identifies the patient."""
        self.seen = sorted(seen)
        self._append(self.seen)

    def _append(self, line: object) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")


def deidentify(unit: Unit) -> Journal:
    """De-identify one patient's files; return the journal, which holds pseudonyms only."""
    journal = Journal.read(unit)
    rest = [file for file in unit.files if file[0] not in journal.entries]
    if rest and unit.taken is not None and len(unit.taken.entries) == len(unit.files):
        journal.name(unit.taken.seen)  # no file of this patient is new: none is read
        rest = [file for file in rest if not _taken(unit, unit.taken, file[0], journal, None)]
    if rest:
        _clean(unit, rest, journal)
    return journal


def _clean(unit: Unit, rest: list[tuple[int, Path, str]], journal: Journal) -> None:
    names = pseudonyms.load(unit.key_file)
    with quiet():
        taken, heads = unit.taken, Faces(unit.settings)
        known = frozenset(taken.entries if taken else ())
        identifiers, days, kept = _gathered(unit, {ordinal for ordinal, _, _ in rest} - known, heads)
        cleaner = Cleaner(unit.settings, names, identifiers, unit.patient, names.shift_days(unit.patient, unit.settings.shift_days_max))
        needles = _needles(identifiers, cleaner.shift_days)
        journal.name(identifiers.digests(names))
        new = identifiers.unseen(taken.seen if taken else frozenset(), names)
        for ordinal, path, instance_ in rest:
            same = taken is not None and heads.settled(ordinal, known) and _unmoved(taken, ordinal, new, cleaner.shift_days)
            if taken is not None and same and _taken(unit, taken, ordinal, journal, days):
                continue
            dataset = kept.pop(ordinal) if ordinal in kept else read(path)
            target, temporary = unit.out / "instances" / unit.patient / f"{instance_}.dcm", unit.state / f"{unit.patient}.tmp"
            treatment = heads.treatment(ordinal)
            outcome = instance.deidentify(dataset, target, temporary, cleaner, needles, list(unit.covariates), treatment)
            row = None if outcome.row is None else outcome.row | {"day": days.get(ordinal)}
            head = treatment.head if treatment is not None else None
            journal.add({"ordinal": ordinal, "reason": outcome.reason, "row": row, "counts": dict(outcome.counts), "head": head})


def _unmoved(taken: Taken, ordinal: int, new: Identifiers, shift_days: int) -> bool:
    """Say whether a file that was cleaned before would come out the same although the patient has `new` identifiers."""
    entry = taken.entries.get(ordinal)
    if entry is None or entry["row"] is None:
        return entry is not None
    path = taken.path / entry["row"]["path"]
    try:
        return instance.verified(path, path.read_bytes(), _needles(new, shift_days)) and not earlier.holds(path, new)
    except OSError:
        return False


def _taken(unit: Unit, taken: Taken, ordinal: int, journal: Journal, days: dict[int, int] | None) -> bool:
    """Take one file's result from the earlier Collection, with its day counted anew where `days` says so; False where it is altered."""
    entry = taken.entries[ordinal]
    if entry["row"] is not None:
        name = entry["row"]["path"]
        if not earlier.take(taken.path, unit.out, name, taken.digests.get(name, "")):
            return False
        if days is not None:
            entry = entry | {"row": entry["row"] | {"day": days.get(ordinal)}}
    journal.add(entry | {"ordinal": ordinal})
    return True


def _gathered(unit: Unit, wanted: set[int], heads: Faces) -> tuple[Identifiers, dict[int, int], dict[int, FileDataset | Reason]]:
    """Return the patient's identifiers, for each file the days since the patient's first study, and the `wanted` files as read.

    Where the files are small, each is read once and kept; else only their headers are read here.
    """
    identifiers, dates = Identifiers(retained=profile.retained(unit.settings)), {}
    keep = sum(_size(path) for ordinal, path, _ in unit.files if ordinal in wanted) <= KEPT_BYTES
    kept: dict[int, FileDataset | Reason] = {}
    for ordinal, path, _ in unit.files:
        whole = keep and ordinal in wanted
        dataset = read(path, header=not whole)
        if whole:
            kept[ordinal] = dataset
        if isinstance(dataset, Reason):
            continue
        identifiers.gather(dataset)
        heads.look(ordinal, path, dataset)
        with contextlib.suppress(ValueError):
            text = text_of(dataset, 0x00080020).strip()
            dates[ordinal] = date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    identifiers.dates -= identifiers.told
    first = min(dates.values(), default=date.min)
    return identifiers, {ordinal: (day - first).days for ordinal, day in dates.items()}, kept


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it went in the meantime: reading it will say so


def _needles(identifiers: Identifiers, shift_days: int) -> Needles:
    """Return what to search written files for; a shifted date that equals another original date is no leak."""
    anywhere, alone = identifiers.needles()
    moved = {shifted_date(day, shift_days) for day in identifiers.dates}
    return Needles(frozenset(anywhere), frozenset(alone - {day.encode() for day in moved if day}))
