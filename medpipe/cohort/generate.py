"""generate: a Checkpoint becomes a Cohort.

The unit of work is a shard: one range of samples, one file, one owner. A sample depends on the seed and its own number,
never on how many workers there are or in which order shards are made; a run that was killed makes the missing shards.
"""

from __future__ import annotations

import json
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
from medpipe.cohort import plan
from medpipe.diffusion import autoencoder, checkpoint, gaussian, samplers, schedules
from medpipe.diffusion import device as devices
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import guided
from medpipe.errors import MedpipeError
from medpipe.images.transforms import to_stored
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Record
from medpipe.threads import threads


def made_from(checkpoint: Path, recipe: Recipe) -> MadeFrom:
    """Say what the Cohort would be made from."""
    source = records.load(checkpoint, "Checkpoint")
    return MadeFrom("Cohort", {"checkpoint": source.content}, recipe.settings("cohort"), recipe.seed, __version__)


def generate(checkpoint: Path, out: Path, recipe: Recipe, *, executor: Executor | None = None, progress: Progress = silent) -> Record:
    """Sample the cohort that `recipe` asks for from `checkpoint` and write it to `out`.

    Raises RecordError for an altered Checkpoint, MedpipeError when samples are not numbers.
    """
    wanted = made_from(checkpoint, recipe)
    if (done := records.finished(out, wanted)) is not None:
        return done
    source = records.load(checkpoint, "Checkpoint", verify=True)
    begun = time.monotonic()
    with records.making(out, wanted) as making:
        model = _prepare(source.path, out, recipe)
        marks = making.state / "shards"
        marks.mkdir(exist_ok=True)
        missing = [
            Shard(source.path, out, rows.start, rows.stop, recipe.model_dump_json())
            for rows in store.shards(out)
            if not (marks / str(rows.start)).exists()
        ]
        total = recipe.cohort.images
        made = total - sum(shard.stop - shard.start for shard in missing)
        progress("generate", made, total)
        for shard, _ in each(executor, sample_shard, missing):
            (marks / str(shard.start)).touch()
            made += shard.stop - shard.start
            progress("generate", made, total)
        store.consolidate(out)
        facts = _facts(model, recipe, time.monotonic() - begun)
        return making.seal(facts | {"consent": source.facts.get("consent")})


def _prepare(source: Path, out: Path, recipe: Recipe) -> dict[str, Any]:
    """Write the cohort's table, its empty store and the copies of what it came from."""
    model = checkpoint.open_model(source)
    for name in (checkpoint.MODEL, checkpoint.CURVE):
        shutil.copyfile(source / name, out / name)
    plan.subjects(model, recipe.cohort, recipe.seed).to_parquet(out / "index.parquet", index=False)
    attributes = {"synthetic": True} | {key: model[key] for key in ("spacing_mm", "patient_orientation", "modality")}
    form = autoencoder.image_form(model)
    store.create(out, recipe.cohort.images, tuple(form["shape"]), form["dtype"], shard=recipe.cohort.shard, attributes=attributes)
    return model


@dataclass(frozen=True)
class Shard:
    """One shard to make: paths and numbers only, so that it travels to any worker."""

    checkpoint: Path
    out: Path
    start: int
    stop: int
    recipe: str
    """The recipe as JSON."""


@torch.no_grad()
def sample_shard(shard: Shard) -> int:
    """Sample and write one shard; return its number of images.

    One thread on a CPU: a result may depend on the number of threads in its last bit, and workers scale better.
    """
    recipe = Recipe.model_validate(json.loads(shard.recipe))
    settings, device = recipe.cohort, devices.device(recipe.compute.device)
    model = checkpoint.open_model(shard.checkpoint)
    table = pd.read_parquet(shard.out / "index.parquet").iloc[shard.start : shard.stop]
    asked = Conditions.from_json(model["conditions"])
    conditions = asked.encode(table)
    moments = gaussian.load(shard.checkpoint, model["covariances"]) if settings.start == "gaussian" else None
    highest = settings.sigma_max if moments is None else settings.sigma_start
    sigmas = schedules.schedule(settings.schedule, settings.steps, settings.sigma_min, highest)
    sample = samplers.sampler(settings.sampler, eta=settings.eta, churn=settings.churn)
    dtype = devices.precision(model["precision"], device)
    form = autoencoder.image_form(model)
    images = np.empty((shard.stop - shard.start, *form["shape"]), dtype=form["dtype"])
    with threads(1), torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        denoiser = checkpoint.open_denoiser(shard.checkpoint, device)
        decoder = autoencoder.open_decoder(shard.checkpoint, model, device)
        for first in range(0, len(images), settings.batch):
            last = min(first + settings.batch, len(images))
            noise = plan.Draws(recipe.seed, range(shard.start + first, shard.start + last), tuple(model["shape"]))
            begun = noise() * highest
            if moments is not None:
                begun = moments.start(begun / highest, *asked.parts(conditions[first:last]), table["label"][first:last].tolist(), highest)
            denoise = guided(denoiser, conditions[first:last].to(device), settings.guidance)
            drawn = sample(denoise, begun.to(device), sigmas, partial(_fresh, noise, device))
            made = decoder.decode(drawn.float() + model["data_mean"]).cpu().numpy()
            if not np.isfinite(made).all():
                raise MedpipeError(
                    f"samples {shard.start + first} to {shard.start + last} are not numbers: the Checkpoint is broken, train again"
                )
            images[first:last] = to_stored(made, form["dtype"])
    store.write_shard(shard.out, range(shard.start, shard.stop), images)
    return len(images)


def _fresh(noise: plan.Draws, device: str) -> torch.Tensor:
    return noise().to(device)


def _facts(model: dict[str, Any], recipe: Recipe, seconds: float) -> dict[str, Any]:
    settings = recipe.cohort
    copied = ("shape", "dtype", "dimensions", "classes", "covariates", "spacing_mm", "modality", "licence")
    return (
        {key: model[key] for key in copied}
        | autoencoder.image_form(model)
        | {
            "images": settings.images,
            "sampler": settings.sampler,
            "start": settings.start,
            "steps": settings.steps,
            "evaluations": samplers.evaluations(settings.sampler, settings.steps),
            "guidance": settings.guidance,
            "composition": settings.composition,
            "cost": {"seconds": round(seconds, 1), "images_per_s": round(settings.images / max(seconds, 1e-9), 1)},
        }
    )
