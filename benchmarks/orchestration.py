"""What Prefect costs: `python -m benchmarks.orchestration [--recipe NAME --source PATH] [--section.field VALUE ...]`.

Four commands, each a fresh process, so that imports, the server's start and the cluster's are counted:

    start     an empty flow on a local server: what starting Prefect costs on this machine now (the reference)
    verbs     `medpipe run`: the same verbs from Python, without Prefect
    chain     `python -m flows.refresh`: the chain through Prefect, in a workspace of its own
    nothing   `python -m flows.refresh` again: a refresh with nothing new

Goals: `nothing` at most 15 s beyond `start`; `chain` at most 1.05 times `verbs` on the pneumoniamnist recipe. Figures go
to results/orchestration.json and .md, with the load of the machine, for they were not taken on an idle one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import Row

LONG = True
RESULTS = Path(__file__).parent / "results"
EMPTY = """
import flows
from prefect import flow
@flow
def empty() -> None: ...
empty()
"""
BEYOND_START_S, RATIO = 15.0, 1.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write it; returns 1 when one of the commands failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="demo", help="recipe by name or file (default demo)")
    parser.add_argument("--source", type=Path, help="its source (default: the phantom hospital, written first)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the figures")
    asked, settings = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory(prefix="medpipe-bench-") as scratch:
        found = measure(Path(scratch), asked.recipe, asked.source, settings)
    if found is None:
        return 1
    name = "orchestration" if asked.recipe == "demo" else f"orchestration-{Path(asked.recipe).stem}"
    asked.results.mkdir(parents=True, exist_ok=True)
    (asked.results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (asked.results / f"{name}.md").write_text(table(found))
    print(table(found))
    return 0


def rows() -> list[Row]:
    """The figures of the demo recipe for `python -m benchmarks.run --long`; none where a command failed."""
    with tempfile.TemporaryDirectory(prefix="medpipe-bench-") as scratch:
        found = measure(Path(scratch), "demo", None, [])
    if found is None:
        return []
    seconds = found["seconds"]
    nothing = f"at most {BEYOND_START_S:.0f} s beyond it"
    return [
        Row("refresh with nothing new", seconds["nothing"], "s", "an empty Prefect flow", seconds["start"], nothing),
        Row("demo chain through Prefect", seconds["chain"], "s", "the verbs from Python", seconds["verbs"], "1.05 on pneumoniamnist"),
    ]


def measure(scratch: Path, recipe: str, source: Path | None, settings: Sequence[str]) -> dict[str, Any] | None:
    """Time the four commands in `scratch`; None when one of them failed (a gate that says no is no failure here)."""
    environment = {**os.environ, "PREFECT_HOME": str(scratch / ".prefect")}
    python = [sys.executable]
    if source is None:
        source = scratch / "hospital"
        subprocess.run([*python, "-m", "medpipe.cli", "phantom", str(source)], check=True, stdout=subprocess.DEVNULL)
    run = ["--recipe", recipe, "--source", str(source.resolve()), "--key", str(scratch / "pseudonym.key"), *settings]
    through_prefect = [*python, "-m", "flows.refresh", *run, "--out", str(scratch / "prefect")]
    commands = {
        "database": [*python, "-c", EMPTY],  # the first start creates the database; the figure is the second
        "start": [*python, "-c", EMPTY],
        "verbs": [*python, "-m", "medpipe.cli", "run", *run, "--out", str(scratch / "python")],
        "chain": through_prefect,
        "nothing": through_prefect,
    }
    seconds: dict[str, float] = {}
    load_before = os.getloadavg()[0]
    for name, command in commands.items():
        began = time.perf_counter()
        done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
        seconds[name] = round(time.perf_counter() - began, 2)
        if done.returncode not in (0, 3):
            print(f"{name} failed:\n{done.stderr}", file=sys.stderr)
            return None
    return {
        "recipe": recipe,
        "settings": list(settings),
        "seconds": seconds,
        "nothing_beyond_start_s": round(seconds["nothing"] - seconds["start"], 2),
        "chain_over_verbs": round(seconds["chain"] / seconds["verbs"], 4),
        "goals": {"nothing_beyond_start_s": BEYOND_START_S, "chain_over_verbs": RATIO},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": [load_before, os.getloadavg()[0]]},
    }


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    seconds, load = found["seconds"], found["machine"]["load"]
    return "\n".join(
        [
            f"# What Prefect costs: recipe {Path(found['recipe']).stem}",
            "",
            "| what | s | against | goal |",
            "|---|---|---|---|",
            f"| start Prefect, empty flow | {seconds['start']:.1f} | reference | |",
            f"| the verbs from Python | {seconds['verbs']:.1f} | reference | |",
            f"| the chain through Prefect | {seconds['chain']:.1f} | {found['chain_over_verbs']:.3f} × the verbs | {RATIO} |",
            f"| a refresh with nothing new | {seconds['nothing']:.1f} | start + {found['nothing_beyond_start_s']:.1f} s | "
            f"start + {BEYOND_START_S:.0f} s |",
            "",
            f"{found['machine']['cores']} cores, load {load[0]:.1f} before and {load[1]:.1f} after.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
