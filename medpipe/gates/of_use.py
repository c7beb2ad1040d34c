"""What else is asked about use, beside the gate of train-on-synthetic: the learning curve, a rare class, segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.gates import learning_curve, rare_class, segmentation
from medpipe.gates.job import Job, numbers
from medpipe.gates.verdict import Verdict
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe


def jobs(cohort: Path, data: Dataset, state: Path, recipe: Recipe, rows: Mapping[str, NDArray[Any]], testable: bool) -> list[Job]:
    """Return the jobs that the recipe asks for, as far as there are masks, and classes to tell apart (`testable`)."""
    classes = list(data.facts["classes"])
    found = segmentation.jobs(cohort, data.record.path, state, recipe, rows)
    if testable:
        real, made = (numbers(index["label"], classes) for index in (data.index, pd.read_parquet(cohort / "index.parquet")))
        labels = real[rows["train"]], real[rows["tested"]], made
        found += learning_curve.jobs(cohort, data.record.path, state, recipe, rows, len(classes))
        found += rare_class.jobs(cohort, data.record.path, state, recipe, labels, len(classes))
    return found


def assess(
    work: Sequence[Job], labels: NDArray[np.int64], classes: Sequence[str], recipe: Recipe
) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """Return the verdicts and the tables; `labels` (N,) are the class numbers of the real test images."""
    settings, seed = recipe.gates, recipe.seed
    added, curve = learning_curve.assess(learning_curve.gathered(work), labels, settings, seed)
    rare = rare_class.assess(work, labels, classes, settings, seed)
    verdicts, masks = segmentation.assess(work, settings, seed)
    return ([] if added is None else [added]) + verdicts, [found for found in (curve, rare, masks) if found is not None]
