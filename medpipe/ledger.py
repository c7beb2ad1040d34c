"""The consent ledger: an append-only file of JSON lines, each with the digest of the line before it.

Beside it lies a head file with the number of entries and the digest of the last one. A line that was changed, removed
or put in breaks the chain; lines that were cut off at the end are missed by the head; and where the head went too, by
the records that were made under a later head (`Ledger.holds`). Entries name patients by pseudonym alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from medpipe.errors import InputError, RecordError
from medpipe.records import canonical, write_json

NAME = "consent.jsonl"
SCHEMA = 1
Kind = Literal["permit", "withdraw"]
_HEADING = "medpipe consent ledger"
_LISTS, _DATES = ("modifiers", "diseases"), ("valid_from", "valid_to", "publish_from")
BACKUP = "put the ledger and its head file back from a backup"


@dataclass(frozen=True)
class Entry:
    """What one patient permitted, or that they withdrew it."""

    patient: str
    """Keyed pseudonym."""
    kind: Kind
    permission: str = ""
    """Code of the Data Use Ontology: GRU, HMB, DS, …"""
    modifiers: tuple[str, ...] = ()
    diseases: tuple[str, ...] = ()
    """Where the permission is DS."""
    valid_from: date | None = None
    valid_to: date | None = None
    """Last day of the permission."""
    publish_from: date | None = None
    """Where a modifier is MOR: the first day on which anything may be published."""
    ethics: str = ""
    """Number of the ethics committee's approval."""
    evidence: str = ""
    """SHA-256 of the signed form."""
    again: bool = False
    """The patient permits again after a withdrawal; without it no permission lifts one."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields that say something, in JSON's types."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value.isoformat() if isinstance(value, date) else _plain(value) for name, value in given.items() if value}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _entry(text: dict[str, Any]) -> Entry:
    known = {item.name for item in fields(Entry)}
    given = {name: value for name, value in text.items() if name in known}
    given |= {name: tuple(map(str, given[name])) for name in _LISTS if name in given}
    given |= {name: date.fromisoformat(given[name]) for name in _DATES if name in given}
    entry = Entry(**given)
    if entry.kind not in ("permit", "withdraw"):
        raise ValueError("an entry of another kind")
    return entry


@dataclass(frozen=True)
class Ledger:
    """A ledger that was read and whose chain is whole."""

    path: Path
    key: str
    """Name of the pseudonym key that its patients are named by."""
    entries: tuple[Entry, ...]
    """The first is entry 1."""
    digests: tuple[str, ...]
    """SHA-256 of each line, that of the heading first."""
    size: int
    """Bytes of whole lines: what follows is an append that was cut off."""

    @property
    def head(self) -> str:
        """Digest of the last line, which stands for all of them."""
        return self.digests[-1]

    @cached_property
    def in_force(self) -> dict[str, Entry]:
        """The entry that counts for each patient: the last, but only a permission that says "again" lifts a withdrawal."""
        out: dict[str, Entry] = {}
        for entry in self.entries:
            before = out.get(entry.patient)
            if before is None or before.kind == "permit" or entry.kind == "withdraw" or entry.again:
                out[entry.patient] = entry
        return out

    @cached_property
    def withdrawn(self) -> frozenset[str]:
        """The patients whose withdrawal is in force."""
        return frozenset(patient for patient, entry in self.in_force.items() if entry.kind == "withdraw")

    def holds(self, head: str, entries: int) -> bool:
        """Say whether this ledger goes on from what its first `entries` entries were when their head was `head`."""
        return 0 <= entries < len(self.digests) and self.digests[entries] == head


def place(workspace: Path) -> Path:
    """Return where a workspace keeps its ledger."""
    return workspace / "private" / NAME


def named(path: Path | None) -> Path | None:
    """Return the ledger that a person named; raises InputError where it is not there: a mistyped name must not pass for an empty ledger."""
    if path is not None and not path.exists() and not head_file(path).exists():
        raise InputError(f"there is no consent ledger at {path}: correct its name, or make it with 'medpipe consent import'")
    return path


def head_file(path: Path) -> Path:
    """Return the head file of a ledger."""
    return path.with_name(f"{path.name}.head")


def load(path: Path) -> Ledger | None:
    """Read a ledger; None where there never was one.

    Raises RecordError naming the entry where it was altered, cut off or lost, InputError where others may read it.
    """
    head = _head(path)  # first: an append in the meantime makes the ledger longer than its head says, which is no fault
    try:
        data = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except (IsADirectoryError, NotADirectoryError):
        raise InputError(f"the consent ledger {path} is no file: give the file of a ledger, or a new name to make one") from None
    except FileNotFoundError:
        if head is None or head[0] == 0:
            return None
        raise RecordError(f"the consent ledger {path} is gone, and its head file says that it held {head[0]} entries: {BACKUP}") from None
    if mode & 0o077:
        raise InputError(f"the consent ledger {path} may be read by others than its owner: run 'chmod 600' on it")
    lines = data.split(b"\n")[:-1]  # what follows the last line end is an append that was cut off
    texts, digests = _chain(path, lines)
    if not lines or texts[0].get("ledger") != _HEADING or texts[0].get("schema") != SCHEMA:
        raise RecordError(f"{path} does not begin as a consent ledger does: {BACKUP}")
    entries = []
    for number, text in enumerate(texts[1:], start=1):
        try:
            entries.append(_entry(text))
        except (TypeError, ValueError):
            raise RecordError(f"entry {number} of the consent ledger {path} is not one that this medpipe writes: {BACKUP}") from None
    ledger = Ledger(path, str(texts[0].get("key")), tuple(entries), digests, sum(len(line) + 1 for line in lines))
    _against_head(ledger, head)
    return ledger


def _chain(path: Path, lines: Sequence[bytes]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the lines' values and digests; raises RecordError where a line does not follow from the one before."""
    texts: list[dict[str, Any]] = []
    digests: list[str] = []
    for number, line in enumerate(lines):
        try:
            text = json.loads(line)
            written = isinstance(text, dict) and canonical(text) == line
        except ValueError:
            written = False
        if not written:
            raise RecordError(f"entry {number} of the consent ledger {path} was altered: {BACKUP}")
        if text.get("entry") != number or text.get("previous", "") != (digests[-1] if digests else ""):
            what = f"entry {number - 1} of the consent ledger {path} was altered, or entries beside it were removed or put in"
            raise RecordError(f"{what} (entry {number} does not follow from it): {BACKUP}")
        texts.append(text)
        digests.append(hashlib.sha256(line).hexdigest())
    return texts, tuple(digests)


