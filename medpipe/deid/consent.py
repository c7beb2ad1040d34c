"""Consent at intake: who of a source may be used, by the ledger and by what headers say themselves.

The ledger permits; a header can only refuse: any Consent for Distribution Flag (0012,0085) other than YES denies all files of
its patient. What is judged here are patients of the source alone, so that an entry about somebody else changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

import medpipe
from medpipe import ledger, records
from medpipe.consent import MAKE_ONE, Why, decide, head, today, told
from medpipe.deid import pseudonyms
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.reading import identity, quiet, read
from medpipe.deid.values import text_of
from medpipe.errors import ConsentError
from medpipe.ledger import Ledger
from medpipe.parallel import each
from medpipe.settings import ConsentSettings
from medpipe.sources.folder import Reason

BATCH = 32
USE_SEQUENCE, FLAG, ETHICS_FROM, ETHICS_TO = 0x00120083, 0x00120085, 0x00120086, 0x00120087


@dataclass(frozen=True)
class Said:
    """What a header says of consent (PS3.3 C.7.2.3)."""

    refused: bool = False
    valid_from: str = ""
    """Days YYYYMMDD of the ethics committee's approval; empty where not said."""
    valid_to: str = ""


def said(dataset: Dataset) -> Said:
    """Read the Consent for Clinical Trial Use Sequence (0012,0083); one that cannot be read refuses. Call within `reading.quiet`."""
    try:
        inner = list(dataset[USE_SEQUENCE].value or ()) if USE_SEQUENCE in dataset else []
        flags = {text_of(item, FLAG).strip(" \0").upper() for item in inner}  # type 1: an item without its flag permits nothing
        flags |= {text_of(dataset, FLAG).strip(" \0").upper() or "YES"}
        starts, ends = ([text_of(item, tag).strip(" \0") for item in (dataset, *inner)] for tag in (ETHICS_FROM, ETHICS_TO))
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception:  # a malformed element can make the library raise anything
        return Said(refused=True)
    return Said(flags != {"YES"}, max(starts), min((end for end in ends if end), default=""))


@dataclass(frozen=True)
class Standing:
    """Who of a source may not be used, and by which ledger and settings that was judged."""

    settings: ConsentSettings
    denied: Mapping[str, Why] = field(default_factory=dict)
    """Patients of the source that the ledger denies."""
    book: Ledger | None = None
    day: date = date.min

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a Collection is made from beside source and settings: who is denied, and nothing else of the ledger."""
        return {"consent": records.digest(sorted(self.denied))} if self.denied else {}

    def facts(self, patients: Mapping[str, Why | None]) -> dict[str, Any]:
        """Return what a record says of its consent; `patients` is everyone in the source, with why not where not."""
        denied = Counter(str(why) for why in patients.values() if why is not None)
        return {
            "check": self.settings.check,
            "settings": self.settings.model_dump(mode="json"),
            "judged_on": self.day.isoformat(),
            "permitted": len(patients) - denied.total(),
            "denied": dict(sorted(denied.items())),
            **head(self.book),
        }

    def judged(self, patients: Iterable[str], refused: Iterable[str] = ()) -> dict[str, Why | None]:
        """Return why each patient may not be used, None where one may; `refused` are those whose headers refuse.

        Raises ConsentError where nobody is left, or more are denied than `consent.denied_max` allows.
        """
        out = {patient: self.denied.get(patient) for patient in patients} | dict.fromkeys(refused, Why.REFUSED)
        why = Counter(reason for reason in out.values() if reason is not None)
        if why.total() > self.settings.denied_max * len(out):
            raise ConsentError(
                f"{why.total()} of the source's {len(out)} patients may not be used ({told(why)}), more than consent.denied_max "
                f"({self.settings.denied_max:g}) allows: record their permission with 'medpipe consent import', or raise the bound"
            )
        if out and why.total() == len(out):
            raise ConsentError(
                f"no patient of the source may be used ({told(why)}): record permissions with 'medpipe consent import', "
                "or set consent.purpose to the use that was permitted"
            )
        return out


def of_dicom(patient_id: str) -> str:
    """Return what a pseudonym is made of for a Patient ID (0010,0020): see `reading.identity`."""
    return f"00100020\x1f{' '.join(patient_id.split())}"


def of_array(patient: str) -> str:
    """Return what a pseudonym is made of for a value of the array `patients`."""
    return f"array {patient}"


def reason(why: Why) -> Reason:
    """Return the reason code under which a denied patient's files are set aside."""
    return Reason.CONSENT_REFUSED if why in (Why.WITHDRAWN, Why.REFUSED) else Reason.NO_CONSENT


