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

from medpipe.deid import instance, pseudonyms
from medpipe.deid.actions import Cleaner, shifted_date
from medpipe.deid.faces import Faces
from medpipe.deid.identifiers import Identifiers
from medpipe.deid.reading import identity, quiet, read
from medpipe.deid.values import text_of
from medpipe.records import write_bytes
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason


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
            out.append(
                Found(ordinal, None, who, names.uid(text_of(dataset, 0x00080018).strip(" \0")), names.alias("table", key) if key else "")
            )
    return out


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


def deidentify(unit: Unit) -> list[dict[str, Any]]:
    """De-identify one patient's files; return the journal: one entry per file, with pseudonyms only."""
    journal = unit.state / f"{unit.patient}.jsonl"
    done = _entries(journal, unit)
    if len(done) < len(unit.files):
        names = pseudonyms.load(unit.key_file)
        with quiet():
            heads = Faces(unit.settings)
            identifiers, days = _gathered(unit, heads)
            cleaner = Cleaner(unit.settings, names, identifiers, unit.patient, names.shift_days(unit.patient, unit.settings.shift_days_max))
            needles = _needles(identifiers, cleaner.shift_days)
            words = sorted({names.alias("word", word, 16) for word in identifiers.words | identifiers.numbers})
            with journal.open("a") as file:
                for ordinal, path, new in unit.files:
                    if ordinal not in done:
                        done[ordinal] = entry = _one(unit, ordinal, path, new, cleaner, needles, days, heads) | {"words": words}
                        file.write(json.dumps(entry, sort_keys=True) + "\n")
                        file.flush()
                        words = []  # once is enough
    return [done[ordinal] for ordinal, _, _ in unit.files]


def _one(
    unit: Unit, ordinal: int, path: Path, new: str, cleaner: Cleaner, needles: instance.Needles, days: dict[int, int], heads: Faces
) -> dict[str, Any]:
    target, temporary = unit.out / "instances" / unit.patient / f"{new}.dcm", unit.state / f"{unit.patient}.tmp"
    treatment = heads.treatment(ordinal)
    outcome = instance.deidentify(path, target, temporary, cleaner, needles, list(unit.covariates), treatment)
    row = None if outcome.row is None else outcome.row | {"day": days.get(ordinal)}
    head = treatment.head if treatment is not None else None
    return {"ordinal": ordinal, "reason": outcome.reason, "row": row, "counts": dict(outcome.counts), "head": head}


def _gathered(unit: Unit, heads: Faces) -> tuple[Identifiers, dict[int, int]]:
    """Return the patient's identifiers, and for each file the days since the patient's first study."""
    identifiers, dates = Identifiers(), {}
    for ordinal, path, _ in unit.files:
        dataset = read(path, header=True)
        if isinstance(dataset, Reason):
            continue
        identifiers.gather(dataset)
        heads.look(ordinal, path, dataset)
        with contextlib.suppress(ValueError):
            text = text_of(dataset, 0x00080020).strip()
            dates[ordinal] = date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    first = min(dates.values(), default=date.min)
    return identifiers, {ordinal: (day - first).days for ordinal, day in dates.items()}


def _needles(identifiers: Identifiers, shift_days: int) -> instance.Needles:
    """Return what to search written files for; a shifted date that equals another original date is no leak."""
    anywhere, alone = identifiers.needles()
    moved = {shifted_date(day, shift_days) for day in identifiers.dates}
    return instance.Needles(frozenset(anywhere), frozenset(alone - {day.encode() for day in moved if day}))


def _entries(journal: Path, unit: Unit) -> dict[int, dict[str, Any]]:
    """Return the files that are done, and cut off the line that an interrupted run left unfinished."""
    done: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in journal.read_text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry["reason"] or (unit.out / entry["row"]["path"]).is_file():
                    done[entry["ordinal"]] = entry
        write_bytes(journal, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in done.values()).encode())
    return done
