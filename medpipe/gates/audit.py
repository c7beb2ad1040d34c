"""audit: synthetic images that somebody else made, judged by the same gates against a Dataset.

The candidates are brought to the Dataset's grid and stored as a Cohort that says that it is foreign; then `validate`
judges it. A candidate that cannot be read, or shows nothing, is withheld and keeps its place.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe import __version__, records, store
from medpipe.errors import InputError
from medpipe.gates.validate import validate
from medpipe.images import shards, transforms
from medpipe.images.dataset import Dataset
from medpipe.images.reasons import Rejected
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making, Record
from medpipe.settings import ImagesSettings
from medpipe.sources import candidates
from medpipe.sources.candidates import Candidates, Given

SHARD = 256
IMAGES, EVIDENCE, PAGE = "images.parquet", "evidence.json", "report.html"


@dataclass(frozen=True)
class Audit:
    """What an audit made: `folder` holds `report.html`, `evidence.json` and `images.parquet`."""

    folder: Path
    report: Record
    candidates: int
    withheld: int

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return bool(self.report.facts["passed"])


def audit(given: Path, dataset: Path, out: Path, recipe: Recipe, *, executor: Executor | None = None, progress: Progress = silent) -> Audit:
    """Judge the candidates at `given` against the Dataset at `dataset` and write the evidence to `out`.

    `given` is an .npz file (`images`, `labels`), a Zarr store, or a folder of PNG, DICOM or NIfTI files. `images.parquet` has
    one row per candidate: `index`, `withheld`, `reason` and its copy scores. Raises InputError where the candidates cannot
    be compared with the Dataset. A failed gate is no error.
    """
    data = Dataset.open(dataset)
    found = candidates.find(given, list(data.facts["classes"]))
    cohort = _cohort(found, data, out / "candidates", progress)
    report = validate(cohort.path, dataset, out / "report", recipe, executor=executor, progress=progress)
    table = _table(cohort, report)
    table.to_parquet(out / IMAGES, index=False)
    shutil.copyfile(report.path / "report.html", out / PAGE)
    shutil.copyfile(report.path / "report.json", out / EVIDENCE)
    return Audit(out, report, found.count, int(table["withheld"].sum()))


def _cohort(found: Candidates, data: Dataset, out: Path, progress: Progress) -> Record:
    """Store the candidates on the Dataset's grid."""
    grid = {"dimensions": data.facts["dimensions"], "size": data.facts["shape"][-1]}
    settings = ImagesSettings.model_validate(data.record.made_from["settings"].get("images", {}) | grid)
    inputs = {"candidates": found.digest(), "dataset": data.record.content}
    wanted = MadeFrom("Cohort", inputs, {"images": settings.model_dump(mode="json")}, 0, __version__)
    if (done := records.finished(out, wanted)) is not None:
        return done
    with records.making(out, wanted) as making:
        kept, reasons = _stored(found, data, settings, making, progress)
        labels = [found.labels[index] for index in kept]
        index = {"row": np.arange(len(kept)), "id": [f"S{number:06d}" for number in range(1, len(kept) + 1)]}
        pd.DataFrame(index | {"label": pd.Series(labels, dtype=object)}).to_parquet(out / "index.parquet", index=False)
        candidate = {"index": np.arange(found.count), "row": -1, "reason": [reasons.get(number) for number in range(found.count)]}
        table = pd.DataFrame(candidate)
        table.loc[kept, "row"] = np.arange(len(kept))
        table.to_parquet(out / "candidates.parquet", index=False)
        return making.seal(_facts(found, data, len(kept)))


def _facts(found: Candidates, data: Dataset, images: int) -> dict[str, Any]:
    copied = ("shape", "dtype", "dimensions", "spacing_mm", "modality")
    return {name: data.facts.get(name) for name in copied} | {
        "foreign": True,
        "images": images,
        "candidates": found.count,
        "classes": list(data.facts["classes"]) if found.labelled else [],
        "covariates": [],
        "licence": "not stated",
        "composition": "as_trained",
    }


