"""A folder of files as a source: what lies in it, its fingerprint, and why a file cannot be used.

Files are named by their place in the sorted listing (their ordinal), never by their name: names hold patients' names and
numbers. Nothing is ignored: whatever is not an image ends as a count under a `Reason`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from medpipe.errors import InputError
from medpipe.records import file_digest, write_bytes

FRESH_S = 2.0
"""A file changed this short ago may change again within one tick of the file system's clock: its digest is not cached."""


class Reason(StrEnum):
    """Why a file became no instance of the Collection: stable codes, each with a sentence in `SENTENCES`."""

    TABLE = "TABLE"
    NOT_DICOM = "NOT_DICOM"
    DICOMDIR = "DICOMDIR"
    DUPLICATE = "DUPLICATE"
    NO_PIXELS = "NO_PIXELS"
    NO_CONSENT = "NO_CONSENT"
    CONSENT_REFUSED = "CONSENT_REFUSED"
    REPORT = "REPORT"
    DOCUMENT = "DOCUMENT"
    AUDIO = "AUDIO"
    UNREADABLE = "UNREADABLE"
    TRUNCATED = "TRUNCATED"
    MALFORMED = "MALFORMED"
    INCOMPLETE_HEADER = "INCOMPLETE_HEADER"
    CONFLICTING_DUPLICATE = "CONFLICTING_DUPLICATE"
    UNDECODABLE = "UNDECODABLE"
    EMBEDDED_OVERLAY = "EMBEDDED_OVERLAY"
    BURNED_IN_TEXT = "BURNED_IN_TEXT"
    RESIDUAL_TEXT = "RESIDUAL_TEXT"
    FACE = "FACE"
    FACE_NOT_REMOVED = "FACE_NOT_REMOVED"
    RESIDUAL_IDENTIFIER = "RESIDUAL_IDENTIFIER"


SENTENCES: dict[Reason, str] = {
    Reason.TABLE: "The table of labels and covariates, read as such.",
    Reason.NOT_DICOM: "Not a DICOM file.",
    Reason.DICOMDIR: "The index of a medium; it repeats patients' names and is not needed.",
    Reason.DUPLICATE: "The same bytes as another file; the first in the listing is used.",
    Reason.NO_PIXELS: "A DICOM object that is not an image, or, with `deid.objects: all`, of a kind that is not known to be clean.",
    Reason.REPORT: "A report, whose content stays out unless `deid.structured_content` is `clean`.",
    Reason.DOCUMENT: "An encapsulated document (PDF, CDA, a model): what its pages show cannot be verified.",
    Reason.AUDIO: "A recording of sound: what is said in it cannot be verified.",
    Reason.NO_CONSENT: "Its patient's permission for this use is not in the consent ledger, does not cover it, or is out of date.",
    Reason.CONSENT_REFUSED: "Its patient withdrew consent, or a header of one of the patient's files refuses it.",
    Reason.UNREADABLE: "The operating system could not read it.",
    Reason.TRUNCATED: "It ends before its data do.",
    Reason.MALFORMED: "Its structure breaks the standard so that it cannot be cleaned with certainty.",
    Reason.INCOMPLETE_HEADER: "It does not say which object it is (SOP Class UID or SOP Instance UID is missing).",
    Reason.CONFLICTING_DUPLICATE: "It has the SOP Instance UID of another file and other content; which one is right is unknown.",
    Reason.UNDECODABLE: "Its pixels cannot be decoded, so text burned into them cannot be looked for.",
    Reason.EMBEDDED_OVERLAY: "An overlay hides in the unused bits of compressed pixels.",
    Reason.BURNED_IN_TEXT: "Text is burned into its pixels.",
    Reason.RESIDUAL_TEXT: "Text was still found in its pixels after it was blacked out.",
    Reason.FACE: "It shows a head, and the recipe lets no head through.",
    Reason.FACE_NOT_REMOVED: "It shows a head, and that no face can be seen in it could not be made certain.",
    Reason.RESIDUAL_IDENTIFIER: "One of the patient's identifiers was still found in the written file.",
}

