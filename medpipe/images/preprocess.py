"""preprocess: a Collection becomes a Dataset.

Parts of the Collection are prepared (pixels read, windowed, put on the model's grid) by any number of workers; then the
splits are cut, identical images dropped, and the store is written shard by shard. What is not used has a reason code.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medpipe import __version__, records, store
from medpipe.errors import InputError
from medpipe.images import covariates, selection, shards, splits
from medpipe.images.dataset import SPLITS
from medpipe.images.shards import Candidate, Outcome, Part, Shard
from medpipe.images.volume import ORIENTATION
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making, Record
from medpipe.settings import ImagesSettings

_PART_IMAGES, _PART_SERIES = 64, 4
_SHARD_BYTES = 2**28
"""Bound on a shard, and so on a worker's memory, whatever images.shard says."""


def made_from(collection: Path, recipe: Recipe) -> MadeFrom:
    """Say what the Dataset would be made from."""
    source = records.load(collection, "Collection")
    return MadeFrom("Dataset", {"collection": source.content}, recipe.settings("images"), recipe.seed, __version__)


def preprocess(collection: Path, out: Path, recipe: Recipe, *, executor: Executor | None = None, progress: Progress = silent) -> Record:
    """Make the Dataset of `collection` in `out`: images on one grid, covariates, splits that share no patient.

    Returns the finished record where there is one; goes on where an earlier run stopped. Raises InputError when the
    Collection cannot make a Dataset under this recipe, RecordError when it was altered.
    """
    wanted = made_from(collection, recipe)
    if record := records.finished(out, wanted):
        return record
    began = time.monotonic()
    source = records.load(collection, "Collection", verify=True)
    plan = _plan(source, recipe.images)
    with records.making(out, wanted) as making:
        outcomes = _prepare(plan, making, source, recipe.images, executor, progress)
        images, rejected = _images(plan, outcomes)
        images = splits.assign(images, recipe.images, recipe.seed)
        used = images[images["reason"].isna()].reset_index(drop=True)
        written = _write(plan, making, used, recipe.images, executor, progress)
        counted = _tables(making.path, images, used, rejected, source)
        about = {
            "dimensions": recipe.images.dimensions,
            "modality": plan.modality,
            "licence": source.facts["licence"],
            "source_form": source.facts["form"],
            "consent": source.facts.get("consent"),
            "cost": {"seconds": round(time.monotonic() - began, 1)},
        }
        return making.seal(written | counted | about)


@dataclass(frozen=True)
class _Plan:
    """What is to be prepared: the Collection's index, the candidates of DICOM, and the instances refused already."""

    index: pd.DataFrame
    channels: int
    candidates: Sequence[Candidate] = ()
    rejected: Sequence[tuple[str, str]] = ()
    modality: str | None = None
    """Of DICOM: the modalities used, joined by +."""


def _plan(source: Record, settings: ImagesSettings) -> _Plan:
    """Judge the Collection by its index alone, before anything is written."""
    index = pd.read_parquet(source.path / "index.parquet")
    if index.empty:
        raise InputError("the Collection is empty: give a source with images")
    if source.facts["form"] == "arrays":
        array = store.open_array(source.path)
        dimensions = array.ndim - 2
        if dimensions != settings.dimensions:
            raise InputError(f"the arrays hold images of {dimensions} dimensions: set images.dimensions to {dimensions}")
        if settings.spacing_mm is not None:
            raise InputError("images.spacing_mm needs images that say their size, and arrays do not: leave it empty")
        return _Plan(index.sort_values("row").reset_index(drop=True), array.shape[1])
    candidates, reasons = selection.select(index, settings)
    if settings.dimensions == 3:  # a volume has what is known of any of its slices
        for name in ("label", *source.facts["continuous"], *source.facts["categorical"]):
            index[name] = index.groupby("series")[name].transform("first")
    used = {uid for candidate in candidates for uid in candidate.instances}
    modality = "+".join(sorted(index.loc[index["instance"].isin(used), "modality"].unique()))
    return _Plan(index, 1, candidates, [(uid, reason.name) for uid, reason in reasons.items()], modality)


