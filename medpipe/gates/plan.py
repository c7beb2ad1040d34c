"""The plan of a validation: which images play which part, decided before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.errors import InputError
from medpipe.gates import copies, of_use, reidentification, selftest
from medpipe.gates.job import BLOCK, Job, Kind, found, numbers
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe
from medpipe.records import Record

EMBEDDED = 8192
"""Most images of one kind that are embedded: what bounds memory, whatever the size of the cohort."""
TRAINED = 20_000
"""Most images that an arm of the utility gate, or the feature network, learns from."""
TESTED_MIN = 200
"""A test split below this is joined by the other images that no model was trained on."""

Rows = NDArray[np.int64]


def comparable(cohort: Record, dataset: Record) -> None:
    """Raise InputError unless the Cohort's images are of the Dataset's shape and type."""
    for name in ("shape", "dtype"):
        if cohort.facts[name] != dataset.facts[name]:
            raise InputError(
                f"{cohort.path} holds images of {name} {cohort.facts[name]} and {dataset.path} of {dataset.facts[name]}: "
                "validate a Cohort against the Dataset that its model was trained on"
            )
    if not dataset.facts["splits"].get("train"):
        raise InputError(f"{dataset.path} has no training images to compare with: preprocess with a smaller holdout")


def blocks(rows: Rows) -> Iterator[Rows]:
    """Cut `rows` into runs of at most BLOCK."""
    yield from (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def known_digests(data: Dataset) -> tuple[set[bytes], Rows, Rows]:
    """Return the canonical digests of the training images, the held-out rows that are no copy of one, or of each other, and
    the patient of each training image as a number; patients who share an image count as one.

    A threshold set on a holdout that holds copies would let copies pass.
    """
    train = data.rows("train")
    digests = [digest for rows in blocks(train) for digest in copies.canonical_digests(data.images(rows))]
    patients = pd.factorize(data.index["patient"].to_numpy()[train])[0].astype(np.int64)
    first: dict[bytes, int] = {}
    for number, digest in enumerate(digests):
        if (other := first.setdefault(digest, number)) != number and patients[other] != patients[number]:
            patients[patients == patients[number]] = patients[other]
    seen, kept = set(first), []
    for rows in blocks(data.rows("holdout")):
        for row, digest in zip(rows, copies.canonical_digests(data.images(rows)), strict=True):
            if digest not in seen:
                kept.append(row)
            seen.add(digest)
    return set(first), np.array(kept, dtype=np.int64), patients


def parts(data: Dataset, holdout: Rows, cohort: pd.DataFrame, seed: int) -> dict[str, Rows]:
    """Return the rows of each part; `cohort` is the Cohort's index."""
    classes = list(data.facts["classes"])
    real, made = numbers(data.index["label"], classes), numbers(cohort["label"], classes)
    train = data.rows("train")
    tested = data.rows("test")[real[data.rows("test")] >= 0]
    if len(tested) < TESTED_MIN:
        unseen = np.concatenate([data.rows("test"), holdout, data.rows("validation")])
        tested = unseen[real[unseen] >= 0]
    labelled, labelled_made = train[real[train] >= 0], np.flatnonzero(made >= 0)
    arm = min(len(labelled), len(labelled_made), TRAINED)

    def some(rows: Rows, most: int, name: str) -> Rows:
        return np.sort(seeds.generator(seed, "gates", "part", name).permutation(rows)[:most])

    return {
        "train": train,
        "holdout": holdout,
        "tested": tested,
        "utility_real": some(labelled, arm, "utility_real"),
        "utility_synthetic": some(labelled_made, arm, "utility_synthetic"),
        "encoder": some(train, TRAINED, "encoder"),
        "embed_train": some(train, EMBEDDED, "embed_train"),
        "embed_holdout": some(holdout, EMBEDDED, "embed_holdout"),
        "embed_cohort": some(np.arange(len(cohort)), EMBEDDED, "embed_cohort"),
    }


def testable(data: Dataset, rows: dict[str, Rows]) -> bool:
    """Say whether the real test images hold at least two classes, which an AUC needs."""
    labels = numbers(data.index["label"], list(data.facts["classes"]))
    return len(np.unique(labels[rows["tested"]])) >= 2 and len(rows["utility_synthetic"]) > 0


