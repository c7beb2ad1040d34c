"""Records: the folders that verbs read and write, and the chain of custody between them.

A record is a folder with a `record.json` written last. `made_from` says what it was made from (the content of the
input records, the settings, the seed, the code version) and `content` is the digest of its payload; the `content` of an
input enters the `made_from` of the output, so the chain is a Merkle chain: nothing upstream can change unnoticed.

While a record is being made its folder holds `making.json` (what it is made from) and `state/` (scratch from which an
interrupted run goes on); both are gone once it is sealed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medpipe.errors import InputError, RecordError

Noun = Literal["Collection", "Dataset", "Checkpoint", "Cohort", "Report", "Release"]
RECORD, MAKING, LOCK, STATE = "record.json", "making.json", ".lock", "state"
SCHEMA = 1
_NOT_PAYLOAD = {RECORD, MAKING, LOCK}
_LEFT_BEHIND = re.compile(r"^\..+\.\d+\.tmp$|\.[0-9a-f]{32}\.partial$")  # write_bytes here, zarr's LocalStore


def canonical(value: Any) -> bytes:
    """Encode `value` as JSON in its one canonical form: sorted keys, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` so that a reader finds the old file or the whole new one, never a part."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a temporary file beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class MadeFrom:
    """What a record is made from: equal `MadeFrom`, equal record."""

    noun: Noun
    inputs: Mapping[str, str]
    """Role to content digest, such as `{"dataset": "9f…"}`."""
    settings: Mapping[str, Any]
    """The sections of the recipe that the verb reads, in JSON's types."""
    seed: int
    code: str
    """Version of medpipe."""

    def as_json(self) -> dict[str, Any]:
        return {
            "noun": self.noun,
            "inputs": dict(self.inputs),
            "settings": dict(self.settings),
            "seed": self.seed,
            "code": self.code,
        }

    @property
    def digest(self) -> str:
        return digest(self.as_json())

    def place(self, workspace: Path) -> Path:
        """Return the folder that this record has in a workspace: `<workspace>/<noun>/<made_from[:12]>`."""
        return workspace / self.noun.lower() / self.digest[:12]


@dataclass(frozen=True)
class Record:
    """A finished record on disk."""

    path: Path
    noun: Noun
    made_from: Mapping[str, Any]
    content: str
    facts: Mapping[str, Any]
    """What a reader wants to know without opening the payload: counts, shapes, settings that rebuild it."""
    files: Mapping[str, tuple[int, str]]
    """Payload: path inside the record to (bytes, SHA-256)."""
    made_from_digest: str = field(default="")


def load(path: Path | str, noun: Noun | None = None, *, verify: bool = False) -> Record:
    """Open the finished record at `path`; with `verify`, digest its payload again.

    Raises RecordError when it is missing, unfinished, of another noun, or altered.
    """
    path = Path(path)
    try:
        text = json.loads((path / RECORD).read_text())
    except FileNotFoundError:
        state = "is not finished: run the verb again" if (path / MAKING).exists() else "is not a record: it has no record.json"
        raise RecordError(f"{path} {state}") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path / RECORD} cannot be read ({type(error).__name__}): make the record again") from None
    try:
        seal = text.pop("seal")
        record = Record(
            path=path,
            noun=text["noun"],
            made_from=text["made_from"],
            content=text["content"],
            facts=text["facts"],
            files={name: (size, sha) for name, (size, sha) in text["files"].items()},
            made_from_digest=digest(text["made_from"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RecordError(f"{path / RECORD} lacks fields of a record: make the record again") from None
    if seal != digest(text) or record.content != digest(text["files"]):
        raise RecordError(f"{path / RECORD} was altered after it was sealed: make the record again")
    if noun is not None and record.noun != noun:
        raise RecordError(f"{path} is a {record.noun}, and a {noun} is needed here")
    problems = altered(record, contents=verify)
    if problems:
        raise RecordError(f"{path} was altered after it was sealed ({problems[0]}): make the record again")
    return record


def altered(record: Record, *, contents: bool = True) -> list[str]:
    """List what differs from what was sealed; without `contents` only presence and sizes are compared."""
    found = dict(_payload(record.path))
    problems = [f"{name} is missing" for name in record.files if name not in found]
    problems += [f"{name} was added" for name in found if name not in record.files]
    for name, (size, sha) in record.files.items():
        if name not in found:
            continue
        if found[name].stat().st_size != size or (contents and file_digest(found[name]) != sha):
            problems.append(f"{name} has other content")
    return sorted(problems)


def _payload(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in _NOT_PAYLOAD and not name.startswith(f"{STATE}/"):
            yield name, path


@dataclass
class Making:
    """A record that is being made: write the payload under `path`, scratch under `state`, then `seal`."""

    path: Path
    made_from: MadeFrom

    @property
    def state(self) -> Path:
        """Scratch from which an interrupted run goes on; removed by `seal`."""
        folder = self.path / STATE
        folder.mkdir(exist_ok=True)
        return folder

    def seal(self, facts: Mapping[str, Any]) -> Record:
        """Digest the payload and write `record.json` last: from here on the record is finished."""
        for path in self.path.rglob("*"):
            if _LEFT_BEHIND.search(path.name) and path.is_file():
                path.unlink()  # a killed writer left it: sealed, it would make this record differ from an uninterrupted one
        files = {name: [path.stat().st_size, file_digest(path)] for name, path in _payload(self.path)}
        text = {
            "schema": SCHEMA,
            "noun": self.made_from.noun,
            "made_from": self.made_from.as_json(),
            "content": digest(files),
            "files": files,
            "facts": dict(facts),
        }
        text["seal"] = digest(text)
        write_json(self.path / RECORD, text)
        (self.path / MAKING).unlink(missing_ok=True)
        shutil.rmtree(self.path / STATE, ignore_errors=True)
        return load(self.path)


def finished(path: Path, made_from: MadeFrom) -> Record | None:
    """Return the record at `path` if it is finished and made from the same things, None if it is still to be made.

    Raises RecordError if the folder holds anything else.
    """
    if (path / RECORD).exists():
        record = load(path)
        if record.made_from_digest != made_from.digest:
            raise RecordError(f"{path} holds a {record.noun} made from something else{_difference(record, made_from)}: give another folder")
        return record
    if (path / MAKING).exists():
        if _begun(path) != made_from.digest:
            raise RecordError(f"{path} holds an unfinished record made from something else: give another folder or remove it")
    elif path.is_dir() and any(entry.name != LOCK and not _LEFT_BEHIND.search(entry.name) for entry in path.iterdir()):
        raise RecordError(f"{path} is not empty and holds no record: give an empty or a new folder")
    elif path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, and a folder to write is needed")
    return None


def _begun(path: Path) -> str:
    """Return the digest of what the unfinished record at `path` is made from; empty where that cannot be read."""
    try:
        return str(json.loads((path / MAKING).read_text())["digest"])
    except (ValueError, KeyError, TypeError):
        return ""


def _difference(record: Record, made_from: MadeFrom) -> str:
    """Name the first thing that differs, so that a person knows what to change."""
    wanted = made_from.as_json()
    for part in ("noun", "inputs", "seed", "code"):
        if record.made_from.get(part) != wanted[part]:
            return f" (other {part})"
    old = record.made_from.get("settings", {})
    for section, values in wanted["settings"].items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if old.get(section, {}).get(name) != value:
                return f" (other {section}.{name})"
    return " (other settings)"


@contextlib.contextmanager
def making(path: Path, made_from: MadeFrom) -> Iterator[Making]:
    """Begin the record at `path`, or go on with it where an earlier run stopped; one process at a time.

    Call `finished` first. Raises BlockingIOError when another process is making the same record.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{path} is being made by another process: wait for it, or stop it") from None
        if not (path / MAKING).exists():
            write_json(path / MAKING, {"digest": made_from.digest, "made_from": made_from.as_json()})
        yield Making(path, made_from)
