"""Whether to compile: decided by a fixed rule and, where that leaves it open, by timing both ways once on this machine.

The decision is kept in the user's cache, since a compiled sum differs from an eager one in its last bits: the same training
goes the same way again. What cannot be compiled here is trained eagerly.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medpipe import records

REPEATS = 5
log = logging.getLogger(__name__)


def place() -> Path | None:
    """Return the file of decisions, or None where this user has no home."""
    try:
        return Path.home() / ".cache" / "medpipe" / "compile.json"
    except RuntimeError:
        return None


def decide(
    what: Mapping[str, Any],
    eager: Callable[[], object],
    compiled: Callable[[], object],
    file: Path | None,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Return whether `compiled` is the faster of two ways to do one step of `what`, as once measured and kept in `file`."""
    key = records.digest(what)
    known = _read(file)
    if key in known:
        return bool(known[key]["compiled"])
    seconds = {"eager": float("inf"), "compiled": float("inf")}
    try:
        compiled()  # compiles
        for _ in range(REPEATS):  # in turn, so that what else the machine does meets both
            for name, way in (("eager", eager), ("compiled", compiled)):
                begun = clock()
                way()
                seconds[name] = min(seconds[name], clock() - begun)
    except Exception as error:
        log.warning("torch.compile does not work here (%s): training is not compiled", type(error).__name__)
        return False
    decision = seconds["compiled"] < seconds["eager"]
    _keep(file, known | {key: {"compiled": decision, "seconds": seconds, "what": dict(what)}})
    return decision


def _read(file: Path | None) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text())) if file is not None else {}
    except (OSError, ValueError):
        return {}


def _keep(file: Path | None, decisions: Mapping[str, Any]) -> None:
    try:
        if file is not None:
            records.write_json(file, dict(decisions))
    except OSError as error:
        log.warning("the decision to compile is not kept (%s)", type(error).__name__)
