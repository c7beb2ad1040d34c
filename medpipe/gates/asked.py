"""What a cohort was asked to be composed of, where a covariate was to be balanced within each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.diffusion.conditioning import COMBINATION_MIN

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Balance:
    """The cells, one for each class and value, that were asked to be equally frequent within the class."""

    cells: tuple[tuple[int, str], ...]
    """Class number (-1 where there are no classes) and value, those of at least COMBINATION_MIN training images."""
    parts: dict[int, list[Mask]]
    """Class number to the training images (N,) of each of its values."""

    @classmethod
    def of(cls, column: pd.Series[Any], values: Sequence[str], strata: Labels, train: Mask) -> Balance:
        """Find the cells; `column`, `strata` and `train` are of all images of the Dataset."""
        parts: dict[int, list[Mask]] = {}
        cells = []
        for number in np.unique(strata[train]).tolist():
            for value in values:
                here = train & (strata == number) & (column == value).fillna(False).to_numpy(bool)
                if here.sum() >= COMBINATION_MIN:
                    parts.setdefault(number, []).append(here)
                    cells.append((number, value))
        return cls(tuple(cells), parts)

    def counts(self, strata: Labels, column: pd.Series[Any]) -> Labels:
        """Count the images of each cell."""
        return np.array([int(((strata == number) & (column == value).fillna(False).to_numpy(bool)).sum()) for number, value in self.cells])

    def shares(self, of_class: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share of the cohort that each cell should have, of the shares of the classes (one where there are none)."""
        asked = [(of_class[number] if number >= 0 else 1.0) / len(self.parts[number]) for number, _ in self.cells]
        return np.array(asked) / sum(asked)
