"""The plan of a cohort: who is in it and how the work is cut, decided before any image is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types

from medpipe import seeds
from medpipe.diffusion import conditioning, samplers, schedules
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.student import Student
from medpipe.settings import CohortSettings

STEPS = 10
"""Of the solver, where the recipe leaves them open."""


def subjects(model: dict[str, Any], settings: CohortSettings, seed: int) -> pd.DataFrame:
    """Return the cohort's table: row, id, label and covariates, one line per synthetic subject.

    The first `settings.images` are those asked for, and the same whatever `settings.spare` is; the spare ones follow.
    """
    conditions = Conditions.from_json(model["conditions"])

    def drawn(what: str) -> pd.DataFrame:
        draws = seeds.generator(seed, what)
        return conditioning.draw(conditions, settings.images, settings.composition, draws, settings.classes, settings.balance)

    table = drawn("subjects")
    if settings.spare:
        wanted = math.ceil(settings.images * settings.spare)
        table = pd.concat([table, spares(drawn("spares"), wanted, seeds.generator(seed, "spares", "order"))], ignore_index=True)
    if "label" not in table:
        table.insert(0, "label", None)
    table.insert(0, "id", [f"S{number:06d}" for number in range(1, len(table) + 1)])
    table.insert(0, "row", range(len(table)))
    return table


def spares(pool: pd.DataFrame, wanted: int, generator: np.random.Generator) -> pd.DataFrame:
    """Choose `wanted` spare subjects of `pool`, a cohort drawn anew, and at least one of each class.

    Each class has its share of them, and within it they are taken at equal steps along the order of the covariates
    (systematic sampling), so that each combination has its share too, as far as so few can show it.
    """
    classes = (pool["label"] if "label" in pool else pd.Series("", index=pool.index)).to_numpy(object)
    names, counts = np.unique(classes, return_counts=True)
    total = max(wanted, len(names))
    shares = counts * (total / len(pool))
    takes = np.maximum(np.floor(shares), 1).astype(int)
    while takes.sum() > total:
        takes[takes.argmax()] -= 1
    takes[np.argsort(takes - shares, kind="stable")[: total - takes.sum()]] += 1
    order = sorted((name for name in pool.columns if name != "label"), key=lambda name: types.is_numeric_dtype(pool[name]))
    chosen: list[int] = []
    for name, take in zip(names, takes, strict=True):
        here = pool[classes == name]
        here = here.sort_values(order, kind="stable") if order else here
        chosen += here.index[((np.arange(take) + 0.5) * len(here) / take).astype(int)].tolist()
    return pool.loc[generator.permutation(np.sort(chosen))]


def highest(settings: CohortSettings) -> float:
    """Return the noise level at which samples begin."""
    return settings.sigma_start if settings.start == "gaussian" else settings.sigma_max


def levels(settings: CohortSettings) -> torch.Tensor:
    """Return the noise levels that samples pass, the last of them 0."""
    return schedules.schedule(settings.schedule, settings.steps or STEPS, settings.sigma_min, highest(settings))


def evaluations(settings: CohortSettings) -> int:
    """Return the network evaluations that a sample costs: each is two where guidance acts."""
    once = samplers.evaluations(settings.sampler, settings.steps or STEPS)
    if settings.guidance == 1:
        return once
    sigmas = levels(settings)[:-1]
    guided = (sigmas > settings.guidance_low) & (sigmas <= (settings.guidance_high or math.inf))
    each = torch.ones(len(sigmas), dtype=torch.long)
    if settings.sampler == "heun":  # every level but the first is where a step ends, too
        each[1:] = 2
    return once + int(each[guided].sum())


@dataclass(frozen=True)
class Sampling:
    """How samples of one Checkpoint are drawn."""

    sampler: samplers.Sampler
    sigmas: torch.Tensor
    """Noise levels that samples pass, the last of them 0."""
    guidance: float
    """Strength of guidance on the way; 1 where a student has learned it with its trajectories."""
    said: Mapping[str, Any]
    """What a Cohort says of it."""


def sampling(settings: CohortSettings, model: Mapping[str, Any]) -> Sampling:
    """Return how the Checkpoint of `model` is sampled; raises InputError where a student was not trained for what is asked."""
    said: dict[str, Any] = {"sampler": settings.sampler, "start": settings.start, "guidance": settings.guidance}
    if (student := Student.of(model)) is None:
        sampler = samplers.sampler(settings.sampler, eta=settings.eta, churn=settings.churn)
        said |= {"steps": settings.steps or STEPS, "evaluations": evaluations(settings)}
        return Sampling(sampler, levels(settings), settings.guidance, said)
    student.check(settings)
    said |= {"sampler": "student", "steps": student.evaluations, "evaluations": student.evaluations}
    return Sampling(samplers.sampler("euler"), torch.tensor(student.sigmas, dtype=torch.float64), 1.0, said)


class Draws:
    """Fresh unit noise (N, C, …) for the samples `rows`: one generator per sample, however the work is cut."""

    def __init__(self, seed: int, rows: range, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.generators = [torch.Generator().manual_seed(seeds.child(seed, "sample", row)) for row in rows]

    def __call__(self) -> torch.Tensor:
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])