SET_ASIDE = frozenset(
    {
        Reason.TABLE,
        Reason.NOT_DICOM,
        Reason.DICOMDIR,
        Reason.DUPLICATE,
        Reason.NO_PIXELS,
        Reason.NO_CONSENT,
        Reason.CONSENT_REFUSED,
        Reason.REPORT,
        Reason.DOCUMENT,
        Reason.AUDIO,
    }
)
"""Reasons that are ordinary: counted, but not held against `deid.quarantine_max`; those of consent have a bound of their own."""


@dataclass(frozen=True)
class Entry:
    """One file of the source. Its name identifies patients: it is in no representation of the object."""

    ordinal: int
    """Place in the sorted listing, from 0."""
    name: str = field(repr=False)
    """Path relative to the source, with slashes."""
    size: int
    mtime_ns: int
    inode: int
    regular: bool
    """False for a link to a folder, a pipe, a socket, or what cannot be looked at."""


def listing(source: Path) -> list[Entry]:
    """List every file under `source`, sorted by name; raises InputError where it is not a folder or holds nothing."""
    if not source.is_dir():
        raise InputError("the source is not a folder that exists: give a folder of DICOM files")
    found = [_entry(path, path.relative_to(source).as_posix()) for path in _paths(source)]
    if not found:
        raise InputError("the source folder is empty: give a folder of DICOM files")
    found.sort(key=lambda item: os.fsencode(item[0]))
    return [Entry(ordinal, *values) for ordinal, values in enumerate(found)]


def single(path: Path) -> Entry:
    """Return the entry of one file that is a source of its own."""
    return Entry(0, *_entry(path, path.name))


def _paths(source: Path) -> Iterable[Path]:
    def unreadable(error: OSError) -> None:
        closed.append(Path(error.filename))

    closed: list[Path] = []
    for folder, folders, names in os.walk(source, onerror=unreadable):
        yield from (Path(folder, name) for name in names)
        yield from (path for name in folders if (path := Path(folder, name)).is_symlink())  # not followed: it may lead in circles
    if source in closed:
        raise InputError("the source folder cannot be read: give this user the right to read it")
    yield from closed


def _entry(path: Path, name: str) -> tuple[str, int, int, int, bool]:
    try:
        status = path.stat()
    except OSError:
        return name, 0, 0, 0, False
    return name, status.st_size, status.st_mtime_ns, status.st_ino, stat.S_ISREG(status.st_mode)


def digests(source: Path, entries: list[Entry], cache: Path, alias: Callable[[str], str]) -> list[str]:
    """Return the SHA-256 of each file, "unreadable" where it cannot be read.

    `cache` remembers digests by (alias of the name, size, modification time, inode), so that an unchanged folder is
    not read again; `alias` must hide the name. A cache that cannot be read or written is done without.
    """
    known: dict[str, list[int | str]] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    out, kept = [], {}
    for entry in entries:
        stamp, key = [entry.size, entry.mtime_ns, entry.inode], alias(entry.name)
        old = known.get(key) if isinstance(known, dict) else None
        found = str(old[3]) if isinstance(old, list) and len(old) == 4 and old[:3] == stamp else _digest(source, entry)
        out.append(found)
        if found != "unreadable" and time.time() - entry.mtime_ns / 1e9 > FRESH_S:
            kept[key] = [*stamp, found]
    if kept != known:
        with contextlib.suppress(OSError):
            write_bytes(cache, json.dumps(kept, sort_keys=True).encode())
            cache.chmod(0o600)
    return out


def _digest(source: Path, entry: Entry) -> str:
    try:
        return file_digest(source / entry.name) if entry.regular else "unreadable"
    except OSError:
        return "unreadable"


def fingerprint(entries: list[Entry], digests: list[str]) -> str:
    """SHA-256 over the sorted (name, digest) list: equal folders, equal fingerprint."""
    total = hashlib.sha256()
    for entry, found in zip(entries, digests, strict=True):
        total.update(os.fsencode(entry.name) + b"\0" + found.encode() + b"\0")
    return total.hexdigest()
