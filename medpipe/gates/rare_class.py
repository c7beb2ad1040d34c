"""Rare-class augmentation: what the cohort's images of a class add when only a few real ones of it are there.

Of the rarest class only so many real training images are kept; all other classes keep theirs. A classifier learns without
and with the cohort's images of that class; in both, classes are shown equally often, so that what is compared is the images and
not their balance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from medpipe import seeds
from medpipe.gates import bootstrap, utility
from medpipe.gates.arms import TEST_MIN, Source
from medpipe.gates.job import Arrays, Job, found
from medpipe.gates.table import table
from medpipe.recipe import Recipe
from medpipe.settings import GatesSettings

Arm = Literal["without", "with"]
ARMS: tuple[Arm, ...] = get_args(Arm)
SPECIFICITY = 0.9
Rows = NDArray[np.int64]


def rarest(train: NDArray[np.int64], tested: NDArray[np.int64], made: NDArray[np.int64], classes: int) -> int | None:
    """Return the class with the fewest training images that can be tested and that the cohort has; None where there is none.

    Each argument is the class numbers of these images, -1 where there is none.
    """
    counts = np.bincount(train[train >= 0], minlength=classes)
    of_test = np.bincount(tested[tested >= 0], minlength=classes)
    possible = [
        number
        for number in range(classes)
        if counts[number] and TEST_MIN <= of_test[number] <= len(tested) - TEST_MIN and (made == number).any()
    ]
    return min(possible, key=lambda number: (counts[number], number), default=None)


def jobs(
    cohort: Path,
    dataset: Path,
    state: Path,
    recipe: Recipe,
    labels: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    classes: int,
) -> list[Job]:
    """Return one job per number of real images, arm and classifier; none where the recipe asks for none, or none can be tested.

    `labels` are the class numbers of training images, test images and the cohort.
    """
    if not recipe.gates.rare_images or (number := rarest(*labels, classes)) is None:
        return []
    there, text = int((labels[0] == number).sum()), recipe.model_dump_json()
    return [
        Job("rare", f"{arm}-{number}-{kept}", classifier, classifier + 1, cohort, dataset, state, text)
        for kept in sorted({min(kept, there) for kept in recipe.gates.rare_images}, reverse=True)
        for arm in ARMS
        for classifier in range(recipe.gates.curve_seeds)
    ]


def perform(job: Job) -> Arrays:
    """Train one classifier without or with the cohort's images of the class: its probabilities for the real test images."""
    arm, number, kept = job.what.split("-")
    seed, settings = job.settings
    source = Source.of(job)
    rows = source.plan["train"]
    labels = source.real[rows]
    draws = seeds.generator(seed, "gates", "rare", job.start)
    few = draws.permutation(rows[labels == int(number)])[: int(kept)]
    own = np.flatnonzero(source.made == int(number)) if arm == "with" else np.empty(0, np.int64)
    others = [draws.permutation(rows[labels == k]) for k in range(len(source.classes)) if k != int(number)]
    each = max(1, settings.curve_images // len(source.classes))
    per = min(each, max(len(few) + len(own), *(len(part) for part in others)))
    own = own[: max(0, per - len(few))]
    shown = np.resize(np.arange(len(few) + len(own)), per)
    real = np.concatenate([few[shown[shown < len(few)]], *(np.resize(part, per) for part in others if len(part))])
    made = own[shown[shown >= len(few)] - len(few)]
    return source.probabilities(real, made, budget=settings.curve_images, names=("rare", number, kept, str(job.start)))


def sensitivity(predicted: NDArray[Any], truth: NDArray[np.int64]) -> float:
    """Share of the class (`truth` 1) that is found where at most a tenth of the others is called it; NaN where there is one kind only.

    `predicted` (N,) is the probability of the class.
    """
    if len(np.unique(truth)) < 2:
        return math.nan
    false_positive, true_positive, _ = roc_curve(truth, predicted)
    return float(true_positive[false_positive <= 1 - SPECIFICITY + 1e-9].max())


def _auc(predicted: NDArray[Any], truth: NDArray[np.int64]) -> float:
    return utility.auc(np.stack([1 - predicted, predicted], axis=1), truth)


def assess(
    work: Sequence[Job], labels: NDArray[np.int64], classes: Sequence[str], settings: GatesSettings, seed: int
) -> dict[str, Any] | None:
    """Return the table of what the cohort adds to a rare class, None where that was not asked for; `labels` (N,) of the test images."""
    tried = [job for job in work if job.kind == "rare"]
    if not tried:
        return None
    number = int(tried[0].what.split("-")[1])
    by_kept: dict[int, dict[str, list[NDArray[np.float32]]]] = {}
    for job in sorted(tried, key=lambda job: (int(job.what.split("-")[2]), job.start)):
        arm, _, kept = job.what.split("-")
        by_kept.setdefault(int(kept), {}).setdefault(arm, []).append(found(job.state, job.name)["probabilities"][:, number])
    truth = (labels == number).astype(np.int64)
    rows = [[kept, *_cells(arms, truth, settings, seed)] for kept, arms in by_kept.items()]
    columns = ["images of the class kept"]
    columns += [f"{figure} {what}" for figure in ("AUC", "sensitivity") for what in ("without", "with", "gain")]
    sentence = (
        f"What the cohort adds to the class '{classes[number]}' when only so many real images of it are kept: the AUC of that class "
        f"on real test images and its sensitivity where {SPECIFICITY:.0%} of the others are told right, without and with the cohort's "
        f"images of it, with 95 % intervals over {int(truth.sum())} test images of the class and {int((1 - truth).sum())} others."
    )
    return table("A class that is rare", sentence, columns, rows)


def _cells(
    arms: Mapping[str, list[NDArray[np.float32]]], truth: NDArray[np.int64], settings: GatesSettings, seed: int
) -> list[str | float | None]:
    cells: list[str | float | None] = []
    for score in (_auc, sensitivity):
        draws = seeds.generator(seed, "gates", "rare", "test")
        values, resampled = bootstrap.paired(arms, truth, score, settings.resamples, draws)
        cells += [str(bootstrap.estimate(values[arm], resampled[arm])) for arm in ARMS]
        cells.append(str(bootstrap.difference("with", "without", values, resampled)))
    return cells
