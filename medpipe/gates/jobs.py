"""The heavy measurements of a Report, one function for each kind of Job.

Each computes on one thread: its numbers do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from medpipe import seeds, store
from medpipe.gates import copy_search, distributions, features, fidelity, selftest, utility
from medpipe.gates.fidelity_gate import Sample
from medpipe.gates.job import BLOCK, ENCODER, PLAN, Arrays, Job, cohort_images, found, numbers, save
from medpipe.images.dataset import Dataset
from medpipe.threads import threads


def perform(job: Job) -> None:
    """Do one job on one thread and save its result."""
    with threads(1):
        save(job.state, job.name, _result(job))


def _result(job: Job) -> Arrays:
    result: Arrays
    match job.kind:
        case "encoder":
            result = _encoder(job)
        case "calibrate" | "score":
            result = _score(job)
        case "planted" | "practice":
            result = copy_search.planted(job) if job.kind == "planted" else copy_search.practised(job)
        case "describe":
            data = Dataset.open(job.dataset)
            images = data.images(found(job.state, PLAN)[job.what][job.start : job.stop])
            result = {**fidelity.statistics(images), "grey": distributions.grey_histogram(images)}
        case "utility":
            result = _utility(job)
        case "embed":
            result = _embed(job)
        case "selftest":
            result = _selftest(job)
        case _:
            assert_never(job.kind)
    return result


def _encoder(job: Job) -> Arrays:
    seed, settings = job.settings
    data, rows = Dataset.open(job.dataset), found(job.state, PLAN)["train"]
    classes = list(data.facts["classes"])
    labels = numbers(data.index["label"], classes)[rows]
    weights = features.train(data.images(rows), labels, len(classes), budget=settings.feature_images, seed=seed)
    return {name: value.numpy() for name, value in weights.items()}


def _score(job: Job) -> Arrays:
    """Copy scores and simple statistics of a block, of held-out images or of the cohort; digests of the cohort's."""
    data, plan = Dataset.open(job.dataset), found(job.state, PLAN)
    if job.kind == "calibrate":
        images = data.images(plan["holdout"][job.start : job.stop])
    else:
        images = cohort_images(job.cohort, slice(job.start, job.stop))
    result: dict[str, NDArray[Any]] = {"copy_measures": copy_search.searched(job, images), **fidelity.statistics(images)}
    if job.kind == "score":
        result["grey"] = distributions.grey_histogram(images)
        result["digests"] = copy_search.digests(images)
    return result


def _utility(job: Job) -> Arrays:
    """One classifier of one arm ("real" or "synthetic"): its probabilities for the real test images."""
    seed, settings = job.settings
    data, plan = Dataset.open(job.dataset), found(job.state, PLAN)
    classes = list(data.facts["classes"])
    rows = plan[f"utility_{job.what}"]
    if job.what == "real":
        images, labels = data.images(rows), numbers(data.index["label"], classes)[rows]
    else:
        images = cohort_images(job.cohort, rows)
        labels = numbers(pd.read_parquet(job.cohort / "index.parquet")["label"], classes)[rows]
    arm = (job.what, str(job.start))
    tested = data.images(plan["tested"])
    return {
        "probabilities": utility.probabilities(images, labels, tested, len(classes), budget=settings.utility_images, seed=seed, names=arm)
    }


def _embed(job: Job) -> Arrays:
    """Features of a block in every space."""
    seed, _ = job.settings
    plan = found(job.state, PLAN)
    rows = plan[f"embed_{job.what}"][job.start : job.stop]
    images = cohort_images(job.cohort, rows) if job.what == "cohort" else Dataset.open(job.dataset).images(rows)
    weights = {name: torch.from_numpy(value) for name, value in found(job.state, ENCODER).items()}
    return features.raw(images, weights, seed)


def _selftest(job: Job) -> Arrays:
    """Half of the held-out images, spoiled in a known way and judged as a cohort by the other half: the gates that reject it."""
    seed, settings = job.settings
    data, plan = Dataset.open(job.dataset), found(job.state, PLAN)
    classes = list(data.facts["classes"])
    labels = numbers(data.index["label"], classes)
    weights = {name: torch.from_numpy(value) for name, value in found(job.state, ENCODER).items()}
    spoiled, judge = selftest.halves(plan["embed_holdout"], seeds.generator(seed, "gates", "selftest"))
    draws = seeds.generator(seed, "gates", "selftest", job.what)
    images, made = selftest.spoil(data.images(spoiled), labels[spoiled], job.what, draws)
    train = _embedded(job.state, "train", plan["embed_train"])
    directions = {space: features.Directions.fit(values) for space, values in train.items()}

    def sample(stored: store.Images, strata: NDArray[np.int64], raw: Mapping[str, NDArray[np.float64]]) -> Sample:
        return Sample({space: directions[space](raw[space]) for space in features.SPACES}, fidelity.statistics(stored), strata)

    held, trained = data.images(judge), data.images(plan["embed_train"])
    gates = selftest.rejected_by(
        sample(trained, labels[plan["embed_train"]], train),
        sample(held, labels[judge], features.raw(held, weights, seed)),
        sample(images, made, features.raw(images, weights, seed)),
        len(classes),
        settings,
        seed,
    )
    return {"rejected_by": np.array(gates, dtype=np.str_), "n": np.array(len(judge))}


def _embedded(state: Path, what: str, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Join the features of the blocks of one kind."""
    parts = [found(state, f"embed-{what}-{start}") for start in range(0, len(rows), BLOCK)]
    return {space: np.concatenate([part[space] for part in parts]) for space in features.SPACES}
