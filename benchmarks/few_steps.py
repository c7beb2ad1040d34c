"""Few steps: what a cohort loses in likeness, variety and use by fewer evaluations, of the solver and of students.

    MEDPIPE_WORKSPACE=work python -m benchmarks.run few_steps

Takes the one Checkpoint of a finished workspace (of the recipe that RECIPE names, pneumoniamnist) as the teacher, and its Dataset.
Every cohort has the same subjects and the same noise; the figures are those of the gates, by the gates' own code: medians over
resamples of at most 512 images, beside real held-out images. About an hour of one core for a student; STUDENTS and STEPS say which.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.table import Row
from medpipe import recipe as recipes
from medpipe import records, store
from medpipe.cohort.generate import generate
from medpipe.diffusion.train import train
from medpipe.gates import features, fidelity, fidelity_gate, plan, utility
from medpipe.gates.fidelity_gate import Sample
from medpipe.gates.job import numbers
from medpipe.images.dataset import Dataset
from medpipe.progress import silent
from medpipe.recipe import Recipe

LONG = True
RECIPE = os.environ.get("RECIPE", "pneumoniamnist")
STEPS = [int(text) for text in os.environ.get("STEPS", "20,10,8,6").split(",") if text]
STUDENTS = [int(text) for text in os.environ.get("STUDENTS", "4,2,1").split(",") if text]
IMAGES, RESAMPLES = 1500, 20
FIGURES = ("frechet", "frechet_texture", "frechet_pixels", "precision", "recall", "intensity_detail")
Labels = NDArray[np.int64]


def rows() -> Iterator[Row]:
    """Sample and judge the teacher at several numbers of steps, then each student."""
    place = Path(os.environ.get("MEDPIPE_WORKSPACE", ""))
    found = [sorted((place / noun).glob(f"*/{records.RECORD}")) for noun in ("dataset", "checkpoint")]
    if not all(found):
        sys.exit("no finished workspace: set MEDPIPE_WORKSPACE to one that holds a Dataset and its Checkpoint")
    dataset, teacher = (files[0].parent for files in found)
    judge = Judge(dataset)
    with tempfile.TemporaryDirectory() as scratch:
        for steps in STEPS:
            made = generate(teacher, Path(scratch) / f"steps-{steps}", _recipe(cohort={"steps": steps}))
            yield from judge.rows(f"{steps} steps", made.path)
        for evaluations in STUDENTS:
            settings = _recipe(distill={"evaluations": evaluations})
            student = train(dataset, Path(scratch) / f"student-{evaluations}", settings, teacher=teacher)
            made = generate(student.path, Path(scratch) / f"cohort-{evaluations}", settings)
            yield from judge.rows(f"student of {evaluations}", made.path)


def _recipe(**sections: Any) -> Recipe:
    given = {"cohort": {"images": IMAGES, "steps": None} | sections.pop("cohort", {}), "compute": {"threads": 1, "workers": 1}}
    return recipes.load(RECIPE, given | {"gates": {"resamples": RESAMPLES}} | sections)


class Judge:
    """The gates' measurements on cohorts of one Dataset, what is real measured once."""

    def __init__(self, dataset: Path) -> None:
        self.recipe, self.data = _recipe(), Dataset.open(dataset)
        self.classes = list(self.data.facts["classes"])
        self.labels = numbers(self.data.index["label"], self.classes)
        settings = self.recipe.gates
        train, (_, holdout, _) = self.data.rows("train"), plan.known_digests(self.data)
        images = self.data.images(train)
        self.weights = features.train(
            images, self.labels[train], len(self.classes), budget=settings.feature_images, seed=self.recipe.seed, progress=silent
        )
        raw = features.raw(images, self.weights, self.recipe.seed)
        self.directions = {space: features.Directions.fit(raw[space]) for space in features.SPACES}
        self.train = self._sample(images, self.labels[train])
        self.holdout = self._sample(self.data.images(holdout), self.labels[holdout])
        cohort = pd.DataFrame({"label": [self.classes[0]] * IMAGES})
        self.tested = plan.parts(self.data, holdout, cohort, self.recipe.seed)["tested"]
        some = np.random.default_rng(0).permutation(train)[:IMAGES]
        self.real_auc = self._auc(self.data.images(some), self.labels[some], "real")

    def rows(self, name: str, cohort: Path) -> Iterator[Row]:
        """Judge one cohort."""
        images, made = store.read(cohort), numbers(pd.read_parquet(cohort / "index.parquet")["label"], self.classes)
        verdicts = fidelity_gate.assess(self.train, self.holdout, self._sample(images, made), self.recipe.gates, self.recipe.seed)
        for verdict in verdicts:
            if verdict.name in FIGURES:
                yield Row(f"{verdict.name}, {name}", verdict.value, "", "real held-out images", verdict.baseline)
        yield Row(f"AUC of training on it, {name}", self._auc(images, made, "synthetic"), "", "as many real ones", self.real_auc)

    def _sample(self, images: features.Stored, labels: Labels) -> Sample:
        raw = features.raw(images, self.weights, self.recipe.seed)
        return Sample({name: self.directions[name](part) for name, part in raw.items()}, fidelity.statistics(images), labels)

    def _auc(self, images: features.Stored, labels: Labels, arm: str) -> float:
        """Return the mean AUC on real test images of classifiers that were trained on `images`."""
        tested, settings = self.data.images(self.tested), self.recipe.gates
        found = []
        for number in range(settings.utility_seeds):
            how: dict[str, Any] = {"budget": settings.utility_images, "seed": self.recipe.seed, "names": (arm, str(number))}
            with torch.enable_grad():
                guessed = utility.probabilities(images, labels, tested, len(self.classes), **how)
            found.append(utility.auc(guessed, self.labels[self.tested]))
        return float(np.mean(found))
