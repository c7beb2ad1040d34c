"""Distillation: a teacher Checkpoint becomes a student that samples in 4, 2 or 1 evaluations.

A student begins as its teacher and learns to jump between the nodes of the teacher's own trajectories (`trajectories`): from
x_a at σ_a it is asked for the clean image that leads straight to x_b at σ_b, D* = (x_b − ρx_a)/(1 − ρ) with ρ = σ_b/σ_a. This is
progressive distillation (Salimans and Ho 2022, section 3 and appendix G) with the trajectories stored, so that a stage learns
from the teacher and not from the student before it. Jumps are 4 a trajectory, then 2, then 1. No image of a patient is
read; what is known of patients comes from the teacher, whose permissions and lineage the student has.
"""

from __future__ import annotations

import math
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpipe import records, seeds
from medpipe.diffusion import autoencoder, checkpoint, gaussian, samplers, state, trajectories
from medpipe.diffusion import device as devices
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.ema import Averages
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.reader import Order
from medpipe.diffusion.student import Student, stands_for
from medpipe.diffusion.trajectories import JUMPS, Trajectories
from medpipe.errors import InputError, MedpipeError
from medpipe.progress import Progress
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making, Record
from medpipe.threads import threads

FOLDER = "trajectories"
HELD_OUT, AT_ONCE = 256, 64
"""Trajectories at most that are not trained on but measured with, and how many at once."""
CURVE_POINTS = 20
EMA_WIDTH = 0.1
SHARES: dict[int, tuple[float, ...]] = {4: (1.0,), 2: (0.6, 0.4), 1: (0.45, 0.3, 0.25)}
"""Of the images, the share of each stage: jumps JUMPS, JUMPS / 2, … down to the student's."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that a student is made from."""
    return recipe.settings("distill") | {"cohort": stands_for(recipe.cohort)}


def distill(dataset: str, teacher: Path, out: Path, recipe: Recipe, wanted: MadeFrom, progress: Progress) -> Record:
    """Write the student of `teacher` to `out`; `dataset` is the content of the Dataset that it has to be trained on.

    Raises InputError for a teacher that none can be made of, RecordError for an altered one, MedpipeError when the loss is no number.
    """
    source = records.load(teacher, "Checkpoint", verify=True)
    model = checkpoint.open_model(teacher)
    _check(source, dataset, model, recipe)
    with records.making(out, wanted) as making, threads(recipe.compute.threads):
        on = devices.device(recipe.compute.device)
        denoiser = checkpoint.open_denoiser(teacher, on)
        with _precision(model, on):
            made = trajectories.make(recipe, teacher, model, denoiser, making.state / FOLDER, on, progress)
            training = Distillation(recipe, model, denoiser.requires_grad_(True), made, making.state, on)
            training.fit(progress)
            return _seal(training, source, model, making)


def _precision(model: dict[str, Any], on: str) -> torch.autocast:
    """Without a cache: the context spans many steps, and cached weights would stay as they were before the first."""
    wanted = devices.precision(model["precision"], on)
    return torch.autocast(on, torch.bfloat16, enabled=wanted == torch.bfloat16, cache_enabled=False)


def _check(teacher: Record, dataset: str, model: dict[str, Any], recipe: Recipe) -> None:
    if teacher.made_from["inputs"].get("dataset") != dataset:
        raise InputError(f"{teacher.path} was not trained on the Dataset that is given with it: give its own")
    if "student" in model:
        raise InputError(f"{teacher.path} is a student itself: give its teacher")
    if model["maps"]["kinds"]:
        raise InputError(f"{teacher.path} takes maps, and a student is made without: give a teacher that was trained without model.maps")
    if recipe.cohort.sampler != "dpmpp_2m":
        raise InputError(f"cohort.sampler is '{recipe.cohort.sampler}', and trajectories are those of dpmpp_2m: leave it out")
    if recipe.cohort.guidance_by == "weaker":
        raise InputError("cohort.guidance_by is 'weaker', and a student has one teacher: leave it out")
    if recipe.compute.processes * recipe.compute.nodes > 1:
        raise InputError("compute.processes and nodes are for training on images, and a student is trained in one process: leave them out")


@dataclass(frozen=True)
class Stage:
    """A part of the training: so many jumps a trajectory, over the images from `start` to `stop`."""

    jumps: int
    start: int
    stop: int


