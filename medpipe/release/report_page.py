"""The report as one page for two readers: a data-protection officer and an ML engineer.

The page is one file that asks nothing of a network: no script, no font, no address that a browser would fetch. The only
pixels in it are synthetic, from rows that were not withheld; real data appear as counts, small cells suppressed.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from medpipe import preview, records
from medpipe.consent import evidence
from medpipe.release import charts, refill
from medpipe.release.card import LIMITS, About, kind_of_images, shortfall
from medpipe.release.refill import Selection

SMALL_CELL = 11
QUESTIONS = {
    "privacy": ("Privacy", "Does it give a patient away?"),
    "fidelity": ("Fidelity", "Does it look like real images?"),
    "utility": ("Utility", "Is it worth training on?"),
    "fairness": ("Fairness", "Is it as good for every group?"),
    "table": ("Table", "Is it complete and in range?"),
}
CHAIN = (
    ("dataset", "Dataset", "de-identified real images; they stay where they are"),
    ("checkpoint", "Checkpoint", "the trained model; it stays where it is"),
    ("cohort", "Cohort", "the synthetic images, before any was withheld"),
    ("report", "Report", "the measurements on this page"),
)


def render(
    report: Mapping[str, Any],
    cohort: Path,
    *,
    withheld: Collection[int] = (),
    selection: Selection | None = None,
    fingerprints: Mapping[str, str] | None = None,
    about: About | None = None,
    per_class: int = 8,
) -> str:
    """Render `report` on the Cohort at `cohort` as one self-contained HTML page.

    Images of the rows in `withheld` are not shown; `selection` says what became of all that were made. `fingerprints` names what
    the chain is made of beyond the Cohort's own record ("dataset", "report"); `about` makes it the page of a Release. Real counts
    that are null are shown as suppressed. Raises RecordError when `cohort` is not a Cohort.
    """
    record = records.load(cohort, "Cohort")
    made = int(record.facts["images"])
    selection = selection or refill.Selection(made, made, len(withheld), np.empty(made - len(withheld), np.int64), 0)
    small_cell = int(report.get("small_cell") or SMALL_CELL)
    verdicts = list(report["verdicts"])
    fingerprints = {"cohort": record.content, **record.made_from["inputs"], **(fingerprints or {})}
    return _template().render(
        title=about.title if about else "Candidates of others" if record.facts.get("foreign") else "Synthetic cohort",
        about=about,
        facts=record.facts,
        size=" × ".join(str(side) for side in record.facts["shape"][1:]),
        images=len(selection.rows),
        selection=selection,
        withheld=selection.withheld,
        passed=bool(report["passed"]) and all(verdict["passed"] for verdict in verdicts) and bool(verdicts),
        verdicts=verdicts,
        groups=_groups(verdicts),
        grid=_grid(cohort, per_class, withheld),
        distributions=_distributions(report.get("distributions", {}), small_cell),
        composition=_composition(report.get("composition", []), _labels(cohort, withheld)),
        detector=[{"low": None, "high": None, "required": False, **row} for row in report.get("copy_detector", [])],
        tried=list(report.get("gates_self_test", [])),
        fairness=list(report.get("fairness", [])),
        tables=[
            {**table, "drawing": Markup(charts.lines(**table["chart"])) if table.get("chart") else None}
            for table in report.get("tables", [])
        ],
        privacy=report.get("privacy"),
        decision=about.decision if about else None,
        curve=_curve(cohort / "training.parquet"),
        chain=[(title, fingerprints[role], meaning) for role, title, meaning in CHAIN if role in fingerprints],
        code=record.made_from["code"],
        seed=record.made_from["seed"],
        not_assessed=list(report.get("not_assessed", [])),
        consent=report.get("consent") or evidence(None, 0),
        limits=LIMITS,
        small_cell=small_cell,
        kind=kind_of_images(record.facts.get("modality") or report.get("dataset", {}).get("modality")),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medpipe.release", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=charts.number, words=_words, shortfall=shortfall, breakable=_breakable)
    return environment.get_template("report.html.j2")


def _groups(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Verdicts by what they answer, the failed first, each with its gauge."""
    groups = []
    kinds = dict.fromkeys([*QUESTIONS, *(str(verdict["kind"]) for verdict in verdicts)])
    for kind in kinds:
        title, question = QUESTIONS.get(kind, (_words(kind).capitalize(), ""))
        mine = sorted((verdict for verdict in verdicts if verdict["kind"] == kind), key=lambda verdict: bool(verdict["passed"]))
        if mine:
            rows = [{**verdict, "gauge": Markup(charts.gauge(verdict))} for verdict in mine]
            groups.append(
                {"title": title, "question": question, "verdicts": rows, "passed": sum(bool(verdict["passed"]) for verdict in mine)}
            )
    return groups


