"""What is fixed before a cohort is looked at: directions, bands, limits and readers, all from the Dataset, and their digest.

Of the cohort only its size is known here, and whether it has labels. The digest stands in the Report, so that anyone can see
that two cohorts of one Dataset were judged by the same yardstick.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.gates import bands, conditions, features, fidelity, measures, outliers
from medpipe.gates.bands import Baseline
from medpipe.gates.conditions import Probe
from medpipe.gates.features import Directions
from medpipe.gates.measures import Sample
from medpipe.settings import GatesSettings

Arrays = Mapping[str, NDArray[Any]]
STATISTIC = "statistic-"
"""What the names of embedded statistics begin with."""
ORDER = (*features.SPACES, "spectrum", "own")
"""Spaces in the order of every array."""


@dataclass(frozen=True)
class Part:
    """Embedded images of one kind: `raw` by space and statistic, class numbers (N,), and their rows of an index, if there is one."""

    raw: Arrays
    strata: NDArray[np.int64]
    index: pd.DataFrame | None = None

    def take(self, rows: NDArray[np.int64]) -> Part:
        """Return the images at `rows`."""
        index = None if self.index is None else self.index.iloc[rows]
        return Part({name: values[rows] for name, values in self.raw.items()}, self.strata[rows], index)

    @property
    def patients(self) -> NDArray[np.int64] | None:
        """Number of the patient of each image."""
        if self.index is None or "patient" not in self.index:
            return None
        return np.asarray(pd.factorize(self.index["patient"])[0], dtype=np.int64)


@dataclass(frozen=True)
class Frozen:
    """The yardstick as stored."""

    arrays: Arrays

    @cached_property
    def directions(self) -> dict[str, Directions]:
        """The leading directions of each space."""
        return {
            space: Directions(self.arrays[f"mean-{space}"], self.arrays[f"matrix-{space}"])
            for space in ORDER
            if f"mean-{space}" in self.arrays
        }

    @cached_property
    def baseline(self) -> Baseline:
        """Real against real."""
        return Baseline.of_arrays(self.arrays)

    @cached_property
    def probes(self) -> list[Probe]:
        """The readers of the conditions."""
        return conditions.of_arrays(self.arrays)

    def sample(self, part: Part) -> Sample:
        """Bring embedded images into the frozen spaces."""
        return sample(part, self.directions)

    def digest(self, weights: Arrays, settings: GatesSettings) -> str:
        """Digest the yardstick, the weights of the feature network and the bounds of the recipe (SHA-256)."""
        state = hashlib.sha256(settings.model_dump_json().encode())
        for arrays in (self.arrays, weights):
            for name in sorted(arrays):
                values = np.ascontiguousarray(arrays[name])
                state.update(f"{name} {values.dtype.str} {values.shape} ".encode() + values.tobytes())
        return state.hexdigest()


def sample(part: Part, directions: Mapping[str, Directions]) -> Sample:
    """Map embedded images by `directions`."""
    statistics = {name: part.raw[STATISTIC + name] for name in fidelity.STATISTICS if STATISTIC + name in part.raw}
    spaces = {space: direction(part.raw[space]) for space, direction in directions.items() if space in part.raw}
    return Sample(spaces, statistics, part.strata, part.patients)


def freeze(
    train: Part,
    held: Part,
    images: int,
    classes: Sequence[str],
    covariates: Sequence[Mapping[str, Any]],
    settings: GatesSettings,
    resamples: int,
    seed: int,
) -> Frozen:
    """Fix the yardstick for cohorts of `images` from training and held-out images."""
    directions = {space: Directions.fit(train.raw[space]) for space in ORDER if space in train.raw}
    arrays: dict[str, NDArray[Any]] = {f"mean-{space}": value.mean for space, value in directions.items()}
    arrays |= {f"matrix-{space}": value.matrix for space, value in directions.items()}
    known, fresh = sample(train, directions), sample(held, directions)
    whole = _without_patients(known)
    far, near = outliers.distances(fresh.features, known.features)
    limit = outliers.limits(far, settings)
    arrays |= {"far": far, "near": near, "limits": limit}
    typical = fresh.take(np.flatnonzero(~outliers.beyond(far, limit)))  # as a cohort is compared without what is withheld
    arrays |= bands.calibrate(whole, typical, images, resamples, seed).as_arrays()
    arrays |= {"patients": np.arange(len(far)) if fresh.patients is None else fresh.patients}
    of_train, of_held = (conditions.targets(part.strata, classes, part.index, covariates) for part in (train, held))
    arrays |= conditions.as_arrays(conditions.fit(known, fresh, of_train, of_held, seed))
    return Frozen(arrays)


def _without_patients(train: Sample) -> Sample:
    """Draws of the training split stand for the whole of it: image by image."""
    return measures.Sample(train.features, train.statistics, train.strata)
