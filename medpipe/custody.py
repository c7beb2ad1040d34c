"""The chain of custody read backwards: is a record what was sealed, and are the records that it was made from?

`verify` digests a record again and follows `made_from` to the records of the same workspace; a release folder that has
left its workspace is judged by its own checksums and signature.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medpipe import records
from medpipe.errors import InputError, RecordError

State = Literal["intact", "altered", "not here"]
NOUNS = ("collection", "dataset", "checkpoint", "cohort", "report", "release")


@dataclass(frozen=True)
class Link:
    """One link of the chain: a record (or a release folder), what was found, and what is wrong with it."""

    what: str
    path: Path | None
    state: State
    problems: tuple[str, ...] = ()


def verify(path: Path, public_key: Path | None = None) -> list[Link]:
    """Digest the record or release at `path` again, and every record of its workspace that it was made from.

    A record that is not in the workspace is "not here": its content is named, and cannot be judged. With `public_key`
    a release's signature must be made by that key. Raises InputError when `path` is neither record nor release.
    """
    path = path.resolve()
    if (path / "SHA256SUMS").is_file():
        return [_release_folder(path, public_key)]
    if not ((path / records.RECORD).exists() or (path / records.MAKING).exists()):
        raise InputError(f"{path} is neither a record nor a release: it holds no {records.RECORD} and no SHA256SUMS")
    links = list(_chain(path).values())
    links += [_release_folder(sums.parent, public_key) for sums in sorted(path.glob("*/SHA256SUMS"))]
    return links


def _chain(path: Path) -> dict[Path, Link]:
    """Judge the record at `path` and, through `made_from`, what it was made from; each record once."""
    links: dict[Path, Link] = {}
    waiting = [path]
    while waiting:
        here = waiting.pop(0)
        if here in links:
            continue
        links[here], inputs = _record(here)
        for role, content in inputs.items():
            found = _holder(here, role, content)
            if found is None:
                links[Path(role, content)] = Link(f"{role.capitalize()} {content[:12]}", None, "not here")
            else:
                waiting.append(found)
    return links


def _record(path: Path) -> tuple[Link, dict[str, str]]:
    try:
        record = records.load(path)
    except RecordError as error:
        return Link(path.name, path, "altered", (str(error),)), {}
    problems = records.altered(record)
    inputs = {role: content for role, content in record.made_from["inputs"].items() if role in NOUNS}
    return Link(f"{record.noun} {record.content[:12]}", path, "altered" if problems else "intact", tuple(problems)), inputs


def _holder(path: Path, role: str, content: str) -> Path | None:
    """Return the record of the same workspace whose content is `content`."""
    for candidate in sorted((path.parent.parent / role).glob(f"*/{records.RECORD}")):
        try:
            if json.loads(candidate.read_text())["content"] == content:
                return candidate.parent
        except (ValueError, KeyError, TypeError):
            continue  # a spoilt record.json cannot say what it holds; `verify` on it says so
    return None


def _release_folder(folder: Path, public_key: Path | None) -> Link:
    """Judge a shareable folder by its checksums, and by its signature where there is a key to check it with."""
    from medpipe.release import sign

    found = sign.altered(folder)
    beside = folder.parent / sign.PUBLIC_KEY
    key = public_key or (beside if beside.is_file() else None)
    if not (folder / sign.SIGNATURE).is_file():
        found.append(f"{sign.SIGNATURE} is missing")
    elif key is not None and not sign.signed_by(folder, sign.public_key(key)):
        found.append(f"{sign.SIGNATURE} is not a signature by the key {key.name}")
    name = f"Release folder {folder.name}" + ("" if key else " (signature not checked: give --public-key)")
    return Link(name, folder, "altered" if found else "intact", tuple(found))
