"""compare: methods that make images, each trained on the same Dataset over as many images, judged by the same gates.

One table for a person who must choose: likeness, variety, use, copies, and what training and sampling cost.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never, get_args

import jinja2
import numpy as np
import pandas as pd

from medpipe import preview, records, store
from medpipe.baselines.synthesize import synthesize
from medpipe.cohort.generate import generate
from medpipe.diffusion.train import train
from medpipe.errors import InputError
from medpipe.gates.validate import validate
from medpipe.images.dataset import Dataset
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import Record
from medpipe.release import charts

Method = Literal["diffusion", "gan", "vae"]
METHODS: tuple[Method, ...] = get_args(Method)
TABLE, PAGE = "comparison.json", "comparison.html"
SHOWN = 12
"""Images of each method on the page."""


@dataclass(frozen=True)
class Column:
    """One figure of the table."""

    name: str
    title: str
    better: Literal["low", "high", ""]
    meaning: str


COLUMNS = (
    Column("gates", "gates passed", "high", "Gates that the cohort passed, of those that applied."),
    Column("frechet", "Fréchet, learned", "low", "Distance to the training images over that of real held-out images, learned features."),
    Column("frechet_texture", "Fréchet, texture", "low", "The same on features of texture."),
    Column("frechet_pixels", "Fréchet, layout", "low", "The same on small pixels."),
    Column("precision", "precision", "high", "Share of images that lie among real ones, over that of real held-out images."),
    Column("recall", "recall", "high", "Share of real images that lie among these: variety, over that of real held-out images."),
    Column("utility", "AUC of use", "high", "AUC on real test images of a classifier trained on these images."),
    Column("utility_real", "AUC of real", "", "The same of a classifier trained on as many real images."),
    Column("copies_near", "near copies", "low", "Share of images that match a training image more closely than other people do."),
    Column("parameters", "weights", "low", "Weights of the network that samples."),
    Column("training_seconds", "training, s", "low", "Seconds of training on this machine."),
    Column("images_per_s", "images per s", "high", "Images sampled in a second on this machine."),
)


@dataclass(frozen=True)
class Comparison:
    """What was compared: a row per method, and the folder with `comparison.json` and `comparison.html`."""

    folder: Path
    rows: pd.DataFrame


def compare(
    dataset: Path,
    out: Path,
    recipe: Recipe,
    *,
    methods: Sequence[Method] = METHODS,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Train each of `methods` on the Dataset over `train.images` images, sample the cohort of `recipe`, judge it, and write one table.

    What an earlier run made in `out` is taken up. Raises InputError for a method that is none.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise InputError(f"there is no method '{unknown[0]}': there are {', '.join(METHODS)}")
    rows, grids = [], []
    for method in dict.fromkeys(methods):
        cohort, cost = _cohort(method, dataset, out / method, recipe, executor, progress)
        report = validate(cohort.path, dataset, out / method / "report", recipe, executor=executor, progress=progress)
        rows.append({"method": method} | _figures(report) | cost)
        grids.append((method, _tiles(_shown(cohort, report))))
    table = pd.DataFrame(rows)
    records.write_json(
        out / TABLE, {"dataset": records.load(dataset, "Dataset").content, "rows": json.loads(table.to_json(orient="records"))}
    )
    records.write_bytes(out / PAGE, _page(table, grids, Dataset.open(dataset), recipe).encode())
    return Comparison(out, table)


def _cohort(
    method: Method, dataset: Path, out: Path, recipe: Recipe, executor: Executor | None, progress: Progress
) -> tuple[Record, dict[str, Any]]:
    """Make the cohort of a method; return it and what it cost."""
    match method:
        case "diffusion":
            checkpoint = train(dataset, out / "checkpoint", recipe, progress=progress)
            cohort = generate(checkpoint.path, out / "cohort", recipe, executor=executor, progress=progress)
            cost = {"parameters": checkpoint.facts["parameters"], "training_seconds": checkpoint.facts["cost"]["seconds"]}
        case "gan" | "vae":
            cohort = synthesize(method, dataset, out / "cohort", recipe, progress=progress)
            cost = {"parameters": cohort.facts["parameters"], "training_seconds": cohort.facts["cost"]["training_seconds"]}
        case _:
            assert_never(method)
    return cohort, cost | {"images_per_s": cohort.facts["cost"]["images_per_s"]}


def _figures(report: Record) -> dict[str, Any]:
    """Return the figures of a Report: those of likeness relative to what real held-out images reach."""
    verdicts = {verdict["name"]: verdict for verdict in json.loads((report.path / "report.json").read_text())["verdicts"]}
    out: dict[str, Any] = {"gates": f"{sum(v['passed'] for v in verdicts.values())} of {len(verdicts)}"}
    for name in ("frechet", "frechet_texture", "frechet_pixels", "precision", "recall"):
        found = verdicts.get(name, {})
        value, baseline = found.get("value"), found.get("baseline")
        out[name] = value / baseline if value is not None and baseline else None
    used = verdicts.get("utility", {})
    return out | {
        "utility": used.get("value"),
        "utility_real": used.get("baseline"),
        "copies_near": verdicts["copies_near"]["value"],
    }


def _shown(cohort: Record, report: Record) -> store.Images:
    """Read the first images of a cohort that the gates did not withhold."""
    judged = pd.read_parquet(report.path / "images.parquet", columns=["row", "withheld"])
    return store.read(cohort.path, np.sort(judged.loc[~judged["withheld"].astype(bool), "row"].to_numpy(np.int64))[:SHOWN])


def _tiles(images: store.Images) -> str:
    return "data:image/png;base64," + base64.b64encode(preview.strip(images)).decode()


def _page(table: pd.DataFrame, grids: Sequence[tuple[str, str]], data: Dataset, recipe: Recipe) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medpipe.release", "."), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = charts.number
    best = {column.name: _best(table, column) for column in COLUMNS}
    return environment.get_template("comparison.html.j2").render(
        columns=COLUMNS,
        rows=table.astype(object).where(table.notna(), None).to_dict("records"),
        best=best,
        grids=grids,
        size=" × ".join(str(side) for side in data.facts["shape"][1:]),
        images=recipe.train.images,
        cohort=recipe.cohort.images,
    )


def _best(table: pd.DataFrame, column: Column) -> str | None:
    """Return the method that is best in a column; None where nothing decides."""
    values = table[column.name]
    if column.name == "gates":
        values = values.map(lambda text: int(str(text).split()[0]))
    numbers = pd.to_numeric(values, errors="coerce")
    if column.better == "" or numbers.isna().all() or numbers.nunique() < 2:
        return None
    place = int((numbers if column.better == "low" else -numbers).to_numpy(float, na_value=np.inf).argmin())
    return str(table["method"].iloc[place])
