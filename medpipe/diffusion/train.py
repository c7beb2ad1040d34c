"""train: a Dataset becomes a Checkpoint, in one process or in many (`compute.processes`, `compute.nodes`).

How many there are changes nothing but the last bits of sums, so that it is no part of what a Checkpoint is made from.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medpipe import __version__, consent, records
from medpipe.diffusion import (
    augment,
    canaries,
    checkpoint,
    conditioning,
    curve,
    distill,
    duplicates,
    gaussian,
    latents,
    launch,
    networks,
    privacy,
    spending,
)
from medpipe.diffusion.batches import Split, centred
from medpipe.diffusion.distributed import World
from medpipe.diffusion.loop import Fixed, Training, best
from medpipe.diffusion.maps import Maps
from medpipe.diffusion.reader import Reader, scale
from medpipe.errors import InputError
from medpipe.images.dataset import Dataset
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making, Record
from medpipe.threads import threads

VALIDATION_IMAGES = 256


def made_from(dataset: Path, recipe: Recipe, teacher: Path | None = None) -> MadeFrom:
    """Say what the Checkpoint, or the student of a `teacher`, would be made from."""
    source = records.load(dataset, "Dataset")
    if teacher is not None:
        inputs = {"dataset": source.content, "checkpoint": records.load(teacher, "Checkpoint").content}
        return MadeFrom("Checkpoint", inputs, distill.settings(recipe), recipe.seed, __version__)
    sections = ("model", "train", *(("autoencoder",) if recipe.model.space == "latent" else ()))
    return MadeFrom("Checkpoint", {"dataset": source.content}, recipe.settings(*sections), recipe.seed, __version__)


def train(
    dataset: Path,
    out: Path,
    recipe: Recipe,
    *,
    teacher: Path | None = None,
    ledger_file: Path | None = None,
    progress: Progress = silent,
) -> Record:
    """Train the denoiser of `recipe` on the training split of `dataset` and write the Checkpoint to `out`.

    With a `teacher`, a Checkpoint of the same Dataset, its student is trained instead, on the teacher's trajectories
    (`recipe.distill`): it samples in few evaluations.

    Raises InputError when the Dataset does not fit the recipe or its time budget is too small, MedpipeError when the loss is
    no longer a number (the last good state stays), RecordError for altered input, ConsentError where the consent ledger (the
    workspace's, where none is given) says that a patient of the Dataset may not be used, GateFailed when the autoencoder of
    latent diffusion is not good enough to begin, ChildProcessError when processes died more often than `compute.restarts`.
    """
    consent.before_training(dataset, recipe.consent, ledger_file)
    wanted = made_from(dataset, recipe, teacher)
    if (done := records.finished(out, wanted)) is not None:
        return done
    if teacher is not None:
        return distill.distill(wanted.inputs["dataset"], teacher, out, recipe, wanted, progress)
    recipe = recipe if recipe.train.dp_epsilon is None else privacy.calm(recipe)
    data = duplicates.once(Dataset.open(dataset, verify=True), recipe.train.deduplicate)
    check(data, recipe)
    if recipe.train.dp_epsilon is not None:
        _allow(data, out, wanted, recipe)
    if recipe.compute.processes * recipe.compute.nodes > 1:
        with launch.making(out, wanted, recipe.compute.nodes):
            launch.ranks(dataset, out, recipe, progress)
        return records.load(out, "Checkpoint")
    with records.making(out, wanted) as making, threads(recipe.compute.threads):
        left_out = duplicates.count(data)
        if recipe.model.space == "latent":
            data, recipe = latents.prepare(data, recipe, making, progress)
        return work(data, making, recipe, World(), progress, left_out)


def check(data: Dataset, recipe: Recipe) -> None:
    """Raise InputError when the Dataset does not fit the recipe."""
    shape = data.facts["shape"]
    side = recipe.side
    if any(length % side for length in shape[1:]):
        raise InputError(
            f"the Dataset's images are {shape[1:]} and this model needs sides that are multiples of {side}: set images.size or images.sides"
        )
    images = len(data.rows("train"))
    if images < 2:
        raise InputError(f"the training split has {images} images, and at least 2 are needed")
    if recipe.train.stop_gap is not None and not len(data.rows("validation")):
        raise InputError("train.stop_gap compares with the validation split, and the Dataset has none: leave it empty")
    reader = Reader(data.record.path, data.rows("train"), recipe.seed, recipe.train.batch, recipe.train.buffer_mib)
    if recipe.train.canaries and reader.streamed:
        raise InputError("train.canaries needs a training split that fits in train.buffer_mib: raise it, or plant none")
    processes = recipe.compute.processes * recipe.compute.nodes
    if processes > 1:
        reader.check(processes)


def _allow(data: Dataset, out: Path, wanted: MadeFrom, recipe: Recipe) -> None:
    """Raise InputError where the budget of privacy does not last for a step, or earlier trainings have spent it."""
    mechanism = privacy.Mechanism.of(recipe.train, patients_of(data).nunique())
    steps = mechanism.steps(-(-recipe.train.images // recipe.train.batch))
    if not steps:
        raise InputError(
            f"one step at train.dp_noise {mechanism.noise:g} spends more than train.dp_epsilon {mechanism.budget:g}: raise either"
        )
    ledger, settings = out.parent / spending.LEDGER, recipe.train
    spending.allow(ledger, wanted.digest, mechanism.spent(steps), settings.dp_delta, settings.dp_epsilon_total)


def patients_of(data: Dataset) -> pd.Series[Any]:
    """Return the patient of each training image, in order."""
    return data.index.set_index("row").loc[data.rows("train"), "patient"]


def work(data: Dataset, making: Making, recipe: Recipe, world: World, progress: Progress, left_out: int) -> Record:
    """Train as one of the processes of `world`, and seal the Checkpoint as its first; the others return it, too.

    `left_out` is how many duplicates were taken out of the training split.
    """
    training = _begin(data, making.path, recipe, world)
    training.fit(progress)
    made = _seal(training, making, {"consent": data.facts.get("consent"), "duplicates": left_out})
    return made if made is not None else records.load(making.path, "Checkpoint")


def _begin(data: Dataset, folder: Path, recipe: Recipe, world: World) -> Training:
    """Measure what preconditioning needs, and take up the last state where there is one."""
    rows = data.rows("train")
    planted = canaries.made(data, recipe.train.canaries, recipe.seed)[: recipe.train.canaries]
    reader = Reader(data.record.path, rows, recipe.seed, recipe.train.batch, recipe.train.buffer_mib, planted if len(planted) else None)
    index = data.index.set_index("row")
    conditions = conditioning.fit(index.loc[rows], data.facts["classes"], data.facts["covariates"])
    masked = "mask" in recipe.model.maps and bool(data.facts["masks"])
    masks = torch.from_numpy(data.masks(rows)) if masked else None
    maps = Maps.fit(recipe.model, data.facts["shape"], masks)
    private = recipe.train.dp_epsilon is not None
    measured = {"data_mean": 0.0, "sigma_data": privacy.SIGMA_DATA} if private else _measured(reader, world)
    stretch = latents.stretch(data)
    measured |= {"stretch": stretch, "sigma_data": measured["sigma_data"] * (1.0 if private else stretch)}
    facts = {
        key: data.facts.get(key)
        for key in ("shape", "dtype", "dimensions", "classes", "covariates", "spacing_mm", "patient_orientation", "modality", "licence")
    }
    model = (
        facts
        | measured
        | {
            "settings": recipe.settings("model")["model"],
            "form": checkpoint.FORM,
            "maps": maps.as_json(),
            "precision": recipe.train.precision,
            "conditions": conditions.as_json(),
            "augmentation": augment.width(recipe.train.augment, data.facts["dimensions"]),
            "images_trained": recipe.train.images,
        }
        | latents.described(data)
    )
    labels = [str(label) if label is not None else None for label in index.loc[rows, "label"]]
    vectors = conditions.encode(index.loc[rows], unseen="hide")
    vectors = torch.cat((vectors, torch.zeros(len(planted), vectors.shape[1])))
    split = Split(reader, measured["data_mean"], stretch, vectors, labels, masks)
    some = data.rows("validation")[:VALIDATION_IMAGES]
    stored = data.images(some)
    drawn = torch.from_numpy(data.masks(some)) if masked else None
    vectors = conditions.encode(index.loc[some], unseen="hide")
    validation = Fixed(lambda: centred(stored, measured["data_mean"], stretch), vectors, drawn)
    if not private:
        return Training(recipe, folder, model, split, validation, world)
    training = privacy.PrivateTraining(recipe, folder, model, split, validation, world)
    training.prepare(patients_of(data))
    return training


def _measured(reader: Reader, world: World) -> dict[str, Any]:
    parts = world.gathered(reader.totals(world.rank, world.size))
    return scale((sum(p[0] for p in parts), sum(p[1] for p in parts), sum(p[2] for p in parts)), reader.largest)


def _seal(training: Training, making: Making, of_data: dict[str, Any]) -> Record | None:
    """Write weights, settings and curves, and finish the Checkpoint, in the first process; `of_data` are facts of the Dataset."""
    folder, state, recipe, world = making.path, training.state, training.recipe, training.world
    widths = training.averages.widths
    losses = [_validation_loss(training, number) for number in range(len(widths))]
    weights = {width: training.stored.averaged(number) for number, width in enumerate(widths)}
    cost = _cost(training)
    if not world.first:
        world.agreed(None)  # until the record is sealed
        return None
    chosen = widths[best(losses)]
    averages = {chosen: weights[chosen]} | weights
    model = training.model | {"images_trained": state.images}
    if isinstance(training, privacy.PrivateTraining):
        told = training.facts()
        spending.enter(folder.parent / spending.LEDGER, making.made_from.digest, training.mechanism.spent(training.steps), told)
        of_data |= {"privacy": told}
    else:
        parts = training.conditions.parts(training.split.vectors[: len(training.split.labels)])
        moments = gaussian.fit(training.split, *parts, training.split.labels)
        model["covariances"] = gaussian.save(folder, moments)
    checkpoint.save(folder, averages, model)
    pd.DataFrame(curve.with_gap(state.curve), columns=curve.POINTS).to_parquet(folder / checkpoint.CURVE, index=False)
    pd.DataFrame(state.by_sigma, columns=curve.COLUMNS).to_parquet(folder / curve.BY_SIGMA, index=False)
    needed = networks.cost(checkpoint.build(model).network, model["shape"], training.conditions.width, training.maps.channels)
    facts = {key: model[key] for key in ("shape", "dtype", "dimensions", "classes", "sigma_data", "spacing_mm")} | {
        "network": recipe.model.network,
        "preconditioning": recipe.model.preconditioning,
        "parameters": needed.parameters,
        "flops": needed.flops,
        "maps": list(training.maps.kinds),
        "images": state.images,
        "ended_by": state.ended,
        "final_loss": _known(state.curve[-1]["loss"]),
        "averages": {f"{width:g}": _known(loss) for width, loss in zip(widths, losses, strict=True)},
        "ema_width": chosen,
        "conditions": [item.name for item in training.conditions.items],
        "canaries": recipe.train.canaries,
        "precision": "bf16" if training.dtype == torch.bfloat16 else "fp32",
        "compiled": state.compiled,
        "device": training.device,
        "processes": world.size,
        "parallel": recipe.compute.parallel if world.size > 1 else None,
        "cost": cost,
    }
    made = making.seal(facts | of_data | latents.facts(making))
    world.agreed(None)
    return made


def _known(value: float) -> float | None:
    return None if value != value else value


def _validation_loss(training: Training, number: int) -> float:
    with training.averages.inside(number):
        bins = training.measure(training.validation)
    return float(bins[0].sum() / bins[1].sum())


def _cost(training: Training) -> dict[str, float]:
    state, here = training.state, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    cost = {
        "seconds": round(state.seconds, 1),
        "images_per_s": round(state.images / max(state.seconds, 1e-9), 1),
        "processor_s": round(sum(training.world.gathered(time.process_time() - training.processor_begun)), 1),
        "peak_memory_mib": max(training.world.gathered(here)),
    }
    if training.device == "cuda":
        cost["peak_device_memory_mib"] = max(training.world.gathered(torch.cuda.max_memory_allocated() // 2**20))
    return cost
