"""The jobs behind the gates on likeness: features of images, the yardstick, outliers, and cohorts spoiled on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from medpipe import seeds, store
from medpipe.gates import diversity, features, fidelity, outliers, own_network, selftest, spectrum
from medpipe.gates.frozen import STATISTIC, Frozen, Part, freeze
from medpipe.gates.job import BLOCK, ENCODER, PLAN, Arrays, Job, cohort_images, found, numbers
from medpipe.images.dataset import Dataset
from medpipe.settings import GatesSettings

PAIRS = 64
"""Pairs of images in a block whose structural similarity is taken."""
SIMILARITY = "similarity"


def features_of(images: store.Images, state: Path, settings: GatesSettings, seed: int) -> dict[str, NDArray[np.float64]]:
    """Map stored images to every space and statistic, each with one row per image."""
    weights = {name: torch.from_numpy(value) for name, value in found(state, ENCODER).items()}
    raw = features.raw(images, weights, seed) | {"spectrum": spectrum.radial_power(images)}
    own = own_network.load(settings, images.shape[1], images.ndim - 2)
    if own is not None:
        raw["own"] = own_network.embed(own, images)
    return raw | {STATISTIC + name: values for name, values in fidelity.statistics(images).items()}


def embed(job: Job) -> Arrays:
    """Features of a block in every space, and how alike random pairs within it are."""
    seed, settings = job.settings
    data, rows = Dataset.open(job.dataset), found(job.state, PLAN)[f"embed_{job.what}"][job.start : job.stop]
    if job.what == "cohort":
        images, index = cohort_images(job.cohort, rows), pd.read_parquet(job.cohort / "index.parquet")
    else:
        images, index = data.images(rows), data.index
    strata = numbers(index["label"], list(data.facts["classes"]))[rows]
    pairs = diversity.pairs(strata, PAIRS, seeds.generator(seed, "gates", "pairs", job.what, job.start))
    alike = diversity.similarity(images[pairs[:, 0]], images[pairs[:, 1]]) if len(pairs) else np.empty(0)
    return features_of(images, job.state, settings, seed) | {SIMILARITY: alike}


def embedded(state: Path, what: str, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Join the features of the blocks of one kind; the similarity of pairs is left out."""
    parts = [found(state, f"embed-{what}-{start}") for start in range(0, len(rows), BLOCK)]
    names = [name for name in parts[0] if name != SIMILARITY] if parts else []
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _part(job: Job, data: Dataset, what: str, classes: list[str]) -> Part:
    rows = found(job.state, PLAN)[f"embed_{what}"]
    return Part(embedded(job.state, what, rows), numbers(data.index["label"], classes)[rows], data.index.iloc[rows])


def _halves(held: Part, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return selftest.halves(held.strata, seeds.generator(seed, "gates", "selftest"), held.patients)


def baseline(job: Job) -> Arrays:
    """The yardstick, from the Dataset alone: for a cohort of `job.stop` images, or for half of the holdout by the other half."""
    seed, settings = job.settings
    data = Dataset.open(job.dataset)
    classes = list(data.facts["classes"]) if job.what != "unlabelled" else []
    train, held = (_part(job, data, what, classes) for what in ("train", "holdout"))
    if not held.raw:
        held = Part({name: values[:0] for name, values in train.raw.items()}, held.strata, held.index)
    if job.what == "halves":
        held = held.take(_halves(held, seed)[1])
    covariates = [] if job.what == "halves" else list(data.facts["covariates"])
    resamples = selftest.RESAMPLES if job.what == "halves" else settings.resamples
    return freeze(train, held, job.stop, classes, covariates, settings, resamples, seed).arrays


def outlier(job: Job) -> Arrays:
    """How far each image of a block of the cohort lies from the training images, by space."""
    seed, settings = job.settings
    rows = found(job.state, PLAN)["embed_train"]
    name = next(name for name in ("labelled", "unlabelled") if (job.state / f"baseline-{name}-0.npz").exists())
    frozen = Frozen(found(job.state, f"baseline-{name}-0"))
    images = cohort_images(job.cohort, slice(job.start, job.stop))
    train = frozen.sample(Part(embedded(job.state, "train", rows), np.zeros(len(rows), dtype=np.int64)))
    made = frozen.sample(Part(features_of(images, job.state, settings, seed), np.zeros(len(images), dtype=np.int64)))
    far, near = outliers.distances(made.features, train.features)
    return {"far": far, "near": near}


def spoiled(job: Job) -> Arrays:
    """Half of the held-out images, spoiled in a known way and judged as a cohort by the other half: the gates that reject it."""
    seed, settings = job.settings
    data, plan = Dataset.open(job.dataset), found(job.state, PLAN)
    classes = list(data.facts["classes"])
    labels = numbers(data.index["label"], classes)
    frozen = Frozen(found(job.state, "baseline-halves-0"))
    held = plan["embed_holdout"]
    half = held[_halves(_part(job, data, "holdout", classes), seed)[0]]
    draws = seeds.generator(seed, "gates", "selftest", job.what)
    source = draws.permutation(plan["embed_train"])[: len(half)] if job.what == selftest.COPIES else half
    images, made = selftest.spoil(data.images(np.sort(source)), labels[np.sort(source)], job.what, draws)
    train = _part(job, data, "train", classes)
    made_sample = frozen.sample(Part(features_of(images, job.state, settings, seed), made))
    gates = selftest.rejected_by(frozen, frozen.sample(train), made_sample, len(classes), settings, seed)
    return {"rejected_by": np.array(gates, dtype=np.str_), "n": np.array(frozen.baseline.held)}


def similarities(state: Path, what: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Join the similarities of the pairs of one kind."""
    parts = [found(state, f"embed-{what}-{start}")[SIMILARITY] for start in range(0, len(rows), BLOCK)]
    return np.concatenate(parts) if parts else np.empty(0)
