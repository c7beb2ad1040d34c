"""The reader of a Dataset: for training, gates and anyone who wants its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe import records, store
from medpipe.records import Record

Split = Literal["train", "validation", "holdout", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "holdout", "test")
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """A finished Dataset: its record and its index in memory, its pixels on disk.

    `index` has one row per image: `row` (position in the arrays), `image`, `patient` (pseudonyms), `split`, `label` and
    one column per covariate, null where it is not known.
    """

    record: Record
    index: pd.DataFrame

    @classmethod
    def open(cls, path: Path | str, verify: bool = False) -> Dataset:
        """Open the Dataset at `path`; with `verify`, digest its payload again. Raises RecordError."""
        record = records.load(path, "Dataset", verify=verify)
        return cls(record, pd.read_parquet(record.path / "index.parquet"))

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the record says of itself: images, shape, dtype, classes, covariates, splits, what was excluded."""
        return self.record.facts

    def rows(self, split: Split) -> Rows:
        """Return the rows of `split`, in order."""
        if split not in SPLITS:
            raise ValueError(f"there is no split '{split}': there are {', '.join(SPLITS)}")
        return self.index.loc[self.index["split"] == split, "row"].to_numpy(dtype=np.int64)

    def images(self, rows: NDArray[np.integer[Any]] | None = None) -> store.Images:
        """Read the stored images of `rows` (all where None), in their order: (n, C, H, W) or (n, C, D, H, W)."""
        return store.read(self.record.path, rows)

    def masks(self, rows: NDArray[np.integer[Any]] | None = None) -> store.Images:
        """Read the masks of `rows` (all where None): (n, 1, …) uint8. Raises RecordError where there are none."""
        return store.read(self.record.path, rows, "mask")
