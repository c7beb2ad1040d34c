"""Arrays into a Collection: keyed pseudonyms for rows and patients, pixels in a sharded store.

A file of arrays has no headers to clean. Its pixels are not searched for text: such files are made for research, and
the audit says that nothing was searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medpipe import store
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.table import RESERVED, VALUES_MAX
from medpipe.errors import InputError
from medpipe.progress import Progress
from medpipe.recipe import Recipe
from medpipe.records import write_json
from medpipe.sources import arrays
from medpipe.sources.arrays import Layout

SHARD_BYTES = 32 * 2**20


def write(source: Path, out: Path, recipe: Recipe, names: Pseudonyms, progress: Progress) -> dict[str, Any]:
    """Write the arrays' Collection under `out` and return its facts."""
    layout = arrays.layout(source)
    rows = _rows(source, layout, recipe, names)
    dtype, offset, factor = arrays.scaling(source, layout)
    image_bytes = int(np.prod(layout.image_shape)) * np.dtype(dtype).itemsize
    shard = max(1, min(512, SHARD_BYTES // image_bytes))
    store.create(out, layout.rows, layout.image_shape, dtype, shard=shard)
    done = 0
    for block in _blocks(arrays.images(source, layout), shard):
        stored = block if block.dtype == dtype else np.rint((block.astype(np.float64) + offset) * factor).astype(dtype)
        store.write_shard(out, range(done, done + len(block)), stored)
        done += len(block)
        progress("read arrays", done, layout.rows)
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("instance", pa.string()),
            ("patient", pa.string()),
            ("split", pa.string()),
            ("order", pa.int64()),
            ("label", pa.string()),
        ]
        + [(name, pa.float64()) for name in recipe.source.continuous]
        + [(name, pa.string()) for name in recipe.source.categorical]
    )
    pq.write_table(pa.Table.from_pydict(rows, schema=schema), out / "index.parquet")
    write_json(out / "audit.json", {"images": layout.rows, "pixels searched for text": 0, "value_offset": offset, "value_factor": factor})
    return _facts(layout, rows, recipe, dtype)


def _facts(layout: Layout, rows: dict[str, list[Any]], recipe: Recipe, dtype: str) -> dict[str, Any]:
    found = {label for label in rows["label"] if label is not None}
    return {
        "form": "arrays",
        "instances": layout.rows,
        "patients": len(set(rows["patient"])),
        "quarantined": {},
        "set_aside": {},
        "licence": recipe.source.licence,
        "classes": list(recipe.source.classes) or sorted(found, key=lambda name: (len(name), name) if name.isdigit() else (99, name)),
        "continuous": list(recipe.source.continuous),
        "categorical": list(recipe.source.categorical),
        "masks": False,
        "labelled": sum(label is not None for label in rows["label"]),
        "shape": list(layout.image_shape),
        "dtype": dtype,
        "patients_known": any(f"{prefix}patients" in layout.names for prefix, _, _ in layout.parts),
        "splits": {split or "none": n for _, split, n in layout.parts},
    }


def _rows(source: Path, layout: Layout, recipe: Recipe, names: Pseudonyms) -> dict[str, list[Any]]:
    """Return the columns of the index. A row is known by its place, so that one file gives one set of pseudonyms."""
    labels = arrays.class_names(arrays.column(source, layout, "labels"), recipe.source.classes)
    order = arrays.column(source, layout, "source_index")
    patients = arrays.column(source, layout, "patients")
    places = [f"{prefix}{index}" for prefix, _, rows in layout.parts for index in range(rows)]
    if order is not None and order.dtype.kind not in "ui":
        raise InputError(f"'source_index' is {order.dtype.name}: whole numbers are needed")
    out: dict[str, list[Any]] = {
        "row": list(range(layout.rows)),
        "instance": [f"I{names.alias('array row', place, 16)}" for place in places],
        "patient": [names.patient(f"array {who}") for who in (places if patients is None else patients.tolist())],
        "split": [split for _, split, rows in layout.parts for _ in range(rows)],
        "order": list(range(layout.rows)) if order is None else [int(value) for value in order],
        "label": [None] * layout.rows if labels is None else list(labels),
    }
    for name in (*recipe.source.continuous, *recipe.source.categorical):
        out[name] = _covariate(source, layout, name, continuous=name in recipe.source.continuous)
    return out


def _covariate(source: Path, layout: Layout, name: str, *, continuous: bool) -> list[Any]:
    found = arrays.column(source, layout, name) if name not in RESERVED else None
    if found is None:
        raise InputError(f"the covariate '{name}' is no array of the .npz file, or a name that the index uses itself: correct its name")
    if len(found) != layout.rows or (continuous and found.dtype.kind not in "uif"):
        raise InputError(f"the array '{name}' must hold one {'number' if continuous else 'value'} for each image: correct it")
    if continuous:
        numbers = np.where(np.isfinite(found), found, np.nan).astype(float)
        return [None if np.isnan(value) else (min(value, 90.0) if name.casefold() == "age" else value) for value in numbers.tolist()]
    if len(np.unique(found)) > VALUES_MAX:
        raise InputError(f"the array '{name}' has more than {VALUES_MAX} different values, which is no category: name another")
    return [str(value) for value in found.tolist()]


def _blocks(parts: Iterator[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """Cut the images of all splits into blocks of one shard each, across the borders of splits."""
    rest: list[NDArray[Any]] = []
    held = 0
    for part in parts:
        at = 0
        while at < len(part):
            taken = part[at : at + size - held]
            rest.append(taken)
            held, at = held + len(taken), at + len(taken)
            if held == size:
                yield np.concatenate(rest)
                rest, held = [], 0
    if rest:
        yield np.concatenate(rest)