def _against_head(ledger: Ledger, head: tuple[int, str] | None) -> None:
    last = len(ledger.entries)
    if head is None:
        raise RecordError(f"the head file of the consent ledger {ledger.path} is gone, so nobody can say whether it is whole: {BACKUP}")
    if head[0] > last:
        raise RecordError(
            f"the consent ledger {ledger.path} was cut off after entry {last}: its head file says that it held {head[0]}, so {BACKUP}"
        )
    if not ledger.holds(head[1], head[0]):
        raise RecordError(f"entry {head[0]} of the consent ledger {ledger.path} was altered: {BACKUP}")


def _head(path: Path) -> tuple[int, str] | None:
    try:
        text = json.loads(head_file(path).read_text())
        return int(text["entries"]), str(text["head"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise RecordError(f"{head_file(path)} was altered: {BACKUP}") from None


def append(path: Path, key: str, choose: Callable[[Ledger], Sequence[Entry]]) -> tuple[Ledger, tuple[Entry, ...]]:
    """Append the entries that `choose` returns for the ledger as it is; return the ledger and what was appended.

    One process at a time; the others wait. Makes the ledger, with mode 0600, where there is none. An append that was killed
    leaves whole entries or a torn line, which the next one cuts off. Raises RecordError for a ledger of another key.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path):
        ledger = load(path) or _created(path, key)
        check_key(ledger, key)
        new = tuple(choose(ledger))
        lines, previous = [], ledger.head
        for number, entry in enumerate(new, start=len(ledger.digests)):
            lines.append(canonical({"entry": number, "previous": previous, "recorded": _now(), **entry.as_json()}))
            previous = hashlib.sha256(lines[-1]).hexdigest()
        with path.open("r+b") as file:
            file.truncate(ledger.size)
            file.seek(ledger.size)
            file.write(b"".join(line + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        _write_head(path, len(ledger.entries) + len(new), previous)
        whole = load(path)
        assert whole is not None
        return whole, new


def check_key(ledger: Ledger, key: str) -> None:
    """Raise RecordError unless the ledger names its patients under the pseudonym key `key`."""
    if ledger.key != key:
        raise RecordError(
            f"the consent ledger {ledger.path} names its patients under another pseudonym key, so it would know none of them: "
            "give the key that it was made with, or the ledger of this key"
        )


def _created(path: Path, key: str) -> Ledger:
    heading = canonical({"entry": 0, "ledger": _HEADING, "schema": SCHEMA, "key": key, "recorded": _now()})
    first = hashlib.sha256(heading).hexdigest()
    _write_head(path, 0, first)  # before the ledger: a kill in between loses nothing, and afterwards a missing head is a fault
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(heading + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return Ledger(path, key, (), (first,), len(heading) + 1)


def _write_head(path: Path, entries: int, head: str) -> None:
    write_json(head_file(path), {"entries": entries, "head": head})
    head_file(path).chmod(0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
