"""generate: a Checkpoint becomes a Cohort.

The unit of work is a shard: one range of samples, one file, one owner. A sample depends on the seed and its own number,
never on how many workers there are or in which order shards are made; a run that was killed makes the missing shards.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medpipe import __version__, records, store
from medpipe.cohort import masks as masks_
from medpipe.cohort import plan
from medpipe.diffusion import autoencoder, gaussian
from medpipe.diffusion import checkpoint as checkpoints
from medpipe.diffusion import device as devices
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.folded import folded
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.maps import Maps
from medpipe.errors import InputError, MedpipeError
from medpipe.images.transforms import to_stored
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Record
from medpipe.threads import threads

MASKS = "masks.npy"
"""In the record's `state/`: the mask of each sample, chosen before any is made."""


def made_from(checkpoint: Path, recipe: Recipe, *, masks: Path | None = None, weaker: Path | None = None) -> MadeFrom:
    """Say what the Cohort would be made from; raises InputError where the recipe asks for a weaker Checkpoint and none is given."""
    source = records.load(checkpoint, "Checkpoint")
    inputs = {"checkpoint": source.content}
    if masks is not None:
        role, content = masks_.content(masks)
        inputs[role] = content
    if (recipe.cohort.guidance_by == "weaker") != (weaker is not None):
        raise InputError("cohort.guidance_by 'weaker' goes with a weaker Checkpoint, and that with it: give both or neither (--weaker)")
    if weaker is not None:
        inputs["weaker"] = records.load(weaker, "Checkpoint").content
    return MadeFrom("Cohort", inputs, recipe.settings("cohort"), recipe.seed, __version__)


def masks_of(checkpoint: Path, recipe: Recipe, dataset: Path) -> Path | None:
    """Return where a run takes its masks from: the Dataset, where the Checkpoint takes masks and the recipe does not say no."""
    return dataset if recipe.cohort.masks == "training" and "mask" in _kinds(checkpoints.open_model(checkpoint)) else None


def _kinds(model: dict[str, Any]) -> tuple[str, ...]:
    return Maps.from_json(model.get("maps"), model["shape"][0]).kinds


def refuse_in_a_run(recipe: Recipe) -> None:
    """Raise InputError for what a Cohort needs and the chain from a source does not make: a weaker Checkpoint, a covariate to balance."""
    balance, there = recipe.cohort.balance, recipe.source.categorical
    if balance is not None and balance not in there:
        known = ", ".join(there) or "none"
        raise InputError(f"cohort.balance is '{balance}', which is not in source.categorical ({known}): name it there, or use another")
    if recipe.cohort.guidance_by == "weaker":
        raise InputError(
            "cohort.guidance_by 'weaker' needs a weaker Checkpoint, and a run trains one only: use 'medpipe generate' with --weaker"
        )


