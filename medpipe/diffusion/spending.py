"""The ledger of privacy: what each differentially private training beside it has spent, one line of JSON each.

Trainings on the same patients add up. Which patients two trainings share is not asked: all of them count, which is never too little.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import numpy as np

from medpipe.diffusion import accountant
from medpipe.diffusion.accountant import Rdp
from medpipe.errors import InputError, RecordError

LEDGER = "privacy-spent.jsonl"
"""Beside the Checkpoints of a workspace."""


def earlier(ledger: Path, training: str) -> Rdp:
    """Return the sum of what all other trainings spent; `training` is the digest of what this one is made from."""
    lines = [line for line in _lines(ledger) if line["training"] != training]
    return np.sum([line["rdp"] for line in lines], axis=0) if lines else np.zeros(len(accountant.ORDERS))


def allow(ledger: Path, training: str, planned: Rdp, delta: float, total: float | None) -> None:
    """Raise InputError where this training would take all of them together beyond ε = `total`."""
    before = earlier(ledger, training)
    spent, after = (accountant.epsilon(rdp, delta) if rdp.any() else 0.0 for rdp in (before, before + planned))
    if total is not None and after > total:
        raise InputError(
            f"earlier trainings spent ε = {spent:.3g}, and with this one it would be {after:.3g} of train.dp_epsilon_total {total:g} "
            f"(ledger {ledger}): lower train.dp_epsilon, or train on no more of these patients"
        )


def enter(ledger: Path, training: str, spent: Rdp, facts: dict[str, Any]) -> None:
    """Add what a training spent, once: a training that is done again after a kill spends nothing new, its noise being the same."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if all(line["training"] != training for line in _lines(ledger)):
            file.write(json.dumps({"training": training, **facts, "orders": accountant.ORDERS, "rdp": spent.tolist()}) + "\n")


def _lines(ledger: Path) -> list[dict[str, Any]]:
    """Read the ledger; raises RecordError for one that cannot be added up."""
    if not ledger.exists():
        return []
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in ledger.read_text().splitlines() if line]
        for line in lines:
            if tuple(line["orders"]) != accountant.ORDERS or len(line["rdp"]) != len(accountant.ORDERS) or not line["training"]:
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise RecordError(f"the ledger of privacy {ledger} cannot be read: put a good copy back, for what it held was spent") from None
    return lines
