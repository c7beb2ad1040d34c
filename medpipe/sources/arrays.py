"""A .npz file of arrays as a source: MedMNIST's six arrays, or plain `images` and `labels`.

MedMNIST's form has `{train,val,test}_images` and `{train,val,test}_labels`; the plain form has `images`, and may have
`labels`, `source_index` (the order in which neighbouring rows may show one patient) and `patients`. Images are grey
(N, H, W) or (N, D, H, W), or in colour with a last axis of 3. Either form may have `masks` (N, H, W) or (N, D, H, W): label maps
of whole numbers from 0, which is background, to 255. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.errors import InputError

SPLITS = {"train": "train", "val": "validation", "test": "test"}
INTEGERS = ("uint8", "uint16", "int16")
Values = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """What the file holds, read from its headers without its pixels."""

    parts: tuple[tuple[str, str | None, int], ...]
    """(prefix of the arrays' names, split that it means, rows), in the order of the rows of the whole."""
    image_shape: tuple[int, ...]
    """Channel first: (C, H, W) or (C, D, H, W)."""
    colour: bool
    dtype: str
    names: frozenset[str]

    @property
    def rows(self) -> int:
        return sum(rows for _, _, rows in self.parts)

    @property
    def masked(self) -> bool:
        """Whether label maps lie beside the images."""
        return any(f"{prefix}masks" in self.names for prefix, _, _ in self.parts)


def check(source: Path) -> None:
    """Refuse what is not a .npz file; quick."""
    if not source.is_file():
        raise InputError(
            "the source is not a file that exists, and source.form 'arrays' needs one .npz file: give that, or a folder as 'dicom'"
        )
    if not zipfile.is_zipfile(source):
        raise InputError("the source is not a .npz file: save the arrays with numpy.savez_compressed")


def layout(source: Path) -> Layout:
    """Read the names, shapes and types of the arrays; raises InputError with the array, the rule and the remedy."""
    check(source)
    headers = _headers(source)
    prefixes = [(f"{name}_", split) for name, split in SPLITS.items() if f"{name}_images" in headers]
    parts: list[tuple[str, str | None]] = [*prefixes] if prefixes else [("", None)]
    if not prefixes and "images" not in headers:
        raise InputError("the .npz file holds neither 'images' nor 'train_images': name the arrays so (see docs/deidentification.md)")
    shapes = {headers[f"{prefix}images"][0][1:] for prefix, _ in parts}
    types = {headers[f"{prefix}images"][1] for prefix, _ in parts}
    if len(shapes) > 1 or len(types) > 1:
        raise InputError("the splits of the .npz file hold images of different shapes or types: make them equal")
    for prefix, _ in parts:
        _matching(headers, prefix)
    shape, dtype = shapes.pop(), types.pop()
    colour = len(shape) > 2 and shape[-1] == 3
    space = shape[:-1] if colour else shape
    if dtype.kind == "O":
        raise InputError("the images are stored as Python objects, which are never unpickled: store them as one array of numbers")
    if len(space) not in (2, 3) or min(space, default=0) < 1:
        raise InputError(f"the images have the shape {(None, *shape)}: (N, H, W), (N, D, H, W), or either with a last axis of 3 is needed")
    _masks_fit(headers, [prefix for prefix, _ in parts], space)
    if dtype.kind not in "uif" or (dtype.kind in "ui" and dtype.name not in INTEGERS):
        raise InputError(f"the images are stored as {dtype.name}: store {', '.join(INTEGERS)}, or floats from 0 to 1 or 0 to 255")
    counted = tuple((prefix, split, headers[f"{prefix}images"][0][0]) for prefix, split in parts)
    if not sum(rows for _, _, rows in counted):
        raise InputError("the .npz file holds no image: give one with at least one")
    return Layout(counted, (3 if colour else 1, *space), colour, dtype.name, frozenset(headers))


def _matching(headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], prefix: str) -> None:
    """Check that what stands beside the images has one entry for each."""
    rows = headers[f"{prefix}images"][0][:1]
    if not rows:
        raise InputError(f"'{prefix}images' is a single number: an array of images is needed")
    for name in ("labels", "source_index", "patients"):
        if f"{prefix}{name}" not in headers:
            continue
        shape, dtype = headers[f"{prefix}{name}"]
        if dtype.kind == "O":
            raise InputError(f"'{prefix}{name}' is stored as Python objects, which are never unpickled: store numbers or text")
        if shape[:1] != rows:
            raise InputError(
                f"'{prefix}images' has {rows[0]} rows and '{prefix}{name}' {shape[0] if shape else 0}: give each image one entry"
            )
        if shape[1:] not in ((), (1,)):
            raise InputError(f"'{prefix}{name}' has the shape {shape}: one value for each image is needed (no multiple labels)")


