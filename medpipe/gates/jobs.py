"""The heavy measurements of a Report, one function for each kind of Job.

Each computes on one thread: its numbers do not depend on the number of workers.
"""

from __future__ import annotations

from typing import Any, assert_never

import pandas as pd
from numpy.typing import NDArray

from medpipe.gates import (
    copy_search,
    distributions,
    features,
    fidelity,
    learning_curve,
    likeness_jobs,
    membership,
    rare_class,
    reidentification,
    segmentation,
    utility,
)
from medpipe.gates.job import PLAN, Arrays, Job, cohort_images, found, numbers, save
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
        case "gallery":
            result = copy_search.prepared(job)
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
        case "curve":
            result = learning_curve.perform(job)
        case "rare":
            result = rare_class.perform(job)
        case "segment":
            result = segmentation.perform(job)
        case "embed":
            result = likeness_jobs.embed(job)
        case "baseline":
            result = likeness_jobs.baseline(job)
        case "outlier":
            result = likeness_jobs.outlier(job)
        case "selftest":
            result = likeness_jobs.spoiled(job)
        case "reidentify":
            result = _reidentify(job)
        case "attack":
            result = membership.attack(job)
        case _:
            assert_never(job.kind)
    return result


def _encoder(job: Job) -> Arrays:
    seed, settings = job.settings
    data, rows = Dataset.open(job.dataset), found(job.state, PLAN)["encoder"]
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


def _reidentify(job: Job) -> Arrays:
    """How well a verifier tells patients apart, and the best match of each image among the training patients."""
    seed, _ = job.settings
    people, plan = Dataset.open(job.dataset).index["patient"].to_numpy(), found(job.state, PLAN)
    kinds = ("train", "holdout", "cohort")
    train, held, made = (reidentification.joined(likeness_jobs.embedded(job.state, what, plan[f"embed_{what}"])) for what in kinds)
    return reidentification.measure(train, people[plan["embed_train"]], held, people[plan["embed_holdout"]], made, seed)
