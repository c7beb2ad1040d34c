"""Lineage: which records of a workspace were made from which, backwards from one and forwards from a patient."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from medpipe import records
from medpipe.errors import RecordError
from medpipe.records import Record

NOUNS = ("collection", "dataset", "checkpoint", "cohort", "report", "release")
INDEX = "index.parquet"


def inputs(record: Record) -> dict[str, str]:
    """Return the records that a record was made from: role to content."""
    found: Mapping[str, Any] = record.made_from.get("inputs", {})
    return {role: str(content) for role, content in found.items() if role in NOUNS}


def holders(path: Path, role: str, content: str) -> tuple[list[Path], list[Path]]:
    """Find the records with `content` in the workspace or beside `path`; without any, those there that cannot say what they hold.

    There may be several: Checkpoints of two Datasets that differ in patients whom training does not see are the same bytes.
    """
    found: dict[Path, Path] = {}
    spoilt = []
    for candidate in _candidates(path, role):
        try:
            text = json.loads((candidate / records.RECORD).read_text())
            if text["noun"] == role.capitalize() and text["content"] == content:
                found.setdefault(candidate.resolve(), candidate)
                continue
            broken = text["seal"] != records.digest({name: value for name, value in text.items() if name != "seal"})
        except (OSError, ValueError, KeyError, TypeError):
            broken = True
        if broken and candidate.parent.name == role:
            spoilt.append(candidate)
    return list(found.values()), [] if found else spoilt


def _candidates(path: Path, role: str) -> Iterator[Path]:
    """Records under `<workspace>/<noun>/`, then those that lie beside this one: verbs may be given any folder."""
    yield from (place.parent for place in sorted((path.parent.parent / role).glob(f"*/{records.RECORD}")) if not place.parent.is_symlink())
    yield from (place.parent for place in sorted(path.parent.glob(f"*/{records.RECORD}")) if not place.parent.is_symlink())


def patients(record: Record) -> frozenset[str]:
    """Return the pseudonyms of the patients of a Collection or Dataset; raises RecordError where its index was altered."""
    path = record.path / INDEX
    try:
        if records.file_digest(path) != record.files[INDEX][1]:
            raise RecordError(f"{path} was altered after it was sealed: make the record again")
        return frozenset(map(str, pd.read_parquet(path, columns=["patient"])["patient"].unique()))
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(f"{path} cannot be read ({type(error).__name__}): make the record again") from None


def patients_behind(*starts: Record) -> tuple[frozenset[str], list[str]]:
    """Return the patients of every Dataset that these records were made from, and what of the way there is not to be found.

    Where several records hold the same content, those behind all of them that can say so: what came out the same without a patient does
    not descend from that patient. Raises RecordError where what is to be found was altered.
    """
    found, missing = zip(*map(_behind, starts), strict=True)
    return frozenset().union(*found), list(dict.fromkeys(said for part in missing for said in part))


def _behind(record: Record) -> tuple[frozenset[str], list[str]]:
    wanted = [(role, content) for role, content in inputs(record).items() if role != "collection"]
    parts = [_behind_all(record.path, role, content) for role, content in wanted]
    return frozenset().union(*(found for found, _ in parts)), [said for _, missing in parts for said in missing]


def _behind_all(path: Path, role: str, content: str) -> tuple[frozenset[str], list[str]]:
    """Return the patients behind every record of this content whose own way back is whole, or what is missing where none is."""
    whole: list[frozenset[str]] = []
    broken: list[tuple[frozenset[str], list[str]]] = []
    altered: list[RecordError] = []
    for place in holders(path, role, content)[0]:
        try:
            record = records.load(place)
            found, missing = (patients(record), []) if role == "dataset" else _behind(record)
        except RecordError as error:
            altered.append(error)
        else:
            if missing:
                broken.append((found, missing))
            else:
                whole.append(found)
    if whole:
        return frozenset.intersection(*whole), []
    if altered:
        raise altered[0]
    return broken[0] if broken else (frozenset(), [f"the {role.capitalize()} {content[:12]}"])


@dataclass(frozen=True)
class Node:
    """A record of a workspace, finished or begun, altered or whole."""

    path: Path
    noun: str
    content: str
    """Empty where it is not finished."""
    inputs: Mapping[str, str]
    record: Record | None = field(default=None, repr=False)
    """None where it is not finished, or was altered."""
    doubt: str = ""
    """Why nobody can tell for certain whose images it holds: it is altered, or not finished."""


def nodes(workspace: Path) -> list[Node]:
    """Return every record of a workspace, from Collections to Releases."""
    folders = [(role, folder) for role in NOUNS for folder in sorted((workspace / role).glob("*"))]
    return [_node(role, folder) for role, folder in folders if folder.is_dir() and not folder.is_symlink() and _is_record(folder)]


def _is_record(folder: Path) -> bool:
    return (folder / records.RECORD).exists() or (folder / records.MAKING).exists()


def _node(role: str, folder: Path) -> Node:
    try:
        if (folder / records.RECORD).exists():
            record = records.load(folder)
            return Node(folder, role, record.content, inputs(record), record)
        text = json.loads((folder / records.MAKING).read_text())["made_from"]["inputs"]
        return Node(folder, role, "", {name: str(content) for name, content in text.items()}, doubt="not finished")
    except (RecordError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return Node(folder, role, "", {}, doubt="altered")


def facts(workspace: Path, *roles: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the facts of each finished record of these kinds in a workspace; payloads are not looked at."""
    for role in roles:
        for path in sorted((workspace / role).glob(f"*/{records.RECORD}")):
            try:
                found = json.loads(path.read_text())["facts"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # opening the record will say what is wrong with it
            if isinstance(found, dict) and not path.parent.is_symlink():
                yield path.parent, found


def descent(found: Sequence[Node], wanted: Collection[str]) -> list[Node]:
    """Return which of a workspace's records (`nodes`) descend from any of the patients, in the order of the chain.

    A Collection or Dataset descends from who is in its index, in whatever split, and all after it from what it was made
    from, unless another record, made without these patients, holds the same content. What cannot be looked into is returned too, with
    the doubt.
    """
    here = {node.content for node in found if node.content}
    looked = [_looked_into(node, wanted, here) for node in found]
    flags = [bool(doubt or named) for doubt, named in looked]
    while True:
        reached = {(node.noun, node.content) for node, flag in zip(found, flags, strict=True) if flag}
        reached -= {(node.noun, node.content) for node, flag in zip(found, flags, strict=True) if not flag}
        after = [
            flag or (named is None and not reached.isdisjoint(node.inputs.items()))
            for node, flag, (_, named) in zip(found, flags, looked, strict=True)
        ]
        if after == flags:
            break
        flags = after
    return [replace(node, doubt=doubt or node.doubt) for node, flag, (doubt, _) in zip(found, flags, looked, strict=True) if flag]


def _looked_into(node: Node, wanted: Collection[str], here: Collection[str]) -> tuple[str, bool | None]:
    """Say why a record cannot be looked into, empty where it can, and whether its own index names any of the patients, if it has one."""
    doubt = _doubt(node, here)
    if node.record is None or node.noun not in ("collection", "dataset"):
        return doubt, None
    try:
        return doubt, not patients(node.record).isdisjoint(wanted)
    except RecordError:
        return "altered", True


def _doubt(node: Node, here: Collection[str]) -> str:
    """Say why nobody can tell whose images a record holds; empty where its index or its inputs can."""
    if node.doubt == "altered" or (node.noun == "collection" and not node.content):
        return node.doubt
    if node.noun == "dataset" and node.content:
        return ""
    gone = [role for role, content in node.inputs.items() if role in NOUNS and content not in here]
    return f"its {gone[0].capitalize()} is not here" if gone else ""
