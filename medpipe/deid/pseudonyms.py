"""Keyed pseudonyms: HMAC-SHA256 of what identifies, so that one key gives one answer in every run and no table needs guarding.

Without the key nothing here can be undone or guessed; with it, anyone can test a guess: the key file is as secret as
the patients' names.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import string
from dataclasses import dataclass, field
from pathlib import Path

from medpipe.errors import InputError

DIGITS = 64
"""Hexadecimal digits of a key: 32 bytes."""


@dataclass(frozen=True)
class Pseudonyms:
    """The maps from identifier to pseudonym under one key."""

    key: bytes = field(repr=False)

    def digest(self, kind: str, *parts: str) -> bytes:
        """HMAC-SHA256 of `parts` in the name space `kind`."""
        text = "\x1f".join((kind, *parts)).encode("utf-8", "surrogateescape")
        return hmac.digest(self.key, text, hashlib.sha256)

    @property
    def key_id(self) -> str:
        """Name of the key, which tells nothing about it: 16 hexadecimal digits."""
        return self.digest("medpipe key id").hex()[:16]

    def alias(self, kind: str, value: str, length: int = 32) -> str:
        """Return `length` hexadecimal digits that stand for `value`."""
        return self.digest(kind, value).hex()[:length]

    def uid(self, original: str) -> str:
        """Return the UID that replaces `original`: 2.25 and a version-8 UUID (PS3.5 B.2, RFC 9562 5.8)."""
        number = int.from_bytes(self.digest("uid", original)[:16], "big")
        number = number & ~(0xF << 76) | 0x8 << 76  # version 8
        number = number & ~(0x3 << 62) | 0x2 << 62  # variant of RFC 9562
        return f"2.25.{number}"

    def patient(self, identity: str) -> str:
        """Return the pseudonym of a patient: P and 16 hexadecimal digits."""
        return f"P{self.alias('patient', identity, 16)}"

    def accession(self, number: str) -> str:
        """Return the pseudonym of an accession number, 16 characters as its VR (SH) allows."""
        return f"A{self.alias('accession', number, 15)}"

    def site(self, name: str) -> str:
        """Return the pseudonym of an institution, such as site-k4xq."""
        return f"site-{self._short('site', name)}"

    def scanner(self, manufacturer: str, model: str, serial: str) -> str:
        """Return the pseudonym of a device, such as scanner-b7ma."""
        return f"scanner-{self._short('scanner', manufacturer, model, serial)}"

    def _short(self, kind: str, *parts: str) -> str:
        plain = [" ".join(part.casefold().split()) for part in parts]
        return base64.b32encode(self.digest(kind, *plain)).decode().lower()[:4]

    def shift_days(self, patient: str, maximum: int) -> int:
        """Return the days by which a patient's dates move: 1 to `maximum` days into the past, never into the future."""
        return -(int.from_bytes(self.digest("shift", patient)[:8], "big") % maximum + 1)


def load(key_file: Path) -> Pseudonyms:
    """Read the key, or make one with mode 0600 where there is none.

    Raises InputError for a file that others may read, or that holds no key.
    """
    try:
        _create(key_file)
        mode = stat.S_IMODE(key_file.stat().st_mode)
        text = key_file.read_text(encoding="ascii").strip()
    except (IsADirectoryError, NotADirectoryError, UnicodeDecodeError):
        raise InputError("the pseudonym key is no text file: give the file of a key, or a new name to make one") from None
    if mode & 0o077:
        raise InputError("the pseudonym key may be read by others than its owner: run 'chmod 600' on it")
    if len(text) < DIGITS or set(text) - set(string.hexdigits):
        raise InputError(
            f"the pseudonym key file holds no key, which is at least {DIGITS} hexadecimal digits: put the right file there, "
            "or remove it to have a new key made (every patient then gets a new pseudonym)"
        )
    return Pseudonyms(hashlib.sha256(text.lower().encode()).digest())


def existing(key_file: Path) -> Pseudonyms:
    """Read a key that must be there: where records were made with one, a new one would know none of their patients."""
    if not key_file.exists():
        raise InputError(f"there is no pseudonym key at {key_file}: give the key that the workspace was made with, or put it back")
    return load(key_file)


def _create(key_file: Path) -> None:
    """Make a key unless there is one; of two processes that try at once, one key wins and is never seen half written."""
    if key_file.exists():
        return
    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = key_file.with_name(f".{key_file.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(DIGITS // 2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, key_file)
    finally:
        temporary.unlink(missing_ok=True)