def _grid(cohort: Path, per_class: int, withheld: Collection[int]) -> list[dict[str, Any]]:
    """The first images of each class as data addresses, with what a reader who cannot see them is told."""
    index = pd.read_parquet(cohort / "index.parquet").set_index("row")
    rows = preview.sample_rows(cohort, per_class, withheld)
    kept = index.drop(index=[row for row in withheld if row in index.index])
    out = []
    for name, images in preview.samples(cohort, per_class, withheld).items():
        tiles = [
            {
                "source": "data:image/png;base64," + base64.b64encode(preview.strip(image[None])).decode(),
                "said": f"synthetic image {index.loc[row, 'id']}" + (f", {name}" if name != preview.ALL else ""),
            }
            for row, image in zip(rows[name], images, strict=True)
        ]
        count = len(kept) if name == preview.ALL else int((kept["label"] == name).sum())
        out.append({"name": "All images" if name == preview.ALL else name, "tiles": tiles, "count": count})
    return out


def _distributions(entries: Mapping[str, Mapping[str, Any]], small_cell: int) -> list[dict[str, Any]]:
    out = []
    for name, entry in entries.items():
        edges, bins = list(entry["edges"]), len(entry["synthetic"])
        numeric = len(edges) == bins + 1
        labels = (
            [f"{charts.number(edges[i])} to {charts.number(edges[i + 1])}" for i in range(bins)]
            if numeric
            else [str(edge) for edge in edges]
        )
        out.append(
            {
                "name": _words(name),
                "chart": Markup(charts.distribution(_words(name), entry, small_cell)),
                "rows": list(zip(labels, entry["real"], entry["synthetic"], strict=True)),
                "suppressed": sum(cell is None for cell in entry["real"]),
            }
        )
    return out


def _labels(cohort: Path, withheld: Collection[int]) -> Mapping[str, int]:
    """Count the images that are shown, by class."""
    index = pd.read_parquet(cohort / "index.parquet")
    counts = index.loc[~index["row"].isin(list(withheld)), "label"].value_counts()
    return {str(name): int(count) for name, count in counts.items()}


def _composition(rows: Sequence[Mapping[str, Any]], kept: Mapping[str, int]) -> list[dict[str, Any]]:
    """Counts by class with their shares; real shares only where no real cell is hidden, since a total would give it away."""
    rows = [{**row, "synthetic": kept.get(str(row["label"]), row["synthetic"] if row["label"] is None else 0)} for row in rows]
    synthetic = sum(row["synthetic"] or 0 for row in rows) or 1
    hidden = any(row["real"] is None for row in rows)
    real = 0 if hidden else sum(row["real"] for row in rows) or 1
    return [
        {
            "label": "not labelled" if row["label"] is None else str(row["label"]),
            "synthetic": row["synthetic"],
            "synthetic_share": (row["synthetic"] or 0) / synthetic,
            "real": row["real"],
            "real_share": None if hidden else row["real"] / real,
        }
        for row in rows
    ]


def _curve(path: Path) -> Markup | None:
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    names = {"loss": "training", "validation_loss": "validation", "probe_loss": "known"}
    series = {said: [float(value) for value in table[name]] for name, said in names.items() if name in table}
    svg = charts.curve([float(value) for value in table["images"]], series)
    return Markup(svg) if svg else None


def _words(name: str) -> str:
    """Turn a name of the code into words."""
    return str(name).replace("_", " ")


def _breakable(digest: str) -> Markup:
    """Let a digest wrap on a narrow screen."""
    return Markup("<wbr>").join(digest[i : i + 8] for i in range(0, len(digest), 8))
