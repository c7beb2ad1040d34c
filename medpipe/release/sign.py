"""Checksums and signature of a shareable folder: what was sealed can be checked with `sha256sum`, `openssl`, or here.

`SHA256SUMS` lists every other file of the folder; `SHA256SUMS.sig` is the raw 64-byte Ed25519 signature (RFC 8032) of
its bytes. The public key travels apart from the folder: whoever can alter a folder can alter a key that lies in it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medpipe import records
from medpipe.errors import InputError

SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "public_key.pem"


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Read the signing key at `path`, or make it there with mode 0600 where there is none.

    Raises InputError when the file is not an unencrypted PKCS #8 PEM of an Ed25519 key.
    """
    if not path.exists():
        _make_key(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            f"{path} is not an unencrypted private key in PEM form: give an Ed25519 key, or a path where none is yet"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds a private key of another kind, and Ed25519 is needed to sign")
    return key


def _make_key(path: Path) -> None:
    """Write a new key so that it never exists half-written or readable by others, and the first of two writers wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)


def public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key in PEM form; raises InputError when there is none or it is of another kind."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"there is no public key at {path}: give the file that came from the releasing institution") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is not a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} holds a public key of another kind, and releases are signed with Ed25519")
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Encode a public key as PEM (SubjectPublicKeyInfo), as `openssl` reads it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's DER SubjectPublicKeyInfo, in hex: short enough to read out over the telephone."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def from_raw(text: str) -> Ed25519PublicKey | None:
    """Build a public key from its 32 raw bytes in hex; None where `text` is not one."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError:
        return None


def raw(key: Ed25519PublicKey) -> str:
    """Return the 32 raw bytes of a public key, in hex."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def seal(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write `SHA256SUMS` over every file of `folder` and sign it; the signature is the last file written."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{records.file_digest(folder / name)}  {name}\n" for name in names if name not in (SUMS, SIGNATURE)]
    text = "".join(lines).encode()
    records.write_bytes(folder / SUMS, text)
    records.write_bytes(folder / SIGNATURE, key.sign(text))


def listed(folder: Path) -> dict[str, str]:
    """Read `SHA256SUMS`: path to digest; raises ValueError where a line is not one that `seal` writes."""
    sums: dict[str, str] = {}
    for number, line in enumerate((folder / SUMS).read_bytes().decode().splitlines(), start=1):
        sha, gap, name = line[:64], line[64:66], line[66:]
        inside = name and not name.startswith("/") and ".." not in name.split("/")
        if gap != "  " or not inside or any(letter not in "0123456789abcdef" for letter in sha) or name in sums:
            raise ValueError(f"line {number} of {SUMS} is not a digest and a path inside the folder")
        sums[name] = sha
    return sums


def altered(folder: Path) -> list[str]:
    """List the files of `folder` that are missing, added, other than `SHA256SUMS` says, or links to elsewhere."""
    try:
        sums = listed(folder)
    except (OSError, ValueError) as error:
        return [f"{SUMS} cannot be read ({error if type(error) is ValueError else type(error).__name__})"]
    entries = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()}
    problems = [f"{name} is a link, and a release holds plain files" for name, path in entries.items() if path.is_symlink()]
    problems += [f"{name} is missing" for name in sums if name not in entries]
    problems += [f"{name} was added" for name in entries if name not in sums and name not in (SUMS, SIGNATURE)]
    for name, sha in sums.items():
        if name in entries and not entries[name].is_symlink() and records.file_digest(entries[name]) != sha:
            problems.append(f"{name} has other content")
    return sorted(problems)


def signed_by(folder: Path, key: Ed25519PublicKey) -> bool:
    """Say whether `SHA256SUMS.sig` is the signature of `SHA256SUMS` by `key`."""
    try:
        key.verify((folder / SIGNATURE).read_bytes(), (folder / SUMS).read_bytes())
    except (InvalidSignature, OSError):
        return False
    return True
