"""Training sets of the gates of use: real images, synthetic ones, or both together, and the classifiers that learn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.gates import utility
from medpipe.gates.job import PLAN, Arrays, Job, cohort_images, found, numbers
from medpipe.images.dataset import Dataset

Rows = NDArray[np.int64]
Labels = NDArray[np.int64]
TEST_MIN = 10
"""Fewest test images of a class, and not of it, on which a figure of that class rests."""


@dataclass(frozen=True)
class Source:
    """What a classifier may learn from and is tested on, with the class number of every row."""

    job: Job
    data: Dataset
    classes: list[str]
    real: Labels  # (images of the Dataset,)
    made: Labels  # (images of the Cohort,)
    plan: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, job: Job) -> Source:
        """Open what `job` is about."""
        data = Dataset.open(job.dataset)
        classes = list(data.facts["classes"])
        made = numbers(pd.read_parquet(job.cohort / "index.parquet")["label"], classes)
        return cls(job, data, classes, numbers(data.index["label"], classes), made, found(job.state, PLAN))

    def probabilities(self, real: Rows, made: Rows, *, budget: int, names: tuple[str, ...]) -> Arrays:
        """Train on the `real` rows of the Dataset and the `made` rows of the Cohort together; probabilities for the test images."""
        seed, _ = self.job.settings
        images = [self.data.images(real)] if len(real) else []
        images += [cohort_images(self.job.cohort, made)] if len(made) else []
        labels = np.concatenate([self.real[real], self.made[made]])
        tested = self.data.images(self.plan["tested"])
        found = utility.probabilities(np.concatenate(images), labels, tested, len(self.classes), budget=budget, seed=seed, names=names)
        return {"probabilities": found}


def nested(rows: Rows, labels: Labels, draws: np.random.Generator) -> Rows:
    """Return `rows` in a random order of which every beginning has the classes in their shares; `labels` (N,) are theirs."""
    order = draws.permutation(len(rows))
    place = np.empty(len(rows))
    for number in np.unique(labels):
        own = order[labels[order] == number]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return rows[order[np.argsort(place[order], kind="stable")]]
