"""One heavy measurement of a Report: paths and numbers that any worker can take up, and a file for its result.

The result lies in the Report's scratch folder, so that a run that was killed repeats only what is missing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe import records, store
from medpipe.recipe import Recipe
from medpipe.settings import GatesSettings

Arrays = Mapping[str, NDArray[Any]]
Kind = Literal[
    "encoder",
    "gallery",
    "calibrate",
    "score",
    "planted",
    "practice",
    "describe",
    "utility",
    "curve",
    "rare",
    "segment",
    "embed",
    "baseline",
    "outlier",
    "selftest",
    "reidentify",
    "attack",
]
BLOCK = 512
"""Images in a job over many images."""
PLAN = "plan"
ENCODER = "encoder"
GALLERY = "gallery"


@dataclass(frozen=True)
class Job:
    """One measurement: `what` is a split, a family of copies or an arm; `start` to `stop` its rows, or its number."""

    kind: Kind
    what: str
    start: int
    stop: int
    cohort: Path
    dataset: Path
    state: Path
    recipe: str
    """The recipe as JSON."""
    checkpoint: Path | None = None
    """The model that made the cohort, for jobs that attack it."""

    @property
    def name(self) -> str:
        return self.kind if self.kind in (ENCODER, GALLERY) else f"{self.kind}-{self.what}-{self.start}"

    @property
    def settings(self) -> tuple[int, GatesSettings]:
        """The seed and the gates section."""
        recipe = Recipe.model_validate(json.loads(self.recipe))
        return recipe.seed, recipe.gates


def save(state: Path, name: str, arrays: Arrays) -> None:
    """Write the result called `name`, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    records.write_bytes(state / f"{name}.npz", buffer.getvalue())


def found(state: Path, name: str) -> dict[str, NDArray[Any]]:
    """Read the result called `name`."""
    with np.load(state / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def done(job: Job) -> bool:
    """Say whether a run has done this job."""
    return (job.state / f"{job.name}.npz").exists()


def numbers(labels: pd.Series[Any], classes: list[str]) -> NDArray[np.int64]:
    """Turn class names into their numbers, -1 where there is none (or it is not one of `classes`)."""
    return np.asarray(labels.map({name: number for number, name in enumerate(classes)}).fillna(-1), dtype=np.int64)


def cohort_images(cohort: Path, rows: NDArray[np.int64] | slice) -> store.Images:
    """Read a range of the cohort's images, or those of `rows`."""
    return np.asarray(store.open_array(cohort)[rows]) if isinstance(rows, slice) else store.read(cohort, rows)
