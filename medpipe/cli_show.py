"""What the command line shows a person: tables on stderr, so that stdout stays the path that a script wants."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from medpipe import recipe as recipes
from medpipe import records
from medpipe.records import Record

if TYPE_CHECKING:  # they bring torch and pandas, which a list of recipes does without
    import pandas as pd

    from medpipe.plan import Step
    from medpipe.verify import Link
    from medpipe.withdrawal import Withdrawal

_STATES = {"intact": "green", "altered": "bold red", "not here": "yellow"}
_STEPS = {"done": "green", "goes on": "yellow", "to do": "bold", "waits": "dim"}


def console() -> Console:
    """A console on stderr; where nobody watches, lines are not folded at 80 columns."""
    shown = Console(stderr=True, highlight=False)
    return shown if shown.is_terminal else Console(stderr=True, highlight=False, width=160)


def result(record: Record) -> None:
    """Print the path of the record made: the last line on stdout, and the only one."""
    sys.stderr.flush()
    print(record.path, flush=True)


def trained(record: Record) -> str:
    """Say in a line what a training was and what it took."""
    facts, cost = record.facts, record.facts["cost"]
    memory = f"{cost['peak_memory_mib']:,} MiB of memory at most"
    if "peak_device_memory_mib" in cost:
        memory += f", {cost['peak_device_memory_mib']:,} MiB on the GPU"
    how = [facts["precision"], "compiled" if facts["compiled"] else "not compiled"]
    how += [f"{facts['processes']} processes ({facts['parallel']})"] if facts["processes"] > 1 else []
    ends = {
        "images": "",
        "minutes": ", as train.minutes were over",
        "gap": ", as the gap to the validation split grew beyond train.stop_gap",
        "privacy": ", as train.dp_epsilon was spent",
    }
    pace = f"{cost['seconds']:,.0f} s, {cost['images_per_s']:,.0f} images/s"
    what = "jumps of a student" if "student" in facts else "images"
    return f"trained  {facts['images']:,} {what} in {pace}{ends[facts['ended_by']]}; {memory}; {', '.join(how)}"


def ending(record: Record, workspace: Path) -> None:
    """Show what a finished run made: the verdicts, the release and its page; then the release's path on stdout."""
    shown = console()
    report = _report_of(record, workspace)
    if report is not None:
        shown.print(verdicts(report))
    for folder in sorted(record.path.glob("*/report.html")):
        shown.print(f"release  {folder.parent}\nreport   {folder}", soft_wrap=True)
    result(record)


def verdicts(report: Record) -> Table:
    """The verdict table of a Report."""
    table = Table(title="Verdicts", title_justify="left")
    for name in ("gate", "value", "95 % interval", "bound", "real data reach", "verdict"):
        table.add_column(name, justify="left" if name in ("gate", "verdict") else "right")
    for verdict in json.loads((report.path / "report.json").read_text())["verdicts"]:
        state = "[green]passed[/]" if verdict["passed"] else "[bold red]FAILED[/]"
        interval = f"{_number(verdict['low'])} – {_number(verdict['high'])}"
        bound = f"{verdict['direction']} {_number(verdict['bound'])}"
        table.add_row(verdict["name"], _number(verdict["value"]), interval, bound, _number(verdict["baseline"]), state)
    return table


def plan(steps: Sequence[Step], workspace: Path) -> Table:
    """The plan of a run."""
    table = Table(title=f"Plan for {workspace}", title_justify="left")
    for name in ("stage", "makes", "state", "costs", "place"):
        table.add_column(name)
    for step in steps:
        unknown = "known when the stage before is done" if step.state == "waits" else "known when its key is made"
        place = unknown if step.place is None else str(step.place.relative_to(workspace))
        table.add_row(step.verb, step.noun, f"[{_STEPS[step.state]}]{step.state}[/]", step.cost, place)
    return table


def links(found: Sequence[Link]) -> Table:
    """What `medpipe verify` found."""
    table = Table(title="Chain of custody", title_justify="left")
    for name in ("record", "state", "what was found"):
        table.add_column(name)
    for link in found:
        told = [*link.problems, *link.notes]
        table.add_row(link.what, f"[{_STATES[link.state]}]{link.state}[/]", "; ".join(told[:4]) + _more(len(told) - 4))
    return table


def descent(done: Withdrawal, workspace: Path) -> Table:
    """What descends from patients who withdrew."""
    table = Table(title="Descends from the patients who withdrew", title_justify="left")
    for name in ("record", "place", "note"):
        table.add_column(name)
    for node in done.descent:
        place = str(node.path.relative_to(workspace))
        table.add_row(node.noun.capitalize(), place, f"it may: {node.doubt}" if node.doubt else "")
    if not done.descent:
        table.add_row("nothing", "", "no record of the workspace holds them")
    return table


def recipe_list() -> Table:
    """The recipes that medpipe carries, each with the first comment line of its file."""
    table = Table(title="Recipes", title_justify="left")
    table.add_column("name")
    table.add_column("what it is")
    for name in recipes.names():
        table.add_row(name, recipes.headline(name))
    return table


def _report_of(release: Record, workspace: Path) -> Record | None:
    """The Report that a Release was made from, where the workspace still has it."""
    wanted = release.made_from["inputs"].get("report")
    for path in sorted((workspace / "report").glob(f"*/{records.RECORD}")):
        if json.loads(path.read_text()).get("content") == wanted:
            return records.load(path.parent, "Report")
    return None


def comparison(rows: pd.DataFrame) -> Table:
    """A row per figure and a column per method."""
    from medpipe.comparison import COLUMNS

    table = Table(title="Methods", title_justify="left")
    table.add_column("figure")
    for method in rows["method"]:
        table.add_column(method, justify="right")
    for column in COLUMNS:
        values = rows[column.name].tolist()
        table.add_row(column.title, *(value if isinstance(value, str) else _number(value) for value in values))
    return table


def self_test(report: Record) -> Sequence[Table]:
    """The tables of planted copies found, and of spoiled cohorts rejected."""
    text = json.loads((report.path / "report.json").read_text())
    copies = Table(title="Planted copies", title_justify="left")
    for name in ("kind", "found", "95 % interval", "planted", "required"):
        copies.add_column(name, justify="left" if name == "kind" else "right")
    for row in text["copy_detector"]:
        interval = f"{_number(row['low'])} – {_number(row['high'])}"
        copies.add_row(row["what"], _number(row["recall"]), interval, str(row["n"]), "yes" if row["required"] else "no")
    spoiled = Table(title="Spoiled cohorts", title_justify="left")
    for name in ("cohort", "rejected by"):
        spoiled.add_column(name)
    for row in text["gates_self_test"]:
        spoiled.add_row(row["what"], ", ".join(row["rejected_by"]) or "none")
    return copies, spoiled


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
