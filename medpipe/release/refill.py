"""Which images of a Cohort a release takes: those asked for that nothing speaks against, and spare ones in place of the others.

A Cohort holds the images asked for and, after them, spare ones drawn in the same way. What the gates withhold is replaced
by a spare image of the same class, the one whose covariates are nearest, so that a release has the size and the composition that
was asked for without a second generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """The rows of a Cohort that are released, and what became of the others."""

    asked: int
    made: int
    withheld: int
    """Of all that were made."""
    rows: Rows
    """Released, in order: spare images follow those asked for."""
    replaced: int
    """Images asked for that were withheld and have a spare one in their place."""

    @property
    def short(self) -> int:
        """Images asked for that were withheld and for which no spare one of their class was left."""
        return self.asked - len(self.rows)

    @property
    def left_over(self) -> int:
        """Spare images that nothing speaks against and that were not needed; they are not released."""
        return self.made - self.withheld - len(self.rows)

    @property
    def sentence(self) -> str:
        """Say what became of the images, in plain words."""
        said = f"{self.asked:,} images were asked for; the gates withheld {self.withheld:,} of the {self.made:,} images that were made"
        if self.replaced:
            said += f", and {self.replaced:,} of the spare images {'takes the place of one' if self.replaced == 1 else 'take their places'}"
        if self.short:
            said += f". For {self.short:,} that were withheld no spare image of the class was left, so the cohort is smaller by as many"
        return said + "."

    def as_json(self) -> dict[str, int]:
        """Return the counts, all of synthetic images."""
        names = ("asked", "made", "withheld", "replaced", "short", "left_over")
        return {name: int(getattr(self, name)) for name in names} | {"released": len(self.rows)}


def select(index: pd.DataFrame, withheld: NDArray[np.bool_], asked: int, covariates: Sequence[Mapping[str, Any]] = ()) -> Selection:
    """Choose the rows to release of a Cohort's `index`, of whose rows the first `asked` were asked for.

    `withheld` (N,) marks the rows that may not leave. Gaps are filled in the order of the rows; among the spare rows of the
    same class the one with the fewest other categories is taken, then the one that is nearest in the continuous covariates
    (in spreads of the cohort), then the first.
    """
    gaps = np.flatnonzero(withheld[:asked])
    free = asked + np.flatnonzero(~withheld[asked:])
    classes = index["label"].astype(object).where(index["label"].notna(), None).to_numpy()
    codes, numbers = _columns(index, covariates)
    taken: list[int] = []
    left = np.ones(len(free), dtype=bool)
    for gap in gaps:
        fits = np.flatnonzero(left & (classes[free] == classes[gap]))
        if len(fits):
            other = (codes[free[fits]] != codes[gap]).sum(1)
            far = np.abs(numbers[free[fits]] - numbers[gap]).sum(1)
            best = fits[np.lexsort((fits, far, other))[0]]
            left[best] = False
            taken.append(int(free[best]))
    rows = np.concatenate([np.flatnonzero(~withheld[:asked]), np.sort(np.array(taken, dtype=np.int64))]).astype(np.int64)
    return Selection(asked, len(index), int(withheld.sum()), rows, len(taken))


def _columns(index: pd.DataFrame, covariates: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return categories as numbers (N, a), and continuous covariates in units of their spread (N, b), 0 where unknown."""
    codes, numbers = [np.zeros(len(index), np.int64)], [np.zeros(len(index))]
    for item in covariates:
        if item["name"] not in index:
            continue
        column = index[item["name"]]
        if item["kind"] == "categorical":
            codes.append(pd.factorize(column)[0].astype(np.int64))
        else:
            values = column.to_numpy(np.float64, na_value=np.nan)
            known = values[np.isfinite(values)]
            scaled = (values - known.mean()) / (known.std() or 1.0) if len(known) else np.zeros(len(values))
            numbers.append(np.where(np.isfinite(scaled), scaled, 0.0))
    return np.stack(codes, 1), np.stack(numbers, 1)


def asked(facts: Mapping[str, Any]) -> int:
    """Return how many images a Cohort was asked for: all it holds where its record does not tell."""
    return int(facts.get("asked") or facts["images"])
