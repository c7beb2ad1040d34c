"""What a person wants to see of a run in the Prefect UI: the plan, the counts, the pictures, the verdicts.

Prefect keeps what it is given: only synthetic pixels and the aggregates that a Report holds go in.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from medpipe.records import Record

if TYPE_CHECKING:
    from medpipe.plan import Step
    from medpipe.withdrawal import Withdrawal

PICTURE_BYTES = 90_000


def plan(steps: Sequence[Step], workspace: Path, recipe: str) -> None:
    """Show what a run will do: one row per stage."""
    rows = [
        {
            "Stage": step.verb,
            "Makes": step.noun,
            "State": step.state,
            "Cost": step.cost,
            "Place": "known when the stage before is done" if step.place is None else str(step.place.relative_to(workspace)),
        }
        for step in steps
    ]
    for step in steps:
        get_run_logger().info("%s makes the %s: %s; %s", step.verb, step.noun, step.state, step.cost)
    create_table_artifact(rows, key="plan", description=f"What a run of the recipe **{recipe}** does, stage by stage")


def collection(record: Record) -> None:
    """Show what became of the source's instances: counts and reason codes only."""
    facts = record.facts
    rows = [{"Instances": "kept", "Count": facts["instances"]}]
    rows += [{"Instances": f"quarantined: {reason}", "Count": count} for reason, count in facts["quarantined"].items()]
    rows += [{"Instances": f"set aside: {reason}", "Count": count} for reason, count in facts["set_aside"].items()]
    create_table_artifact(rows, key="collection", description=f"De-identified instances of {facts['patients']:,} patients")


def splits(record: Record) -> None:
    """Show images and patients in each split of a Dataset, and what was excluded."""
    facts = record.facts
    patients: Mapping[str, int] = facts["patients"]
    rows = [{"Split": name, "Images": count, "Patients": patients.get(name, "–")} for name, count in facts["splits"].items()]
    rows += [{"Split": f"excluded: {reason}", "Images": count, "Patients": "–"} for reason, count in facts["excluded"].items()]
    create_table_artifact(rows, key="splits", description=f"{facts['images']:,} images of shape {facts['shape']}, split by patient")


def checkpoint(record: Record) -> None:
    """Show what was trained."""
    facts = record.facts
    rows = [
        {"Fact": "parameters", "Value": f"{facts['parameters']:,}"},
        {"Fact": "images trained on", "Value": f"{facts['images']:,}"},
        {"Fact": "final loss", "Value": _number(facts["final_loss"])},
        {"Fact": "shape", "Value": str(facts["shape"])},
        {"Fact": "images per second", "Value": f"{facts['cost']['images_per_s']:,.0f}"},
        {"Fact": "peak memory of a process, MiB", "Value": f"{facts['cost']['peak_memory_mib']:,}"},
        {"Fact": "processes", "Value": str(facts["processes"])},
    ]
    create_table_artifact(rows, key="checkpoint", description="The denoiser")
    if "student" in facts:  # its loss is that of a few noise levels
        return
    text = f"![Loss against noise level](data:image/png;base64,{base64.b64encode(_loss(record.path)).decode()})"
    create_markdown_artifact(text, key="loss-by-sigma", description="The training loss at each noise level: early, midway and at the end")


def _loss(checkpoint: Path) -> bytes:
    from medpipe.diffusion.curve import picture

    return picture(checkpoint)


def sample_grid(cohort: Path, report: Record) -> None:
    """Show synthetic images, one row per class, without those that the gates withheld; the page carries the picture inside it."""
    picture = base64.b64encode(_picture(cohort, report)).decode()
    text = f"![Synthetic images, one row per class](data:image/png;base64,{picture})"  # an image artifact prints its whole URL
    create_markdown_artifact(text, key="sample-grid", description="Synthetic images, one row per class; none that the gates withheld")


def _picture(cohort: Path, report: Record) -> bytes:
    """The widest grid that fits: Prefect stores each artifact twice, and a page waits for it."""
    from medpipe.preview import sample_grid as draw

    images = pd.read_parquet(report.path / "images.parquet")
    withheld = images["row"][images["withheld"]].tolist()
    picture = draw(cohort, per_class=8, withheld=withheld)
    for per_class in (6, 4, 3, 2, 1):
        if len(picture) <= PICTURE_BYTES:
            break
        picture = draw(cohort, per_class=per_class, withheld=withheld)
    return picture


def verdicts(record: Record) -> None:
    """Show every gate of a Report as a table to search, and in words."""
    report = json.loads((record.path / "report.json").read_text())
    passed = sum(verdict["passed"] for verdict in report["verdicts"])
    headline = f"{'Passed' if report['passed'] else 'FAILED'}: {passed} of {len(report['verdicts'])} gates say yes"
    create_table_artifact([_row(verdict) for verdict in report["verdicts"]], key="verdicts", description=headline)
    create_markdown_artifact(_page(report), key="report", description=headline)


def release(record: Record) -> None:
    """Show where the release lies and how its reader checks it."""
    folders = [entry.name for entry in sorted(record.path.iterdir()) if entry.is_dir()]
    text = "\n".join(f"- `{record.path / name}`" for name in folders)
    create_markdown_artifact(
        f"# Released\n\n{text}\n\nContent `{record.content[:12]}`. Check it with `medpipe verify {record.path}`.",
        key="release",
        description="The folder that may be shared",
    )


def withdrawal(done: Withdrawal, workspace: Path) -> None:
    """Show what descends from the patients who withdrew, by kind and place; of the patients only how many withdrawals are new."""
    rows = [{"Record": node.noun, "Place": str(node.path.relative_to(workspace)), "Note": node.doubt} for node in done.descent]
    recalled = f"{len(done.recall)} releases that are out already descend from them"
    pointer = "; release/current led to one of them and was taken away" if done.current_taken_away else ""
    create_table_artifact(rows, key="withdrawal", description=f"{done.recorded} withdrawals recorded; {recalled}{pointer}")


def _row(verdict: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Gate": verdict["name"],
        "Verdict": "passed" if verdict["passed"] else "FAILED",
        "Value": _number(verdict["value"]),
        "95 % interval": f"{_number(verdict['low'])} – {_number(verdict['high'])}",
        "Bound": f"{verdict['direction']} {_number(verdict['bound'])}",
        "Real data reach": _number(verdict["baseline"]),
        "Images": verdict["n"],
    }


def _page(report: Mapping[str, Any]) -> str:
    """The verdicts in words, those that said no first: a table would cut the sentences off."""
    lines = []
    for title, passed in (("Said no", False), ("Passed", True)):
        lines += [f"## {title}", ""]
        lines += [_said(verdict) for verdict in report["verdicts"] if verdict["passed"] is passed] or ["- no gate"]
        lines.append("")
    lines += ["## Not assessed", ""]
    lines += [f"- **{entry['what']}**: {entry['why']}" for entry in report["not_assessed"]] or ["- nothing"]
    return "\n".join(lines)


def _said(verdict: Mapping[str, Any]) -> str:
    row = _row(verdict)
    return f"- **{row['Gate']}**: {row['Value']}, {row['Bound']}. {' '.join(verdict['meaning'].split())}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
