"""Synthetic images that somebody made: an .npz file, a Zarr store, or a folder of PNG, DICOM and NIfTI files, in a fixed order.

Nothing is believed of them but their pixels and, where given, their classes. An image that cannot be read keeps its place
in the order and gets a reason code.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from medpipe.errors import InputError
from medpipe.sources import arrays

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
VOLUMES = (".nii", ".nii.gz")
DICOM = frozenset({".dcm", ".dicom", ""})
TABLES = ("labels.csv", "index.csv")
BLOCK = 256
"""Images of an array that are read at once."""
_ARRAYS = ("images", "image", "images.zarr/image", "images.zarr/images")
_INDEX = ("subjects.parquet", "index.parquet")


@dataclass(frozen=True)
class Given:
    """One candidate: `values` (C, y, x) or (C, z, y, x) and the relative step along each axis, or why there are none."""

    values: NDArray[Any] | None
    aspect: tuple[float, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Candidates:
    """What was found at a path, before a pixel was read."""

    path: Path
    count: int
    labels: tuple[str | None, ...]
    """Class of each candidate by name, None where none was given."""
    files: tuple[Path, ...] = ()
    """The files in their order, of a folder."""

    @property
    def labelled(self) -> bool:
        """Whether any candidate has a class."""
        return any(label is not None for label in self.labels)

    def digest(self) -> str:
        """Return the SHA-256 of all bytes and names that the candidates are made of."""
        root = self.path if self.path.is_dir() else self.path.parent
        found = sorted(path for path in self.path.rglob("*") if path.is_file()) if self.path.is_dir() else [self.path]
        whole = sha256()
        for path in found:
            with path.open("rb") as file:
                content = sha256()
                while block := file.read(1 << 20):
                    content.update(block)
            whole.update(f"{path.relative_to(root).as_posix()}\0{content.hexdigest()}\n".encode())
        return whole.hexdigest()

    def images(self) -> Iterator[Given]:
        """Yield every candidate in order."""
        if self.files:
            yield from (_file(path) for path in self.files)
            return
        blocks = _npz(self.path) if self.path.is_file() else _zarr(self.path)
        for block in blocks:
            for values in block:
                finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
                yield Given(values, (1.0,) * (values.ndim - 1)) if finite else Given(None, reason="NOT_FINITE")


def find(path: Path, classes: Sequence[str]) -> Candidates:
    """Find the candidates at `path`; `classes` are the names of the Dataset's classes, in the order of their numbers.

    Raises InputError where there is nothing that can be read, or a class that the Dataset does not have.
    """
    if path.is_file():
        layout = arrays.layout(path)
        labels = arrays.column(path, layout, "labels")
        named = arrays.class_names(labels, list(classes)) if classes else None
        return Candidates(path, layout.rows, tuple(named or [None] * layout.rows))
    if not path.is_dir():
        raise InputError(f"{path} is not there: give an .npz file, a Zarr store, or a folder of images")
    if (array := _array(path)) is not None:
        return Candidates(path, int(array.shape[0]), _zarr_labels(path, int(array.shape[0]), classes))
    files = tuple(sorted(file for file in path.rglob("*") if file.is_file() and _readable(file)))
    if not files:
        raise InputError(f"{path} holds no PNG, DICOM or NIfTI file and no Zarr array 'images': give one of these")
    return Candidates(path, len(files), _folder_labels(path, files, classes), files)


def _readable(file: Path) -> bool:
    name = file.name.lower()
    return not name.startswith(".") and name != "dicomdir" and (file.suffix.lower() in PICTURES | DICOM or name.endswith(VOLUMES))


def _array(folder: Path) -> Any:
    """Open the array of images in a Zarr store, a Cohort or a Release; None where the folder is none."""
    for name in ("", *_ARRAYS):
        place = folder / name if name else folder
        if (place / "zarr.json").is_file() or (place / ".zarray").is_file():
            try:
                return zarr.open_array(place, mode="r")
            except (ValueError, KeyError, FileNotFoundError, TypeError):
                continue  # a group
    return None


def _zarr(folder: Path) -> Iterator[NDArray[Any]]:
    """Yield blocks (n, C, …): channels may come first or last, or be left out."""
    array = _array(folder)
    for start in range(0, array.shape[0], BLOCK):
        block = np.asarray(array[start : start + BLOCK])
        if block.ndim >= 4 and block.shape[-1] in (3, 4) and block.shape[1] not in (1, 3):
            block = np.moveaxis(block[..., :3], -1, 1)
        elif block.ndim == 3 or (block.ndim == 4 and block.shape[1] not in (1, 3)):
            block = block[:, None]
        yield block


def _zarr_labels(folder: Path, count: int, classes: Sequence[str]) -> tuple[str | None, ...]:
    for place in (folder, folder.parent):
        for name in _INDEX:
            if (place / name).is_file():
                table = pd.read_parquet(place / name)
                if "label" in table and len(table) == count:
                    return _named(np.array([None if pd.isna(label) else str(label) for label in table["label"]], dtype=object), classes)
    if (folder / "labels").is_dir():
        labels = np.asarray(zarr.open_array(folder / "labels", mode="r")).reshape(-1)
        if len(labels) != count:
            raise InputError(f"{folder} holds {count} images and {len(labels)} labels: give each image one")
        return tuple(arrays.class_names(labels, list(classes)) or [None] * count) if classes else (None,) * count
    return (None,) * count


def _folder_labels(folder: Path, files: Sequence[Path], classes: Sequence[str]) -> tuple[str | None, ...]:
    """Take each file's class from a table with the columns `file` and `label`, else from its folder's name."""
    for name in TABLES:
        if (folder / name).is_file():
            table = pd.read_csv(folder / name, dtype=str)
            if not {"file", "label"} <= set(table):
                raise InputError(f"{folder / name} needs the columns 'file' and 'label'")
            said = dict(zip(table["file"], table["label"], strict=True))
            return _named(np.array([said.get(file.relative_to(folder).as_posix()) for file in files], dtype=object), classes)
    return tuple(file.parent.name if file.parent.name in classes else None for file in files)


def _named(labels: NDArray[Any], classes: Sequence[str]) -> tuple[str | None, ...]:
    known = {str(number): name for number, name in enumerate(classes)} | {name: name for name in classes}
    unknown = {label for label in labels if label is not None and label not in known}
    if unknown and classes:
        raise InputError(
            f"{len(unknown)} of the candidates' classes are none of the Dataset's ({', '.join(classes)}): "
            "use its names, or their numbers from 0"
        )
    return tuple(known.get(label) if label is not None else None for label in labels)


def _npz(path: Path) -> Iterator[NDArray[Any]]:
    layout = arrays.layout(path)
    yield from arrays.images(path, layout, np.ones(layout.rows, dtype=bool))


def _file(path: Path) -> Given:
    """Read one file; whatever is wrong with it becomes a reason code."""
    try:
        if path.suffix.lower() in PICTURES:
            return _picture(path)
        return _nifti(path) if path.name.lower().endswith(VOLUMES) else _dicom(path)
    except MemoryError:
        raise
    except Exception:  # decoders raise whatever they like
        return Given(None, reason="UNREADABLE")


def _picture(path: Path) -> Given:
    from PIL import Image

    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        grey = picture.mode in ("1", "L", "LA") or picture.mode.startswith("I") or picture.mode == "F"
        values = np.asarray(picture.convert("L") if picture.mode in ("1", "LA") else picture if grey else picture.convert("RGB"))
    if values.dtype == np.int32:
        values = values.astype(np.uint16)
    return Given(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0), (1.0, 1.0))


def _nifti(path: Path) -> Given:
    """Read a volume as (z, y, x) to the head, the back and the left, as a Dataset's volumes lie; one slice is an image."""
    import nibabel

    volume = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asarray(volume.dataobj, dtype=np.float32)
    values = values[..., 0] if values.ndim == 4 else values
    steps = tuple(float(step) for step in volume.header.get_zooms()[:3])
    values = np.transpose(values, (2, 1, 0))[:, ::-1, ::-1]  # from right, anterior, superior
    if 1 in values.shape:
        kept = [axis for axis in range(3) if values.shape[axis] != 1][-2:]
        return Given(np.squeeze(values)[None], tuple((steps[2], steps[1], steps[0])[axis] for axis in kept))
    return Given(np.ascontiguousarray(values)[None], (steps[2], steps[1], steps[0]))


def _dicom(path: Path) -> Given:
    from medpipe.images import volume
    from medpipe.images.reasons import Rejected

    try:
        image = volume.single(path, (), "")
    except Rejected as rejected:
        return Given(None, reason=rejected.reason.name)
    return Given(image.values[None], image.aspect)
