"""Pictures of stored images for people: grey or colour tiles, enlarged whole pixel by whole pixel, as PNG bytes.

Everything here shows what it is given: callers pass synthetic images only, and never rows that the gates withheld.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medpipe import records, store

Picture = NDArray[np.uint8]
ALL = "all"
"""The one row of a cohort without classes."""
_GAP, _MARGIN, _TILE_MIN = 2, 14, 64


def pictures(images: store.Images) -> Picture:
    """Turn stored images (N, C, H, W) or (N, C, D, H, W) into 8-bit pictures (N, H, W) or (N, H, W, 3).

    Volumes show their middle slice; three channels are shown as colour, of any other number the first.
    """
    flat = images[:, :, images.shape[2] // 2] if images.ndim == 5 else images  # (N, C, H, W)
    if flat.dtype == np.uint16:
        flat = flat // 257  # 65535 -> 255
    shown = flat.astype(np.uint8)
    return np.moveaxis(shown, 1, -1) if shown.shape[1] == 3 else shown[:, 0]


def strip(images: store.Images, columns: int | None = None) -> bytes:
    """Draw stored images in one row (or in rows of `columns`) as a PNG at their own resolution."""
    return _png(Image.fromarray(_tiles(pictures(images), columns or max(1, len(images)))))


def sample_rows(cohort: Path, per_class: int = 8, withheld: Collection[int] = ()) -> dict[str, NDArray[np.int64]]:
    """Return the first `per_class` rows of each class of a Cohort in its own order: nobody chose them.

    The one key is `ALL` where the cohort has no classes; a class without images is left out.
    """
    classes = records.load(cohort, "Cohort").facts.get("classes") or []
    index = pd.read_parquet(cohort / "index.parquet")
    index = index[~index["row"].isin(list(withheld))]
    groups = {str(name): index[index["label"] == name] for name in classes} if classes else {ALL: index}
    return {name: np.sort(group["row"].to_numpy(dtype=np.int64))[:per_class] for name, group in groups.items() if len(group)}


def samples(cohort: Path, per_class: int = 8, withheld: Collection[int] = ()) -> dict[str, store.Images]:
    """Return the images (n, C, …) of `sample_rows`, by class."""
    return {name: store.read(cohort, rows) for name, rows in sample_rows(cohort, per_class, withheld).items()}


def sample_grid(cohort: Path, per_class: int = 8, withheld: Collection[int] = ()) -> bytes:
    """Draw the first images of each class of a Cohort as one PNG: a row per class under the class's name."""
    return grid(samples(cohort, per_class, withheld), per_class)


def grid(images: Mapping[str, store.Images], columns: int) -> bytes:
    """Draw stored images (n, C, …) by name as one PNG: for each name a band of `columns` tiles under it."""
    rows = {name: _tiles(pictures(some), columns) for name, some in images.items()}
    if not rows:
        return _png(Image.new("L", (_TILE_MIN, _TILE_MIN)))
    widest = max(tile.shape[1] for tile in rows.values())
    factor = max(1, -(-_TILE_MIN * columns // widest))
    bands = [_band(name, tile, factor) for name, tile in rows.items()]
    page = Image.new("RGB", (max(band.width for band in bands), sum(band.height for band in bands)), "white")
    top = 0
    for band in bands:
        page.paste(band, (0, top))
        top += band.height
    return _png(page)


def _band(name: str, tile: Picture, factor: int) -> Image.Image:
    picture = Image.fromarray(tile).convert("RGB")
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    band = Image.new("RGB", (picture.width, picture.height + _MARGIN + 2 * _GAP), "white")
    ImageDraw.Draw(band).text((_GAP, 1), name.encode("ascii", "replace").decode(), fill="black")
    band.paste(picture, (0, _MARGIN))
    return band


def _tiles(shown: Picture, columns: int) -> Picture:
    """Lay pictures (N, H, W[, 3]) out in rows of `columns` with a thin white line between."""
    n, height, width = shown.shape[:3]
    lines = max(1, -(-n // columns))
    across = min(columns, max(n, 1))
    out = np.full((lines * (height + _GAP) - _GAP, across * (width + _GAP) - _GAP, *shown.shape[3:]), 255, np.uint8)
    for i, picture in enumerate(shown):
        y, x = (i // columns) * (height + _GAP), (i % columns) * (width + _GAP)
        out[y : y + height, x : x + width] = picture
    return out


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    options: dict[str, Any] = {"optimize": True}
    picture.save(out, "PNG", **options)
    return out.getvalue()