def stages(recipe: Recipe) -> list[Stage]:
    """Cut the training into stages, each of whole batches."""
    batch, shares = recipe.distill.batch, SHARES[recipe.distill.evaluations]
    steps = max(len(shares), recipe.distill.images // batch)
    ends = [max(round(steps * sum(shares[: number + 1])), number + 1) * batch for number in range(len(shares))]
    return [Stage(JUMPS >> number, start, stop) for number, (start, stop) in enumerate(zip([0, *ends], ends, strict=False))]


class Distillation:
    """One distillation: the student, its average, the optimiser and the state."""

    def __init__(self, recipe: Recipe, model: dict[str, Any], denoiser: Denoiser, made: Trajectories, folder: Path, on: str) -> None:
        self.recipe, self.model, self.denoiser, self.made, self.folder, self.device = recipe, model, denoiser, made, folder, on
        self.stages, self.trained = stages(recipe), len(made) - min(HELD_OUT, len(made) // 8)
        self.nodes = {stage.jumps: trajectories.nodes(recipe, stage.jumps) for stage in self.stages}
        self._begin()
        self.state = state.restore(folder, self.stored, on)
        self.processor_begun = time.process_time()

    def _begin(self) -> None:
        """Begin a stage with what the denoiser holds."""
        weights = list(self.denoiser.parameters())
        self.averages = Averages(weights, [EMA_WIDTH])
        self.optimizer = torch.optim.AdamW(weights, lr=self.recipe.distill.learning_rate, weight_decay=0.0, fused=True)
        self.stored = state.Stored(self.denoiser, self.averages, self.optimizer)

    @property
    def student(self) -> Student:
        """What is being made."""
        return Student(tuple(self.nodes[self.stages[-1].jumps].tolist()), stands_for(self.recipe.cohort))

    def fit(self, progress: Progress) -> None:
        """Train through all stages; each begins with the average of the one before."""
        now, batch, end = self.state, self.recipe.distill.batch, self.stages[-1].stop
        every = max(1, end // batch // CURVE_POINTS) * batch
        before, begun = now.seconds, time.monotonic()
        while now.images < end:
            stage = next(stage for stage in self.stages if now.images < stage.stop)
            if now.images == stage.start > 0:
                torch._foreach_copy_([weight.detach() for weight in self.denoiser.parameters()], self.averages.tracks[0])
                self._begin()
            loss = self._step(stage)
            now.images += batch
            now.seconds = before + time.monotonic() - begun
            if not math.isfinite(loss):
                raise MedpipeError(f"the loss of the student is not a number at image {now.images}: lower distill.learning_rate")
            if now.images % every == 0 or now.images == end:
                now.curve.append({"images": now.images, "loss": loss, "validation_loss": self.measure(stage.jumps)})
                progress("distil", now.images, end)
            if now.images // self.recipe.distill.state_images > (now.images - batch) // self.recipe.distill.state_images:
                state.save(self.folder, now, self.stored, write=True)

    def _step(self, stage: Stage) -> float:
        recipe, seen = self.recipe.distill, self.state.images - stage.start
        share = seen / (stage.stop - stage.start)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * share)) / 2
        order = Order(seeds.child(self.recipe.seed, "distill", stage.jumps), (0, self.trained * stage.jumps))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._losses(order.at(seen, recipe.batch), stage.jumps).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.averages.update(recipe.batch, seen + recipe.batch)
        return float(loss.detach())

    def _losses(self, pairs: NDArray[np.int64], jumps: int) -> Tensor:
        """Return λ(σ_a)·mean‖D(x_a; σ_a, c) − D*‖² of pairs (n,), each a trajectory and one of its jumps: (n,)."""
        place, jump = pairs // jumps, pairs % jumps
        each, sigmas = JUMPS // jumps, self.nodes[jumps].float()
        above, below = sigmas[jump], sigmas[jump + 1]
        ratio = (below / above).reshape(-1, *[1] * len(self.model["shape"]))
        x = self.made.at(place, jump * each)
        wanted = (self.made.at(place, (jump + 1) * each) - ratio * x) / (1 - ratio)
        given = (tensor.to(self.device) for tensor in (x, above, self.made.vectors[place]))
        error = self.denoiser(*given) - wanted.to(self.device)
        losses: Tensor = self.denoiser.coefficients(above.to(self.device)).weight * error.square().flatten(1).mean(dim=1)
        return losses

    @torch.no_grad()
    def measure(self, jumps: int) -> float:
        """Return the mean loss of the average on the trajectories that were held out."""
        pairs = np.arange(self.trained * jumps, len(self.made) * jumps)
        with self.averages.inside(0):
            return float(torch.cat([self._losses(part, jumps) for part in np.split(pairs, range(AT_ONCE, len(pairs), AT_ONCE))]).mean())

    @torch.no_grad()
    def apart(self) -> float:
        """Return the root mean square by which the student's samples differ from the teacher's of the same starts, held out."""
        places, total, count = np.arange(self.trained, len(self.made)), 0.0, 0
        sigmas = torch.tensor(self.student.sigmas, dtype=torch.float64)
        with self.averages.inside(0):
            for part in np.split(places, range(AT_ONCE, len(places), AT_ONCE)):
                vectors = self.made.vectors[part].to(self.device)
                x, end = (self.made.at(part, np.full(len(part), node)).to(self.device) for node in (0, JUMPS))
                drawn = samplers.ddim(guided(self.denoiser, vectors), x, sigmas, lambda: torch.zeros(()))
                total, count = total + float((drawn - end).double().square().sum()), count + end.numel()
        return math.sqrt(total / count)


def _seal(training: Distillation, teacher: Record, model: dict[str, Any], making: Making) -> Record:
    """Write the student's weights and what rebuilds it, with the teacher's moments and autoencoder, and finish the Checkpoint."""
    folder, now = making.path, training.state
    for name in (gaussian.FILE, autoencoder.FILE):
        if (teacher.path / name).exists():
            shutil.copyfile(teacher.path / name, folder / name)
    student = training.student
    checkpoint.save(folder, {EMA_WIDTH: training.stored.averaged(0)}, model | {"student": student.as_json()})
    pd.DataFrame(now.curve, columns=["images", "loss", "validation_loss"]).to_parquet(folder / checkpoint.CURVE, index=False)
    last = now.curve[-1]
    own = {
        "student": {"evaluations": student.evaluations, "sigmas": list(student.sigmas), "rms_to_teacher": round(training.apart(), 5)},
        "images": now.images,
        "ended_by": "images",
        "final_loss": last["loss"],
        "averages": {f"{EMA_WIDTH:g}": last["validation_loss"]},
        "ema_width": EMA_WIDTH,
        "compiled": False,
        "device": training.device,
        "processes": 1,
        "parallel": None,
        "cost": {
            "seconds": round(now.seconds, 1),
            "images_per_s": round(now.images / max(now.seconds, 1e-9), 1),
            "processor_s": round(time.process_time() - training.processor_begun, 1),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
    }
    return making.seal(dict(teacher.facts) | own)
