"""Masks: do images show the masks that they were made to, and can one learn to segment patients from them?

One network learns from real image-mask pairs and one from the cohort's. The first is asked on held-out patients and on the cohort
(does the image show what its mask says?), the second on held-out patients. What real pairs reach is the measure of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds, store
from medpipe.gates import bootstrap, segmenter
from medpipe.gates.job import PLAN, Arrays, Job, cohort_images, found
from medpipe.gates.table import table
from medpipe.gates.verdict import Kind, Verdict, judge
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe
from medpipe.settings import GatesSettings

Rows = NDArray[np.int64]
TESTED_MIN = 20
"""Fewest held-out images with masks on which a figure rests."""
ASKED = 512
"""Most images, held out and synthetic, that a network is asked about."""
TRAINED = 20_000
DICE_MIN = 0.3
"""A network that real images teach less than this measures nothing."""
SENTENCE = (
    "Dice score (1: the same region, 0: none in common) of networks that learned from real and from synthetic images with their masks, "
    "on real held-out images, and of the first on synthetic images against the masks that they were made to; 95 % intervals over images."
)
UNCERTIFIED = "Cannot be certified: fewer than 20 held-out images have masks, or real images do not teach the network to find them."


def parts(cohort: Path, data: Dataset, holdout: Rows, seed: int) -> dict[str, NDArray[Any]]:
    """Return the rows that play each part; nothing where the Cohort or the Dataset has no masks.

    An image without any label counts as one that nobody has drawn on, as in training.
    """
    if not store.has(cohort, "mask") or not store.has(data.record.path, "mask"):
        return {}
    drawn, labels = _drawn(data.record.path)
    made, _ = _drawn(cohort)
    train, tested = (rows[drawn[rows]] for rows in (data.rows("train"), data.rows("test")))
    if len(tested) < 200:
        unseen = np.concatenate([data.rows("test"), holdout, data.rows("validation")])
        tested = unseen[drawn[unseen]]
    synthetic = np.flatnonzero(made)
    arm = min(len(train), len(synthetic), TRAINED)

    def some(rows: Rows, most: int, name: str) -> Rows:
        return np.sort(seeds.generator(seed, "gates", "part", name).permutation(rows)[:most])

    return {
        "segment_labels": np.array(labels, np.int64),
        "segment_real": some(train, arm, "segment_real"),
        "segment_synthetic": some(synthetic, arm, "segment_synthetic"),
        "segment_tested": some(tested, ASKED, "segment_tested"),
        "segment_asked": some(synthetic, ASKED, "segment_asked"),
    }


def _drawn(folder: Path) -> tuple[NDArray[np.bool_], list[int]]:
    """Return which images have a label in their mask, and the labels there are."""
    there: list[NDArray[np.bool_]] = []
    labels: set[int] = set()
    for _, read in store.blocks(folder, "mask"):
        masks = read()
        there.append(masks.reshape(len(masks), -1).any(axis=1))
        labels |= set(np.unique(masks).tolist())
    return np.concatenate(there), sorted(labels - {0})


def jobs(cohort: Path, dataset: Path, state: Path, recipe: Recipe, rows: Mapping[str, NDArray[Any]]) -> list[Job]:
    """Return one job per arm and network; none where there are no masks to learn from or to be tested on."""
    if not all(len(rows.get(name, ())) for name in ("segment_real", "segment_synthetic", "segment_tested")):
        return []
    text = recipe.model_dump_json()
    return [
        Job("segment", what, number, number + 1, cohort, dataset, state, text)
        for what in ("real", "synthetic")
        for number in range(recipe.gates.curve_seeds)
    ]


def perform(job: Job) -> Arrays:
    """Train one network of one arm; its Dice scores on real test images ("tested"), and of the real arm on the cohort ("asked")."""
    seed, settings = job.settings
    data, plan = Dataset.open(job.dataset), found(job.state, PLAN)
    labels = plan["segment_labels"].tolist()

    def pairs(part: str, *, real: bool) -> tuple[store.Images, NDArray[np.int64]]:
        rows = plan[part]
        images = data.images(rows) if real else cohort_images(job.cohort, rows)
        masks = data.masks(rows) if real else store.read(job.cohort, rows, "mask")
        return images, segmenter.numbered(masks, labels)

    images, truth = pairs(f"segment_{job.what}", real=job.what == "real")
    names = (job.what, str(job.start))
    net = segmenter.train(images, truth, len(labels), budget=settings.segmentation_images, seed=seed, names=names)
    result = {"tested": segmenter.dice(net, *pairs("segment_tested", real=True))}
    return result | ({"asked": segmenter.dice(net, *pairs("segment_asked", real=False))} if job.what == "real" else {})


def assess(work: Sequence[Job], settings: GatesSettings, seed: int) -> tuple[list[Verdict], dict[str, Any] | None]:
    """Judge what the networks found, relative to real images; no verdict and no table where nothing has masks."""
    tried = [job for job in work if job.kind == "segment"]
    if not tried:
        return [], None
    scores: dict[str, NDArray[np.float64]] = {}
    for what, name in (("real", "tested"), ("real", "asked"), ("synthetic", "tested")):
        results = [found(job.state, job.name)[name] for job in tried if job.what == what]
        scores[f"{what}, {name}"] = np.mean(results, axis=0)
    estimates = {
        name: _mean(values, settings.resamples, seeds.generator(seed, "gates", "segment", name)) for name, values in scores.items()
    }
    real, tested = estimates["real, tested"], len(scores["real, tested"])
    certified = tested >= TESTED_MIN and real.value >= DICE_MIN
    bound = settings.segmentation_ratio_min * real.value if certified else math.nan
    gates: tuple[tuple[str, Kind, str, str], ...] = (
        (
            "mask_fidelity",
            "fidelity",
            "real, asked",
            "How well a network that learned from real patients finds in synthetic images the regions that their masks asked for (Dice), "
            "beside what it finds in real held-out images.",
        ),
        (
            "utility_segmentation",
            "utility",
            "synthetic, tested",
            "How well a network that learned from synthetic images and masks alone finds the regions of real held-out images (Dice), "
            "beside one that learned from as many real ones.",
        ),
    )
    verdicts = [
        judge(
            name,
            kind,
            estimates[of].value,
            (estimates[of].low, estimates[of].high),
            bound=bound,
            direction="at least",
            baseline=real.value,
            n=len(scores[of]),
            meaning=meaning if certified else UNCERTIFIED,
        )
        for name, kind, of, meaning in gates
    ]
    said = {
        "real, tested": ("real", "real held-out"),
        "synthetic, tested": ("synthetic", "real held-out"),
        "real, asked": ("real", "synthetic"),
    }
    rows: list[list[str | float | None]] = [[*said[name], str(estimates[name]), len(scores[name])] for name in said]
    return verdicts, table("Masks", SENTENCE, ("learned from", "asked about", "Dice", "images"), rows)


def _mean(values: NDArray[np.float64], resamples: int, draws: np.random.Generator) -> bootstrap.Estimate:
    drawn = [float(values[draws.integers(0, len(values), len(values))].mean()) for _ in range(resamples)]
    return bootstrap.estimate(float(values.mean()), np.array(drawn))
