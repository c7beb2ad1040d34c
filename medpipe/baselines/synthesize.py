"""A baseline from Dataset to Cohort: trained on as many images as the denoiser, then asked for the same cohort.

It serves comparison: a run that was killed begins again, and no Checkpoint is kept.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
import pandas as pd
import torch

from medpipe import __version__, records, seeds, store
from medpipe.baselines.networks import LATENT, Adversarial, Autoencoder, Baseline
from medpipe.cohort import plan
from medpipe.diffusion import conditioning
from medpipe.errors import MedpipeError
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model, to_stored
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Record
from medpipe.threads import threads

Kind = Literal["vae", "gan"]
POINTS = 50
SETTLED = 8192
"""Training images, evenly spread, on which a trained baseline measures what sampling needs."""
COPIED = ("shape", "dtype", "dimensions", "classes", "covariates", "spacing_mm", "patient_orientation", "modality", "licence")


def synthesize(kind: Kind, dataset: Path, out: Path, recipe: Recipe, *, progress: Progress = silent) -> Record:
    """Train the baseline `kind` on the training split of `dataset` over `train.images` images and write its Cohort to `out`.

    Raises MedpipeError when its loss is no longer a number.
    """
    data = Dataset.open(dataset)
    settings = recipe.settings("train", "cohort") | {"baseline": kind}
    wanted = MadeFrom("Cohort", {"dataset": data.record.content}, settings, recipe.seed, __version__)
    if (done := records.finished(out, wanted)) is not None:
        return done
    with records.making(out, wanted) as making, threads(recipe.compute.threads):
        model = _model(data)
        net, curve, trained_s = _trained(kind, data, model, recipe, progress)
        curve.to_parquet(out / "training.parquet", index=False)
        begun = time.monotonic()
        _write(net, model, out, recipe, progress)
        seconds = time.monotonic() - begun
        weights = sum(weight.numel() for weight in net.sampling().parameters())
        facts = _facts(model, recipe, kind, weights, trained_s, seconds, store.open_array(out).shape[0])
        return making.seal(facts | {"consent": data.facts.get("consent")})


def _model(data: Dataset) -> dict[str, Any]:
    rows = data.rows("train")
    index = data.index.set_index("row").loc[rows]
    conditions = conditioning.fit(index, data.facts["classes"], data.facts["covariates"])
    return {name: data.facts.get(name) for name in COPIED} | {"conditions": conditions.as_json()}


def _trained(kind: Kind, data: Dataset, model: dict[str, Any], recipe: Recipe, progress: Progress) -> tuple[Baseline, pd.DataFrame, float]:
    """Train over `train.images` images; return the network, its curve and the seconds that it took."""
    rows = data.rows("train")
    conditions = conditioning.Conditions.from_json(model["conditions"])
    vectors = conditions.encode(data.index.set_index("row").loc[rows])
    images = data.images(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.child(recipe.seed, "baseline", kind, "weights"))
        net = _net(kind, tuple(model["shape"]), conditions.width)
    draws = torch.Generator().manual_seed(seeds.child(recipe.seed, "baseline", kind, "noise"))
    curve: list[tuple[int, float]] = []
    seen, losses, begun = 0, [], time.monotonic()
    every = max(recipe.train.batch, recipe.train.images // POINTS)
    while seen < recipe.train.images:
        batch = min(recipe.train.batch, recipe.train.images - seen, len(rows))
        chosen = torch.randint(0, len(rows), (batch,), generator=draws).numpy()
        clean = torch.from_numpy(to_model(images[chosen]))
        if recipe.train.flip:
            mirrored = torch.rand(batch, generator=draws) < 0.5
            clean[mirrored] = clean[mirrored].flip(-1)
        losses.append(net.step(clean, vectors[torch.from_numpy(chosen)], draws))
        seen += batch
        if not np.isfinite(losses[-1]):
            raise MedpipeError(f"the loss of the {kind} is not a number at image {seen}: compare without it")
        if seen // every > (seen - batch) // every or seen == recipe.train.images:
            curve.append((seen, float(np.mean(losses))))
            losses.clear()
            progress(f"train {kind}", seen, recipe.train.images)
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SETTLED)).round().astype(np.int64))
    net.settle(torch.from_numpy(to_model(images[some])), vectors[torch.from_numpy(some)])
    return net, pd.DataFrame(curve, columns=["images", "loss"]), time.monotonic() - begun


def _net(kind: Kind, shape: tuple[int, ...], conditions: int) -> Baseline:
    match kind:
        case "vae":
            return Autoencoder(shape, conditions)
        case "gan":
            return Adversarial(shape, conditions)
        case _:
            assert_never(kind)


@torch.no_grad()
def _write(net: Baseline, model: dict[str, Any], out: Path, recipe: Recipe, progress: Progress) -> None:
    """Sample the cohort: the same subjects as a denoiser's, each with its own latent vector."""
    table = plan.subjects(model, recipe.cohort, recipe.seed)
    table.to_parquet(out / "index.parquet", index=False)
    vectors = conditioning.Conditions.from_json(model["conditions"]).encode(table)
    attributes = {"synthetic": True} | {name: model[name] for name in ("spacing_mm", "patient_orientation", "modality")}
    store.create(out, len(table), tuple(model["shape"]), model["dtype"], shard=recipe.cohort.shard, attributes=attributes)
    for rows in store.shards(out):
        latent = plan.Draws(recipe.seed, rows, (LATENT,))()
        parts = [
            net.sample(latent[k : k + recipe.cohort.batch], vectors[rows.start + k : min(rows.start + k + recipe.cohort.batch, rows.stop)])
            for k in range(0, len(rows), recipe.cohort.batch)
        ]
        store.write_shard(out, rows, to_stored(torch.cat(parts).numpy(), model["dtype"]))
        progress("generate", rows.stop, len(table))
    store.consolidate(out)


def _facts(
    model: dict[str, Any], recipe: Recipe, kind: Kind, weights: int, trained_s: float, seconds: float, images: int
) -> dict[str, Any]:
    return {name: model[name] for name in COPIED if name != "patient_orientation"} | {
        "images": images,
        "asked": recipe.cohort.images,
        "sampler": kind,
        "evaluations": 1,
        "composition": recipe.cohort.composition,
        "balance": recipe.cohort.balance,
        "parameters": weights,
        "cost": {
            "training_seconds": round(trained_s, 1),
            "seconds": round(seconds, 1),
            "images_per_s": round(images / max(seconds, 1e-9), 1),
        },
    }