def generate(
    checkpoint: Path,
    out: Path,
    recipe: Recipe,
    *,
    masks: Path | None = None,
    weaker: Path | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Record:
    """Sample the cohort that `recipe` asks for from `checkpoint` and write it to `out`.

    `masks` is the Dataset or the folder whose masks the images are made to, for a Checkpoint that takes masks; `weaker` the
    Checkpoint that guides where `cohort.guidance_by` says so. Raises RecordError for an altered Checkpoint, InputError for masks
    or a weaker Checkpoint that do not fit it and for a class that training never saw, MedpipeError when samples are not numbers.
    """
    wanted = made_from(checkpoint, recipe, masks=masks, weaker=weaker)
    if (done := records.finished(out, wanted)) is not None:
        return done
    source = records.load(checkpoint, "Checkpoint", verify=True)
    guide = None if weaker is None else _guide(records.load(weaker, "Checkpoint", verify=True), source)
    begun = time.monotonic()
    with records.making(out, wanted) as making:
        model = _prepare(source, out, recipe, masks, making.state)
        marks = making.state / "shards"
        marks.mkdir(exist_ok=True)
        missing = [
            Shard(source.path, out, rows.start, rows.stop, recipe.model_dump_json(), guide)
            for rows in store.shards(out)
            if not (marks / str(rows.start)).exists()
        ]
        total = store.open_array(out).shape[0]
        made = total - sum(shard.stop - shard.start for shard in missing)
        progress("generate", made, total)
        for shard, _ in each(executor, sample_shard, missing):
            (marks / str(shard.start)).touch()
            made += shard.stop - shard.start
            progress("generate", made, total)
        store.consolidate(out)
        facts = _facts(model, recipe, out, time.monotonic() - begun)
        return making.seal(facts | {"consent": source.facts.get("consent")})


def _prepare(source: Record, out: Path, recipe: Recipe, masks: Path | None, state: Path) -> dict[str, Any]:
    """Write the cohort's table, its masks, its empty store and the copies of what it came from."""
    model = checkpoints.open_model(source.path)
    plan.sampling(recipe.cohort, model)  # refuses what a student was not trained for
    if masks is not None and "mask" not in _kinds(model):
        raise InputError(f"the Checkpoint takes no masks: train one with 'mask' in model.maps, or give none of {masks}")
    if recipe.cohort.start == "gaussian" and "covariances" not in model:
        raise InputError("the Checkpoint was trained privately and keeps no moments of its images: set cohort.start noise")
    for name in (checkpoints.MODEL, checkpoints.CURVE):
        shutil.copyfile(source.path / name, out / name)
    table = plan.subjects(model, recipe.cohort, recipe.seed)
    table.to_parquet(out / "index.parquet", index=False)
    if masks is not None:
        given = masks_.read(masks, source, model)
        np.save(state / MASKS, given.labels[given.choose(table["label"], recipe.seed)])
    attributes = {"synthetic": True} | {key: model[key] for key in ("spacing_mm", "patient_orientation", "modality")}
    form = autoencoder.image_form(model)
    of = (len(table), tuple(form["shape"]), form["dtype"])
    store.create(out, *of, shard=recipe.cohort.shard, masks=masks is not None, attributes=attributes)
    return model


def _guide(weaker: Record, source: Record) -> Path:
    """Return the weaker Checkpoint, if it can guide the other: it has to know the same images and conditions."""
    one, other = (
        (
            record.made_from["inputs"],
            *(checkpoints.open_model(record.path).get(key) for key in ("conditions", "maps", "data_mean", "stretch")),
        )
        for record in (weaker, source)
    )
    if one != other:
        raise InputError(f"{weaker.path} is of another Dataset or other conditions: train it on the same, smaller or shorter")
    return weaker.path


@dataclass(frozen=True)
class Shard:
    """One shard to make: paths and numbers only, so that it travels to any worker."""

    checkpoint: Path
    out: Path
    start: int
    stop: int
    recipe: str
    """The recipe as JSON."""
    weaker: Path | None = None


@torch.no_grad()
def sample_shard(shard: Shard) -> int:
    """Sample and write one shard; return its number of images.

    One thread on a CPU: a result may depend on the number of threads in its last bit, and workers scale better.
    """
    recipe = Recipe.model_validate(json.loads(shard.recipe))
    settings, device = recipe.cohort, devices.device(recipe.compute.device)
    model = checkpoints.open_model(shard.checkpoint)
    table = pd.read_parquet(shard.out / "index.parquet").iloc[shard.start : shard.stop]
    asked = Conditions.from_json(model["conditions"])
    conditions = asked.encode(table)
    moments = gaussian.load(shard.checkpoint, model["covariances"]) if settings.start == "gaussian" else None
    way = plan.sampling(settings, model)
    highest = float(way.sigmas[0])
    dtype = devices.precision(model["precision"], device)
    maps, drawn_to = Maps.from_json(model.get("maps"), model["shape"][0]), shard.out / records.STATE / MASKS
    masks = np.load(drawn_to, mmap_mode="r")[shard.start : shard.stop].copy() if drawn_to.exists() else None
    form = autoencoder.image_form(model)
    images = np.empty((shard.stop - shard.start, *form["shape"]), dtype=form["dtype"])
    with threads(1), torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        denoiser = folded(checkpoints.open_denoiser(shard.checkpoint, device, settings.ema_width), dtype)
        decoder = autoencoder.open_decoder(shard.checkpoint, model, device)
        weaker = None if shard.weaker is None else folded(checkpoints.open_denoiser(shard.weaker, device), dtype)
        for first in range(0, len(images), settings.batch):
            last = min(first + settings.batch, len(images))
            noise = plan.Draws(recipe.seed, range(shard.start + first, shard.start + last), tuple(model["shape"]))
            begun = noise() * highest
            if moments is not None:
                begun = moments.start(begun / highest, *asked.parts(conditions[first:last]), table["label"][first:last].tolist(), highest)
            given = maps.join(begun.shape, {} if masks is None else {"mask": maps.mask(torch.from_numpy(masks[first:last]))})
            denoise = guided(
                denoiser,
                conditions[first:last].to(device),
                way.guidance,
                maps=None if given is None else given.to(device),
                weaker=weaker,
                low=settings.guidance_low,
                high=settings.guidance_high or math.inf,
            )
            drawn = way.sampler(denoise, begun.to(device), way.sigmas, partial(_fresh, noise, device))
            made = decoder.decode(drawn.float()).cpu().numpy()
            if not np.isfinite(made).all():
                raise MedpipeError(
                    f"samples {shard.start + first} to {shard.start + last} are not numbers: the Checkpoint is broken, train again"
                )
            images[first:last] = to_stored(made, form["dtype"])
    store.write_shard(shard.out, range(shard.start, shard.stop), images, masks)
    return len(images)


def _fresh(noise: plan.Draws, device: str) -> torch.Tensor:
    return noise().to(device)


def _facts(model: dict[str, Any], recipe: Recipe, out: Path, seconds: float) -> dict[str, Any]:
    settings, made = recipe.cohort, store.open_array(out).shape[0]
    copied = ("shape", "dtype", "dimensions", "classes", "covariates", "spacing_mm", "modality", "licence")
    form = autoencoder.image_form(model)
    return (
        {key: model[key] for key in copied}
        | form
        | dict(plan.sampling(settings, model).said)
        | {
            "images": made,
            "asked": settings.images,
            "masks": bool(store.has(out, "mask")),
            "composition": settings.composition,
            "balance": settings.balance,
            "cost": {"seconds": round(seconds, 1), "images_per_s": round(made / max(seconds, 1e-9), 1)},
        }
    )