def first(cohort: Path, data: Dataset, state: Path, recipe: Recipe, rows: dict[str, Rows]) -> list[Job]:
    """Return the jobs that need nothing, the longest first."""
    common = (cohort, data.record.path, state, recipe.model_dump_json())
    arms = [Job("utility", what, n, 0, *common) for n in range(recipe.gates.utility_seeds) for what in ("real", "synthetic")]
    return [
        Job("gallery", "train", 0, 0, *common),
        Job("encoder", "train", 0, 0, *common),
        *(arms if testable(data, rows) else []),
        *of_use.jobs(cohort, data, state, recipe, rows, testable(data, rows)),
        *_over("describe", "train", len(rows["train"]), *common),
    ]


def second(cohort: Path, data: Dataset, state: Path, recipe: Recipe, rows: dict[str, Rows], images: int) -> list[Job]:
    """Return the jobs that need the feature network or the gallery of training images."""
    common, practice = (cohort, data.record.path, state, recipe.model_dump_json()), recipe.gates.copy_practice
    return [
        *(job for what in ("train", "holdout", "cohort") for job in _over("embed", what, len(rows[f"embed_{what}"]), *common)),
        *_over("score", "cohort", images, *common),
        *_over("calibrate", "holdout", len(rows["holdout"]), *common),
        *_over("practice", "copies", practice, *common),
        *_over("practice", "real", min(practice, len(rows["train"])), *common),
        *_over("practice", "altered", min(practice // 2, len(rows["train"])), *common),
        *_over("practice", "strange", practice // 8, *common),
        *(Job("planted", family, 0, 0, *common) for family in copies.FAMILIES),
    ]


def _over(kind: Kind, what: str, n: int, *common: Any) -> list[Job]:
    return [Job(kind, what, start, min(start + BLOCK, n), *common) for start in range(0, n, BLOCK)]


def third(cohort: Path, data: Dataset, state: Path, recipe: Recipe, rows: dict[str, Rows], images: int, labelled: bool) -> list[Job]:
    """Return the jobs that need embedded images: the yardstick, for a cohort of `images`, and that of the gates' own test.

    They see no image of the cohort. `labelled` says whether it has classes at all.
    """
    halved = selftest.applicable(len(data.facts["classes"]), len(rows["embed_holdout"]))
    wanted = [("labelled" if labelled else "unlabelled", images), *([("halves", len(rows["embed_holdout"]) // 2)] if halved else [])]
    return [Job("baseline", what, 0, n, cohort, data.record.path, state, recipe.model_dump_json()) for what, n in wanted]


def fourth(cohort: Path, data: Dataset, state: Path, recipe: Recipe, rows: dict[str, Rows], images: int) -> list[Job]:
    """Return the jobs that need the yardstick: outliers in the cohort, and one per cohort that is spoiled on purpose; re-identification."""
    common = (cohort, data.record.path, state, recipe.model_dump_json())
    tried = selftest.applicable(len(data.facts["classes"]), len(rows["embed_holdout"]))
    kinds: list[tuple[Kind, str]] = [("selftest", what) for what in tried]
    kinds += [("reidentify", "patients")] if unidentifiable(data, rows) is None else []
    return [
        *_over("outlier", "cohort", images, *common),
        *(Job(kind, what, 0, 0, *common) for kind, what in kinds),
    ]


def unidentifiable(data: Dataset, rows: dict[str, Rows]) -> str | None:
    """Say why patients cannot be re-identified in this Dataset; None where that can be tried."""
    people = data.index["patient"].to_numpy()
    split = str(data.record.made_from["settings"].get("images", {}).get("split", "patient"))
    return reidentification.unfit(people[rows["embed_train"]].tolist(), people[rows["embed_holdout"]].tolist(), split)


def gathered(jobs_done: list[Job], kind: Kind, what: str) -> dict[str, NDArray[Any]]:
    """Join the results of the blocks of one kind in the order of their rows; counts ("grey") are summed."""
    results = [found(job.state, job.name) for job in sorted(jobs_done, key=lambda job: job.start) if (job.kind, job.what) == (kind, what)]
    names = results[0] if results else {}
    return {
        name: np.sum([r[name] for r in results], axis=0) if name == "grey" else np.concatenate([r[name] for r in results]) for name in names
    }
