"""withdraw: a patient takes permission back; from here on nothing new is trained or released from their images.

The withdrawal is appended to the ledger first, which is what blocks. Then the workspace is searched for what descends from the
patient, and `release/current` is taken away where it points at such a release. Nothing is deleted: what becomes of models
and releases that are out already is for a person to decide, who needs to find them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medpipe import consent, ledger, lineage
from medpipe.errors import InputError
from medpipe.ledger import Entry, Ledger
from medpipe.lineage import Node


@dataclass(frozen=True)
class Withdrawal:
    """What was recorded, and what descends from the patients who withdrew."""

    ledger: Ledger
    recorded: int
    """Withdrawals that were not on record before."""
    descent: tuple[Node, ...]
    current_taken_away: bool

    @property
    def recall(self) -> tuple[Path, ...]:
        """The Releases that descend from the patients: somebody may have them."""
        return tuple(node.path for node in self.descent if node.noun == "release" and node.doubt != "not finished")


def withdraw(workspace: Path, patients: Sequence[str], *, key: str, ledger_file: Path | None = None) -> Withdrawal:
    """Record that `patients` (pseudonyms under the pseudonym key called `key`) withdrew; block and list what descends from them.

    Doing it again records nothing and lists again. Raises InputError where the workspace is no folder, RecordError where the
    ledger was altered, or is not the one that records of the workspace were made under.
    """
    if not workspace.is_dir():
        raise InputError(f"the workspace {workspace} is no folder: give the workspace whose records descend from the patients")
    place = ledger_file or ledger.place(workspace)
    consent.unbroken_since(workspace, ledger.load(place))
    book, new = ledger.append(
        place, key, lambda book: [Entry(patient, "withdraw") for patient in dict.fromkeys(patients) if patient not in book.withdrawn]
    )
    descent = lineage.descent(lineage.nodes(workspace), patients)  # after the ledger: what is released in between asked it too late
    return Withdrawal(book, len(new), tuple(descent), _take_away_current(workspace, descent))


def _take_away_current(workspace: Path, descent: Sequence[Node]) -> bool:
    """Remove the pointer to a release that descends from the patients, so that nobody is led to it; the release stays."""
    current = workspace / "release" / "current"
    if not current.is_symlink() or current.parent / os.readlink(current) not in [node.path for node in descent]:
        return False
    current.unlink()
    return True