def _prepare(
    plan: _Plan, making: Making, source: Record, settings: ImagesSettings, executor: Executor | None, progress: Progress
) -> list[Outcome]:
    """Prepare all parts and return the outcomes in the order of the Collection."""
    parts = list(_parts(plan, making.state, source, settings))
    total = len(plan.candidates) or len(plan.index)
    done: dict[int, list[Outcome]] = {}
    progress("preprocess", 0, total)
    for count, (part, outcomes) in enumerate(each(executor, shards.prepare, parts), start=1):
        done[part.number] = outcomes
        progress("preprocess", total * count // len(parts), total)
    return [outcome for number in sorted(done) for outcome in done[number]]


def _parts(plan: _Plan, state: Path, source: Record, settings: ImagesSettings) -> Iterator[Part]:
    if not plan.candidates:
        for number, rows in enumerate(store.shards(source.path)):
            yield Part(number, source.path, state, settings, rows=rows, instances=tuple(plan.index["instance"][rows.start : rows.stop]))
        return
    size = _PART_IMAGES if settings.dimensions == 2 else _PART_SERIES
    for number, start in enumerate(range(0, len(plan.candidates), size)):
        yield Part(number, source.path, state, settings, candidates=tuple(plan.candidates[start : start + size]))


def _images(plan: _Plan, outcomes: Sequence[Outcome]) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return one row per image that was made, with what the index knows of it, and (instance, reason) of what was not."""
    rejected = [*plan.rejected, *((outcome.image, outcome.reason) for outcome in outcomes if outcome.reason)]
    made = pd.DataFrame([vars(outcome) for outcome in outcomes if not outcome.reason], columns=list(Outcome.__dataclass_fields__))
    if made.empty:
        counts = Counter(reason for _, reason in rejected)
        raise InputError(f"no image can be used ({', '.join(f'{n} {code}' for code, n in sorted(counts.items()))}): check the source")
    known = plan.index.rename(columns={"instance": "image"}).drop(columns="row", errors="ignore")
    images = made.drop(columns="reason").merge(known, on="image", how="left", validate="one_to_one")
    for name in ("split", "order", "label"):
        if name not in images:
            images[name] = None
    return images, rejected


def _write(
    plan: _Plan, making: Making, used: pd.DataFrame, settings: ImagesSettings, executor: Executor | None, progress: Progress
) -> dict[str, Any]:
    """Write the store, shard by shard, each gathered from the parts; return what the record says of it."""
    shape = (plan.channels, *settings.shape)
    dtype = "uint16" if (used["dtype"] == "uint16").any() else "uint8"
    masks = bool(used["masked"].any())
    spacings = {tuple(step or ()) for step in used["spacing_mm"]}
    spacing_mm: list[float] | None = list(*spacings) or None if len(spacings) == 1 else None  # one for all images, or none
    attributes: dict[str, Any] = {"synthetic": False, "spacing_mm": spacing_mm}
    if settings.dimensions == 3:
        attributes["patient_orientation"] = ORIENTATION
    size = max(1, min(settings.shard, _SHARD_BYTES // (math.prod(shape) * 2)))
    store.create(making.path, len(used), shape, dtype, shard=size, masks=masks, attributes=attributes)
    places = list(zip(used["part"].astype(int), used["position"].astype(int), strict=True))
    jobs = [
        Shard(making.path, making.state, rows, tuple(places[rows.start : rows.stop]), dtype, masks) for rows in store.shards(making.path)
    ]
    progress("write shards", 0, len(jobs))
    for count, _ in enumerate(each(executor, shards.write, jobs), start=1):
        progress("write shards", count, len(jobs))
    store.consolidate(making.path)
    return {"images": len(used), "shape": list(shape), "dtype": dtype, "masks": masks} | {
        name: attributes.get(name) for name in ("spacing_mm", "patient_orientation")
    }


def _tables(folder: Path, images: pd.DataFrame, used: pd.DataFrame, rejected: Sequence[tuple[str, str]], source: Record) -> dict[str, Any]:
    """Write the index and the list of what was left out; return their counts."""
    columns, said = covariates.typed(used, source.facts["continuous"], source.facts["categorical"])
    label = used["label"].astype(object).where(used["label"].notna(), None)
    index = pd.DataFrame(
        {"row": range(len(used)), "image": used["image"], "patient": used["patient"], "split": used["split"], "label": label}
    )
    pd.concat([index, columns], axis=1).to_parquet(folder / "index.parquet", index=False)
    left_out = images.loc[images["reason"].notna(), ["image", "reason"]].itertuples(index=False, name=None)
    excluded = pd.DataFrame(sorted([*rejected, *left_out]), columns=["image", "reason"], dtype=str)
    excluded.to_parquet(folder / "excluded.parquet", index=False)
    present = set(used["label"].dropna())
    splits_ = used.groupby("split")
    return {
        "classes": [name for name in source.facts["classes"] or sorted(present) if name in present],
        "covariates": said,
        "splits": {name: len(splits_.get_group(name)) for name in SPLITS},
        "patients": {name: int(splits_.get_group(name)["patient"].nunique()) for name in SPLITS},
        "excluded": {str(code): int(n) for code, n in excluded["reason"].value_counts().sort_index().items()},
    }
