"""Where a Cohort's masks come from: the training split of the Dataset, or a folder that somebody gives.

A mask is chosen for every sample before any is made, within its class where the source knows classes, and none is used
again before all were used. Shapes and labels that the model does not know are refused before the first sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medpipe import records, seeds, store
from medpipe.errors import InputError
from medpipe.images.dataset import Dataset
from medpipe.records import Record

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Masks:
    """Masks to condition on: label maps (n, 1, …), the class of each where it is known, and what identifies them."""

    labels: Labels
    classes: tuple[str | None, ...]
    role: str
    """In `made_from`: "dataset", or "masks" of a folder."""
    content: str

    def choose(self, asked: pd.Series[Any], seed: int) -> NDArray[np.int64]:
        """Choose a mask for each sample of the classes `asked`; raises InputError for a class that has none."""
        classes, out = np.array(self.classes, dtype=object), np.zeros(len(asked), np.int64)
        known = any(name is not None for name in self.classes)
        names = asked.astype(object).where(asked.notna(), None)
        for name in sorted(set(names), key=str):
            rows = np.flatnonzero(names == name) if name is not None else np.flatnonzero(names.isna())
            own = np.flatnonzero(classes == name) if known and name is not None else np.arange(len(classes))
            if not len(own):
                raise InputError(f"no mask belongs to the class '{name}': leave the class out by cohort.classes, or give masks of a folder")
            draw = seeds.generator(seed, "masks", str(name))
            out[rows] = np.concatenate([draw.permutation(own) for _ in range(-(-len(rows) // len(own)))])[: len(rows)]
        return out


def content(place: Path) -> tuple[str, str]:
    """Return the role and the digest by which masks enter `made_from`: of a Dataset its content, of a folder its masks'."""
    if (place / records.RECORD).exists():
        return "dataset", records.load(place, "Dataset").content
    found = _of_folder(place)
    return "masks", sha256(str(found.shape).encode() + found.tobytes()).hexdigest()


def read(place: Path, checkpoint: Record, model: Mapping[str, Any]) -> Masks:
    """Read the masks at `place` for a Checkpoint; raises InputError where they do not fit it.

    A Dataset has to be the one that the Checkpoint was trained on, and gives the masks of its training split. A folder holds
    `images.zarr` with an array `mask`, or one `.npy` or `.png` file per mask; it knows no classes.
    """
    role, digest = content(place)
    classes: tuple[str | None, ...]
    if role == "dataset":
        if checkpoint.made_from["inputs"].get("dataset") != digest:
            raise InputError(f"the Checkpoint was not trained on {place}: give its own Dataset, or a folder of masks")
        data = Dataset.open(place, verify=True)
        rows = data.rows("train")
        labels = np.asarray(data.masks(rows), np.uint8)
        names = data.index.set_index("row").loc[rows, "label"]
        classes = tuple(None if pd.isna(name) else str(name) for name in names)
    else:
        labels = _of_folder(place)
        classes = (None,) * len(labels)
    _fits(labels, model, place)
    drawn = labels.reshape(len(labels), -1).max(axis=1, initial=0) > 0
    if not drawn.any():
        raise InputError(f"the masks of {place} are all empty: give masks with labels")
    return Masks(labels[drawn], tuple(name for name, kept in zip(classes, drawn, strict=True) if kept), role, digest)


def _fits(labels: Labels, model: Mapping[str, Any], place: Path) -> None:
    wanted = (1, *model["shape"][1:])
    if labels.shape[1:] != wanted:
        raise InputError(f"the masks of {place} are {labels.shape[1:]} and the Checkpoint's images take {wanted}: resample them")
    strange = sorted(set(np.unique(labels).tolist()) - {0, *model["maps"]["labels"]})
    if strange:
        known = ", ".join(map(str, model["maps"]["labels"]))
        raise InputError(f"the masks of {place} have the label {strange[0]}, which no training mask has: use 0 (none), {known}")


def _of_folder(place: Path) -> Labels:
    """Read the masks of a folder, in the order of its files' names: (n, 1, …)."""
    if not place.is_dir():
        raise InputError(f"there is no folder of masks at {place}: give a folder with images.zarr, .npy or .png files")
    if store.has(place, "mask"):
        return np.asarray(store.read(place, name="mask"), np.uint8)
    files = sorted(path for path in place.iterdir() if path.suffix in (".npy", ".png"))
    if not files:
        raise InputError(f"{place} holds no masks: give a folder with images.zarr that has an array 'mask', or .npy or .png files")
    found = [_of_file(path, number) for number, path in enumerate(files, start=1)]
    if len(shapes := {mask.shape for mask in found}) > 1:
        raise InputError(f"the masks of {place} are of {len(shapes)} shapes: bring them on the grid of the Checkpoint's images")
    return np.stack(found)[:, None]


def _of_file(path: Path, number: int) -> Labels:
    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                values = np.asarray(image)
        else:
            values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, UnidentifiedImageError) as error:
        raise InputError(f"mask file {number} of {path.parent} cannot be read ({type(error).__name__}): give .npy or .png files") from None
    if values.dtype.kind not in "bui" or values.size == 0 or values.min() < 0 or values.max() > 255:
        raise InputError(f"mask file {number} of {path.parent} holds no labels of 0 to 255: give whole numbers")
    return values.astype(np.uint8)