def asked(settings: ConsentSettings, names: Pseudonyms, path: Path) -> Ledger | None:
    """Open the ledger; None where there is none. Raises ConsentError where one is asked for, RecordError for one of another key."""
    book = ledger.load(path)
    if book is None and settings.check == "ledger":
        raise ConsentError(f"consent.check asks the consent ledger, and there is none at {path}: {MAKE_ONE}")
    if book is not None:
        ledger.check_key(book, names.key_id)
    return book


def standing(settings: ConsentSettings, book: Ledger | None, people: Mapping[str, Said]) -> Standing:
    """Judge the patients of a source, each with what their headers say of the days of approval."""
    day = today()
    if settings.check == "off":
        gone = frozenset() if book is None else book.withdrawn
        return Standing(settings, {patient: Why.WITHDRAWN for patient in people if patient in gone}, book, day)
    force = {} if book is None else book.in_force
    why = {patient: decide(force.get(patient), settings, day) or _dated(header, day) for patient, header in people.items()}
    return Standing(settings, {patient: found for patient, found in why.items() if found is not None}, book, day)


def _dated(header: Said, day: date) -> Why | None:
    text = day.strftime("%Y%m%d")
    if header.valid_from and text < header.valid_from:
        return Why.NOT_YET_VALID
    return Why.ENDED if header.valid_to and text > header.valid_to else None


@dataclass(frozen=True)
class Look:
    """Files whose patients are wanted."""

    files: tuple[tuple[str, Path], ...] = field(repr=False)
    """(keyed digest of the content, path)."""
    key_file: Path = field(repr=False)


def look(work: Look) -> list[tuple[str, str, str, str]]:
    """Read headers; return (keyed digest, patient, first day, last day of approval) of each, empty where a file has no patient."""
    names, out = pseudonyms.load(work.key_file), []
    for alias, path in work.files:
        with quiet():
            dataset = read(path, header=True)
            if isinstance(dataset, Reason):
                out.append((alias, "", "", ""))
            else:
                header = said(dataset)
                out.append((alias, names.patient(identity(dataset)), header.valid_from, header.valid_to))
    return out


def people(files: Sequence[tuple[str, Path]], key_file: Path, executor: Executor | None) -> dict[str, Said]:
    """Return the patients of DICOM files, given as (keyed digest of the content, path), with the days that their headers name.

    What was read once is remembered beside the key, under keyed digests; a cache that cannot be read or written is done without.
    """
    cache = key_file.with_name(f"{key_file.name}.patients")
    known: dict[str, list[str]] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        text = json.loads(cache.read_text())
        known = {str(alias): [str(part) for part in row] for alias, row in text["files"].items() if text["code"] == medpipe.__version__}
    new = [(alias, path) for alias, path in files if len(known.get(alias, ())) != 3]
    batches = [Look(tuple(new[at : at + BATCH]), key_file) for at in range(0, len(new), BATCH)]
    for _, found in each(executor, look, batches):
        known |= {alias: list(row) for alias, *row in found}
    if new:
        with contextlib.suppress(OSError):
            kept = {alias: known[alias] for alias, _ in files}
            records.write_bytes(cache, json.dumps({"code": medpipe.__version__, "files": kept}, sort_keys=True).encode())
            cache.chmod(0o600)
    out: dict[str, Said] = {}
    for alias, _ in files:
        patient, start, end = known[alias]
        if patient:
            before = out.get(patient, Said())
            ends = [day for day in (before.valid_to, end) if day]
            out[patient] = Said(False, max(before.valid_from, start), min(ends, default=""))
    return out