def _masks_fit(headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], prefixes: list[str], space: tuple[int, ...]) -> None:
    """Check that the label maps, where there are any, are of all splits and of the images' form."""
    there = [prefix for prefix in prefixes if f"{prefix}masks" in headers]
    missing = sorted(set(prefixes) - set(there))
    if there and missing:
        raise InputError(f"'{missing[0]}masks' is missing, and other splits have it: give it for all or for none")
    for prefix in there:
        shape, dtype = headers[f"{prefix}masks"]
        rows = headers[f"{prefix}images"][0][0]
        if shape != (rows, *space):
            raise InputError(f"'{prefix}masks' has the shape {shape} and the images need {(rows, *space)}: give each image its label map")
        if dtype.kind not in "uib":
            raise InputError(f"'{prefix}masks' is stored as {dtype.name}: whole numbers from 0 to 255 are needed")


def _headers(source: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Read shape and type of each array in the file without its values."""
    out: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                    out[name.removesuffix(".npy")] = (tuple(int(side) for side in shape), dtype)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, SyntaxError):
        raise InputError("the .npz file is damaged or holds something that is not an array: save it again") from None
    return out


def column(source: Path, layout: Layout, name: str) -> Values | None:
    """Return one value for each row, such as `labels` or `source_index`, over all splits; None where no split has it."""
    if not any(f"{prefix}{name}" in layout.names for prefix, _, _ in layout.parts):
        return None
    missing = [prefix for prefix, _, _ in layout.parts if f"{prefix}{name}" not in layout.names]
    if missing:
        raise InputError(f"'{missing[0]}{name}' is missing, and other splits have it: give it for all or for none")
    return np.concatenate([_array(source, f"{prefix}{name}").reshape(-1) for prefix, _, _ in layout.parts])


def images(source: Path, layout: Layout, used: NDArray[np.bool_]) -> Iterator[Values]:
    """Yield the images of each split, channel first (n, C, …), as stored, of the rows `used`; raises InputError for no pixels."""
    start = 0
    for prefix, _, rows in layout.parts:
        keep, start = used[start : start + rows], start + rows
        values = _array(source, f"{prefix}images")
        values = values if keep.all() else values[keep]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(f"'{prefix}images' holds NaN or infinite values: replace or drop those images")
        yield np.moveaxis(values, -1, 1) if layout.colour else values[:, None]


def masks(source: Path, layout: Layout, used: NDArray[np.bool_]) -> Iterator[NDArray[np.uint8]]:
    """Yield the label maps (n, 1, …) of each split, of the rows `used`; raises InputError for a number beyond 0 to 255."""
    start = 0
    for prefix, _, rows in layout.parts:
        keep, start = used[start : start + rows], start + rows
        values = _array(source, f"{prefix}masks")[keep]
        if values.size and values.dtype != np.bool_ and (values.min() < 0 or values.max() > 255):
            raise InputError(f"'{prefix}masks' holds numbers beyond 0 to 255: number the labels from 1, with 0 for the background")
        yield values[:, None].astype(np.uint8)


def scaling(source: Path, layout: Layout, used: NDArray[np.bool_]) -> tuple[str, float, float]:
    """Return (stored type, offset, factor) so that stored = (value + offset) · factor keeps the order of all values.

    uint8 and uint16 stay; int16 is moved so that its least value is 0; floats from 0 to 1 become uint16, floats from 0
    to 255 become uint8 where they are whole numbers and uint16 elsewhere.
    """
    if layout.dtype in ("uint8", "uint16"):
        return layout.dtype, 0.0, 1.0
    low, high, whole = np.inf, -np.inf, True
    for values in images(source, layout, used):
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            whole = whole and (values.dtype.kind != "f" or bool((values == np.rint(values)).all()))
    if layout.dtype == "int16":
        return "uint16", -low if low < 0 else 0.0, 1.0
    if low < 0 or high > 255:
        raise InputError(f"the images are floats from {low:.4g} to {high:.4g}: scale them to 0 to 1 or to 0 to 255")
    if high <= 1:
        return "uint16", 0.0, 65535.0
    return ("uint8", 0.0, 1.0) if whole else ("uint16", 0.0, 257.0)


def _array(source: Path, name: str) -> Values:
    try:
        with np.load(source, allow_pickle=False) as file:
            return np.asarray(file[name])
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError):
        raise InputError(f"'{name}' cannot be read from the .npz file: it is damaged, or stored as Python objects; save it again") from None


def class_names(labels: Values | None, classes: list[str]) -> list[str | None] | None:
    """Return each row's class by name; raises InputError for a label that is no class."""
    if labels is None:
        return None
    if labels.dtype.kind == "U":
        unknown = len(set(labels.tolist()) - set(classes)) if classes else 0
        if unknown:
            raise InputError(f"{unknown} values of the labels are not in source.classes: add them, or leave source.classes empty")
        if not all(re.fullmatch(r"[\w .+/()-]{1,64}", str(label)) for label in set(labels.tolist())):
            raise InputError("the labels are text that is no class name: use numbers, or names of at most 64 letters and digits")
        return [str(label) for label in labels]
    if labels.dtype.kind not in "uib" and not (labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())):
        raise InputError(f"the labels are {labels.dtype.name}: whole numbers from 0 are needed")
    numbers = labels.astype(np.int64)
    if numbers.min(initial=0) < 0 or (classes and numbers.max(initial=0) >= len(classes)):
        raise InputError(
            f"the labels run from {numbers.min()} to {numbers.max()}, and source.classes names {len(classes)}: name every class"
        )
    return [classes[number] if classes else str(number) for number in numbers]
