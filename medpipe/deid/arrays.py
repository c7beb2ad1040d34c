"""Arrays into a Collection: keyed pseudonyms for rows and patients, pixels in a sharded store.

A file of arrays has no headers to clean. Its pixels are not searched for text: such files are made for research, and
the audit says that nothing was searched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medpipe import store
from medpipe.deid import consent
from medpipe.deid.consent import Said, Standing
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.table import RESERVED, VALUES_MAX
from medpipe.errors import InputError
from medpipe.progress import Progress
from medpipe.recipe import Recipe
from medpipe.records import write_json
from medpipe.sources import arrays
from medpipe.sources.arrays import Layout

SHARD_BYTES = 32 * 2**20


def people(source: Path, names: Pseudonyms) -> dict[str, Said]:
    """Return the patients of the arrays, whose file says nothing of consent."""
    return dict.fromkeys(_patients(source, arrays.layout(source), names), Said())


def write(source: Path, out: Path, recipe: Recipe, names: Pseudonyms, standing: Standing, progress: Progress) -> dict[str, Any]:
    """Write the arrays' Collection under `out`, without the rows of patients who may not be used, and return its facts."""
    layout = arrays.layout(source)
    rows = _rows(source, layout, recipe, names)
    judged = standing.judged(rows["patient"])
    used = np.array([judged[patient] is None for patient in rows["patient"]])
    counts = Counter(str(consent.reason(why)) for patient in rows["patient"] if (why := judged[patient]) is not None)
    rows = {name: [value for value, keep in zip(values, used, strict=True) if keep] for name, values in rows.items()}
    images = rows["row"] = list(range(int(used.sum())))
    dtype, offset, factor = arrays.scaling(source, layout, used)
    image_bytes = int(np.prod(layout.image_shape)) * np.dtype(dtype).itemsize
    shard = max(1, min(512, SHARD_BYTES // image_bytes))
    store.create(out, len(images), layout.image_shape, dtype, shard=shard, masks=layout.masked)
    done = 0
    drawn = _blocks(arrays.masks(source, layout, used), shard) if layout.masked else repeat(None)
    for block, masks in zip(_blocks(arrays.images(source, layout, used), shard), drawn, strict=False):
        stored = block if block.dtype == dtype else np.rint((block.astype(np.float64) + offset) * factor).astype(dtype)
        store.write_shard(out, range(done, done + len(block)), stored, masks)
        done += len(block)
        progress("read arrays", done, len(images))
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
    audit = {"images": layout.rows, "set_aside": dict(sorted(counts.items())), "pixels searched for text": 0}
    write_json(out / "audit.json", audit | {"value_offset": offset, "value_factor": factor})
    return _facts(layout, rows, recipe, dtype) | {"set_aside": audit["set_aside"], "consent": standing.facts(judged)}


def _facts(layout: Layout, rows: dict[str, list[Any]], recipe: Recipe, dtype: str) -> dict[str, Any]:
    found = {label for label in rows["label"] if label is not None}
    return {
        "form": "arrays",
        "instances": len(rows["row"]),
        "patients": len(set(rows["patient"])),
        "quarantined": {},
        "set_aside": {},
        "licence": recipe.source.licence,
        "classes": list(recipe.source.classes) or sorted(found, key=lambda name: (len(name), name) if name.isdigit() else (99, name)),
        "continuous": list(recipe.source.continuous),
        "categorical": list(recipe.source.categorical),
        "masks": layout.masked,
        "labelled": sum(label is not None for label in rows["label"]),
        "shape": list(layout.image_shape),
        "dtype": dtype,
        "patients_known": any(f"{prefix}patients" in layout.names for prefix, _, _ in layout.parts),
        "splits": {split or "none": rows["split"].count(split) for _, split, _ in layout.parts},
    }


def _rows(source: Path, layout: Layout, recipe: Recipe, names: Pseudonyms) -> dict[str, list[Any]]:
    """Return the columns of the index. A row is known by its place, so that one file gives one set of pseudonyms."""
    labels = arrays.class_names(arrays.column(source, layout, "labels"), recipe.source.classes)
    order = arrays.column(source, layout, "source_index")
    places = _places(layout)
    if order is not None and order.dtype.kind not in "ui":
        raise InputError(f"'source_index' is {order.dtype.name}: whole numbers are needed")
    out: dict[str, list[Any]] = {
        "row": list(range(layout.rows)),
        "instance": [f"I{names.alias('array row', place, 16)}" for place in places],
        "patient": _patients(source, layout, names),
        "split": [split for _, split, rows in layout.parts for _ in range(rows)],
        "order": list(range(layout.rows)) if order is None else [int(value) for value in order],
        "label": [None] * layout.rows if labels is None else list(labels),
    }
    for name in (*recipe.source.continuous, *recipe.source.categorical):
        out[name] = _covariate(source, layout, name, continuous=name in recipe.source.continuous)
    return out


def _places(layout: Layout) -> list[str]:
    return [f"{prefix}{index}" for prefix, _, rows in layout.parts for index in range(rows)]


def _patients(source: Path, layout: Layout, names: Pseudonyms) -> list[str]:
    """Return the pseudonym of each row's patient; where the file names none, every row is one."""
    patients = arrays.column(source, layout, "patients")
    return [names.patient(consent.of_array(str(who))) for who in (_places(layout) if patients is None else patients.tolist())]


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
