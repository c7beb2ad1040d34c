"""The chain of custody read backwards: is a record what was sealed, and is what it was made from?

`chain_of` digests a record again and follows `made_from` to the records of the same workspace. A shareable folder that
has left its workspace is judged alone: by its checksums, its signature, and whether its documents agree.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medpipe import records
from medpipe.errors import InputError, RecordError
from medpipe.lineage import NOUNS, holders, inputs
from medpipe.records import Record
from medpipe.release import folder as folders
from medpipe.release import sign

State = Literal["intact", "altered", "not here"]


@dataclass(frozen=True)
class Link:
    """One link of the chain: a record or a shareable folder, what was found, what is wrong, what could not be checked."""

    what: str
    path: Path | None
    state: State
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def verify(path: Path, public_key: Path | None = None) -> list[str]:
    """Return everything that is wrong with the record or shareable folder at `path` and its chain; empty when all is well.

    Raises InputError when `path` is neither, or `public_key` is not a public key.
    """
    return [f"{link.what}: {problem}" for link in chain_of(path, public_key) for problem in link.problems]


def chain_of(path: Path, public_key: Path | None = None) -> list[Link]:
    """Digest the record or shareable folder at `path` again, and every record of its workspace that it was made from.

    A record that is not in the workspace is "not here": its content is named and cannot be judged, which is not a fault.
    With `public_key` a release must be signed by that key; without, by the key that lies beside it or that it names.
    """
    path = path.resolve()
    if not ((path / records.RECORD).exists() or (path / records.MAKING).exists()):
        if not (path / sign.SUMS).is_file() and not (path / sign.SIGNATURE).is_file():
            raise InputError(f"{path} is neither a record nor a release: it holds no {records.RECORD} and no {sign.SUMS}")
        return [_folder_link(path, public_key, None)]
    found = _Chain(path)
    links = list(found.links.values())
    top = found.records.get(path)
    if (top.noun if top else _noun(path)) == "Release":
        links += [_folder_link(sums.parent, public_key, top) for sums in sorted(path.glob(f"*/{sign.SUMS}"))]
    return links


class _Chain:
    """The records that one record was made from, each judged once."""

    def __init__(self, start: Path) -> None:
        self.links: dict[Path, Link] = {}
        self.records: dict[Path, Record] = {}
        self.named: set[str] = set()
        """What these were made from: of records with the same content, the one that was made from some of it is of this chain."""
        waiting = [start]
        while waiting:
            here = waiting.pop(0)
            if here not in self.links:
                waiting += self._judge(here)
        if start in self.records:
            self._compare(self.records[start])

    def _judge(self, path: Path) -> list[Path]:
        """Judge the record at `path`; return the places of the records that it was made from."""
        record, problems = _reread(path)
        above: list[Path] = []
        missing_links: dict[Path, Link] = {}
        if record is not None:
            self.records[path] = record
            self.named |= set(inputs(record).values())
            for role, content in inputs(record).items():
                places, spoilt = holders(path, role, content)
                if places:
                    above.append(next((place for place in places if not self.named.isdisjoint(_inputs_of(place))), places[0]))
                    self.named |= _inputs_of(above[-1])
                    continue
                missing = f"{role.capitalize()} {content[:12]}"
                if spoilt:
                    problems.append(
                        f"it was made from {missing}, which is not here, and {role}/{spoilt[0].name}/{records.RECORD} was altered"
                    )
                missing_links[Path(role, content)] = Link(missing, None, "not here", (), ("not found here, so not judged",))
        what = f"{record.noun} {record.content[:12]}" if record else f"{_noun(path) or 'Record'} at {path.name}"
        self.links[path] = Link(what, path, "altered" if problems else "intact", tuple(problems))
        self.links.update(missing_links)
        return above

    def _compare(self, top: Record) -> None:
        """A Release's Report must be about its Cohort, and judged against the Dataset that its model learned from."""
        mine = {record.noun: record for record in self.records.values()}
        needed = {"Report": mine.get("Report"), "Cohort": mine.get("Cohort"), "Checkpoint": mine.get("Checkpoint")}
        report, cohort, checkpoint = needed["Report"], needed["Cohort"], needed["Checkpoint"]
        problems = []
        if top.noun == "Release" and report and report.made_from["inputs"].get("cohort") != top.made_from["inputs"].get("cohort"):
            problems.append("its Report is about another Cohort than the one released")
        if report and cohort and checkpoint and inputs(report).get("dataset") != inputs(checkpoint).get("dataset"):
            problems.append("the Report was judged against another Dataset than the Checkpoint was trained on")
        if problems:
            link = self.links[top.path]
            self.links[top.path] = Link(link.what, link.path, "altered", (*link.problems, *problems), link.notes)


def _inputs_of(path: Path) -> set[str]:
    try:
        return set(inputs(records.load(path)).values())
    except RecordError:
        return set()


def _reread(path: Path) -> tuple[Record | None, list[str]]:
    """Load and digest a record; a record.json in any other form than the one it is written in was altered too."""
    try:
        record = records.load(path)
        problems = records.altered(record)
    except RecordError as error:
        return None, _explained(path, str(error))
    except (ValueError, OSError) as error:
        return None, [f"{records.RECORD} cannot be read ({type(error).__name__})"]
    if (path / records.RECORD).read_bytes() != _written(json.loads((path / records.RECORD).read_text())):
        problems.append(f"{records.RECORD} has other bytes than it was written with")
    if path.parent.name == record.noun.lower() and re.fullmatch("[0-9a-f]{12}", path.name) and path.name != record.made_from_digest[:12]:
        problems.append(f"it lies where a {record.noun} made from something else belongs ({record.made_from_digest[:12]} is its place)")
    return record, problems


def _explained(path: Path, error: str) -> list[str]:
    """Where sizes or files differ, `load` names the first; name them all."""
    try:
        text = json.loads((path / records.RECORD).read_text())
        files = {name: (size, sha) for name, (size, sha) in text["files"].items()}
        sealed = text.pop("seal") == records.digest(text) and text["content"] == records.digest(text["files"])
        if sealed:
            return records.altered(Record(path, text["noun"], text["made_from"], text["content"], text["facts"], files)) or [error]
        return [f"{records.RECORD}: the seal is broken, so it was altered after it was written"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [error]


def _written(text: Any) -> bytes:
    """The bytes that `records.write_json` writes."""
    return json.dumps(text, indent=1, sort_keys=True).encode() + b"\n"


def _noun(path: Path) -> str | None:
    """Guess the noun of a record whose record.json cannot be trusted, by the folder that it lies in."""
    return path.parent.name.capitalize() if path.parent.name in NOUNS else None


def _folder_link(folder: Path, public_key: Path | None, record: Record | None) -> Link:
    """Judge a shareable folder, and against the record that holds it where there is one."""
    problems, notes = folders.check(folder, public_key)
    if record is not None:
        problems += folders.disagreements(folder, record)
    return Link(f"Release folder {folder.name}", folder, "altered" if problems else "intact", tuple(problems), tuple(notes))
