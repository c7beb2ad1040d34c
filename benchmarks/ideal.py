"""Ideal and spoiled cohorts: how often the gates on likeness reject other real patients, and how often known faults.

    python -m benchmarks.run ideal

PneumoniaMNIST (MEDPIPE_DATA) without its exact duplicates: 2,800 training images; of the others 700 are held out, again and again,
and cohorts of 350 are drawn from the rest, which neither the model nor the yardstick has seen. Each is judged by all gates on
likeness, outliers, conditions and the classes' shares, as it is and spoiled. Utility and copies have their own figures. About
ten minutes of one core; HOLDOUTS says how many.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.images import distinct
from benchmarks.table import Row
from medpipe.gates import features, likeness_jobs, selftest
from medpipe.gates.copies import clopper_pearson
from medpipe.gates.frozen import Part, freeze
from medpipe.gates.job import ENCODER, save
from medpipe.progress import silent
from medpipe.settings import GatesSettings

LONG = True
HOLDOUTS = int(os.environ.get("HOLDOUTS", "67"))
TRAIN, HELD_OUT, COHORT, DRAWS, SPOILED, CLASSES = 2800, 700, 350, 3, 8, 2
SETTINGS, SEED = GatesSettings(), 0


def rows() -> Iterator[Row]:
    """The share of ideal cohorts that is rejected beside the stated level, then that of each fault beside all."""
    with tempfile.TemporaryDirectory() as scratch:
        ideal, spoiled = _counted(Path(scratch))
    tried = HOLDOUTS * DRAWS
    low, high = clopper_pearson(sum(ideal.values()), tried)
    print(f"  ideal cohorts rejected: {dict(ideal)} of {tried}, 95 % interval {low:.4f} to {high:.4f}")
    yield Row("ideal cohorts rejected", sum(ideal.values()) / tried, "", "the stated level", SETTINGS.family_level, "at most 1")
    for fault, found in spoiled.items():
        yield Row(f"rejected: {fault}", found / SPOILED, "", "all", 1.0)


def _counted(state: Path) -> tuple[Counter[str], Counter[str]]:
    """Count by their first failed gate the ideal cohorts that were rejected, and by fault the spoiled ones."""
    images, labels = distinct("train", "val")
    images = images[:, None]
    train, others = np.arange(TRAIN), np.arange(TRAIN, len(images))
    save(state, ENCODER, _encoder(images[train], labels[train]))
    parts = {"train": _part(images[train], labels[train], state), "others": _part(images[others], labels[others], state)}
    ideal: Counter[str] = Counter()
    spoiled: Counter[str] = Counter(dict.fromkeys(selftest.FAULTS, 0))
    for number in range(HOLDOUTS):
        draws = np.random.default_rng(number)
        mixed = draws.permutation(len(others))
        held, rest = np.sort(mixed[:HELD_OUT]), mixed[HELD_OUT:]
        frozen = freeze(parts["train"], parts["others"].take(held), COHORT, ["normal", "pneumonia"], [], SETTINGS, SETTINGS.resamples, SEED)
        known = frozen.sample(parts["train"])
        for k in range(DRAWS):
            cohort = parts["others"].take(np.sort(rest[k * COHORT : (k + 1) * COHORT]))
            failed = selftest.rejected_by(frozen, known, frozen.sample(cohort), CLASSES, SETTINGS, SEED, SETTINGS.resamples)
            ideal.update(failed[:1])
            if failed:
                print(f"  holdout {number}, cohort {k}: {', '.join(failed)}", flush=True)
        if number < SPOILED:
            for fault in selftest.FAULTS:
                source = draws.permutation(train)[:COHORT] if fault == selftest.COPIES else others[rest[:COHORT]]
                made, classes = selftest.spoil(images[np.sort(source)], labels[np.sort(source)], fault, draws)
                failed = selftest.rejected_by(frozen, known, frozen.sample(_part(made, classes, state)), CLASSES, SETTINGS, SEED)
                spoiled[fault] += bool(failed)
    return ideal, spoiled


def _encoder(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    weights = features.train(images, labels, CLASSES, budget=SETTINGS.feature_images, seed=SEED, progress=silent)
    return {name: value.numpy() for name, value in weights.items()}


def _part(images: NDArray[np.uint8], labels: NDArray[np.int64], state: Path) -> Part:
    index = pd.DataFrame({"patient": [f"P{number}" for number in range(len(images))]})
    return Part(likeness_jobs.features_of(images, state, SETTINGS, SEED), labels, index)