def _stored(
    found: Candidates, data: Dataset, settings: ImagesSettings, making: Making, progress: Progress
) -> tuple[list[int], dict[int, str]]:
    """Write the store; return the candidates in it, by place, and why each other is not."""
    shape, dtype = tuple(data.facts["shape"]), str(data.facts["dtype"])
    scale = _Scale.of(found)
    kept: list[int] = []
    reasons: dict[int, str] = {}
    ready = making.state / "ready.npy"
    block = np.lib.format.open_memmap(ready, "w+", np.dtype(dtype), (found.count, *shape))
    for number, given in enumerate(found.images()):
        image = _prepared(given, scale, shape, dtype, settings)
        if isinstance(image, str):
            reasons[number] = image
        else:
            block[len(kept)] = image
            kept.append(number)
        progress("read candidates", number + 1, found.count)
    if not kept:
        raise InputError(f"none of the {found.count} candidates is an image of the Dataset's form {shape}: give images of that kind")
    store.create(making.path, len(kept), shape, dtype, shard=SHARD, attributes={"synthetic": True})
    for rows in store.shards(making.path):
        store.write_shard(making.path, rows, np.asarray(block[rows.start : rows.stop]))
    store.consolidate(making.path)
    return kept, reasons


@dataclass(frozen=True)
class _Scale:
    """How numbers that are no grey levels become them: one rule for all candidates, so that brightness stays comparable."""

    low: float
    factor: float
    """0 leaves each image to its own window, as preprocessing does with measured values."""

    @classmethod
    def of(cls, found: Candidates) -> _Scale:
        """Look at arrays once: from 0 to 1, from -1 to 1, 8 or 16 bits; files of measured values have no such rule."""
        low, high = np.inf, -np.inf
        for given in () if found.files else found.images():
            if given.values is not None and given.values.dtype != np.uint8:
                low, high = min(low, float(given.values.min())), max(high, float(given.values.max()))
        if -1.001 <= low < 0 and high <= 1.001:
            return cls(-1.0, 127.5)
        if low < 0 or low > high or 255 < high <= 4095 or high > 65535:
            return cls(0.0, 0.0)
        return cls(0.0, 255.0 if high <= 1.001 else 1.0 if high <= 255 else 1 / 257)


def _prepared(given: Given, scale: _Scale, shape: tuple[int, ...], dtype: str, settings: ImagesSettings) -> NDArray[Any] | str:
    """Bring one candidate to the Dataset's form, or say why it cannot be."""
    if given.values is None:
        return given.reason or "UNREADABLE"
    values = _channels(given.values, shape[0])
    if values.ndim != len(shape) or values.shape[0] != shape[0]:
        return "WRONG_FORM"
    if values.dtype == np.uint16 and dtype == "uint16" and values.shape == shape:
        return np.asarray(values)  # as our own stores hold them
    to = transforms.step(values.shape[1:], given.aspect, settings.shape)  # the whole field of view
    if values.dtype != np.uint8 and scale.factor:
        levels = ((values.astype(np.float64) - scale.low) * scale.factor).clip(0, 255)
        if dtype == "uint16":
            return transforms.to_stored(transforms.fit(levels / 255, given.aspect, settings.shape, to) * 2 - 1, dtype)
        values = np.rint(levels).astype(np.uint8)
    try:
        stored = shards.on_grid(values, None, given.aspect, to, settings)
    except Rejected as rejected:
        return rejected.reason.name
    return (stored // 257).astype(np.uint8) if dtype == "uint8" and stored.dtype == np.uint16 else shards.widened(stored, dtype)


def _channels(values: NDArray[Any], wanted: int) -> NDArray[Any]:
    """Make grey of colour (ITU-R BT.601) or colour of grey where the Dataset has it so."""
    if values.shape[0] == wanted:
        return values
    if values.shape[0] == 3 and wanted == 1:
        grey = np.tensordot(np.array([0.299, 0.587, 0.114]), values.astype(np.float64), axes=1)
        same = bool((values == values[:1]).all())
        return values[:1] if same else np.rint(grey).astype(values.dtype)[None] if values.dtype.kind in "ui" else grey[None]
    return np.repeat(values, wanted, axis=0) if values.shape[0] == 1 else values


def _table(cohort: Record, report: Record) -> pd.DataFrame:
    """Return one row per candidate in the order in which they were given."""
    given = pd.read_parquet(cohort.path / "candidates.parquet")
    judged = pd.read_parquet(report.path / "images.parquet")
    table = given.drop(columns="reason").merge(judged, on="row", how="left").sort_values("index").drop(columns="row")
    unread = given["reason"].notna().to_numpy()
    table.loc[unread, "withheld"] = True
    table.loc[unread, "reason"] = given["reason"][unread].str.lower().to_numpy()
    table["withheld"] = table["withheld"].astype(bool)
    return table.reset_index(drop=True)
