"""The whole chain on PneumoniaMNIST: its time, and its gates beside what real held-out images reach.

Needs `pneumoniamnist.npz` in the folder that MEDPIPE_DATA names (default: ../shared/data). Takes about 25 minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.table import Row

LONG = True
MINUTES = 25.0


def rows() -> Iterator[Row]:
    """Run `medpipe run --recipe pneumoniamnist`, twice: the second time nothing is new."""
    source = Path(os.environ.get("MEDPIPE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pneumoniamnist.npz"
    if not source.is_file():
        sys.exit("no pneumoniamnist.npz: set MEDPIPE_DATA to the folder that holds it")
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Path(scratch) / "workspace"
        command = [
            sys.executable,
            "-m",
            "medpipe.cli",
            "run",
            "--recipe",
            "pneumoniamnist",
            "--source",
            str(source),
            "--out",
            str(workspace),
        ]
        first = _minutes(command)
        yield Row("the whole chain", first, "min", "what was asked for", MINUTES, "at most 1")
        yield Row("again, with nothing new", _minutes(command), "min", "the first time", first)
        (report,) = workspace.glob("report/*/report.json")
        for verdict in json.loads(report.read_text())["verdicts"]:
            wanted = f"{verdict['direction']} {verdict['bound']:.4g}"
            yield Row(f"gate: {verdict['name']}", verdict["value"], "", "real held-out images", verdict["baseline"], wanted)


def _minutes(command: list[str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"the run ended with status {done.returncode}")
    return (time.perf_counter() - begun) / 60
