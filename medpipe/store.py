"""Sharded Zarr v3 arrays of images: the form that a Dataset, a Cohort and a Release share.

A store is a group `images.zarr` with the array `image` (N, C, H, W) or (N, C, D, H, W) and, where there are masks, the
array `mask` (N, 1, …). One shard has one owner: `write_shard` takes a whole shard and refuses anything else, since two
writers in one shard lose data without an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

from medpipe.errors import RecordError

NAME = "images.zarr"
Images = NDArray[np.unsignedinteger[Any]]


def create(
    folder: Path,
    images: int,
    image_shape: tuple[int, ...],
    dtype: str,
    *,
    shard: int,
    masks: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Create the store `folder/images.zarr` for `images` images of `image_shape` (C, H, W) or (C, D, H, W).

    `dtype` is "uint8" or "uint16"; `shard` is the number of images in a shard, which is one file. Doing it again with
    the same arguments changes nothing, so that an interrupted run can go on; with others it raises RecordError.
    """
    if has(folder, "image"):
        there = open_array(folder)
        wanted = ((images, *image_shape), np.dtype(dtype), (shard, *image_shape), masks)
        if (there.shape, there.dtype, there.shards, has(folder, "mask")) != wanted:
            raise RecordError(f"{folder / NAME} holds images of another form: give another folder or remove it")
        return
    group = zarr.create_group(folder / NAME, attributes=dict(attributes or {}), zarr_format=3, overwrite=True)
    space = ("z", "y", "x")[-(len(image_shape) - 1) :]
    shapes = {"mask": ("uint8", (1, *image_shape[1:]))} if masks else {}
    shapes["image"] = (dtype, image_shape)  # last: its presence says that the whole store was created
    for name, (kind, shape) in shapes.items():
        chunk = _chunk(shard, shape)
        group.create_array(
            name,
            shape=(images, *shape),
            dtype=kind,
            chunks=(chunk, *shape),
            shards=(shard, *shape),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=np.dtype(kind).itemsize),
            fill_value=0,
            dimension_names=("subject", "channel", *space),
        )


def _chunk(shard: int, shape: tuple[int, ...]) -> int:
    """Images in an inner chunk: the largest divisor of `shard` of at most 16 images and about 1 MiB."""
    limit = max(1, min(16, 2**20 // max(1, int(np.prod(shape)))))
    return max(size for size in range(1, limit + 1) if shard % size == 0)


def open_array(folder: Path, name: str = "image") -> zarr.Array[Any]:
    """Open the array `name` of `folder/images.zarr` for reading; raises RecordError where there is none."""
    try:
        return zarr.open_array(folder / NAME / name, mode="r", zarr_format=3)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise RecordError(f"{folder / NAME} has no array '{name}' that can be read ({type(error).__name__})") from None


def has(folder: Path, name: str) -> bool:
    """Say whether the store has the array `name`."""
    return (folder / NAME / name / "zarr.json").exists()


def attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of the store's group."""
    return dict(zarr.open_group(folder / NAME, mode="r").attrs)


def shards(folder: Path) -> list[range]:
    """Return the rows of each shard of the store, in order."""
    array = open_array(folder)
    size, n = (array.shards or array.chunks)[0], array.shape[0]
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def write_shard(folder: Path, rows: range, images: Images, masks: Images | None = None) -> None:
    """Write one whole shard: `images` (n, C, …) for exactly the rows of one shard, and `masks` where the store has them."""
    values = {"image": images} | ({} if masks is None else {"mask": masks})
    if has(folder, "mask") != ("mask" in values):
        raise ValueError(f"the store {'has' if masks is None else 'has no'} array 'mask': give masks exactly where there is one")
    arrays = {name: zarr.open_array(folder / NAME / name, mode="r+", zarr_format=3) for name in values}
    for name, value in values.items():
        array = arrays[name]
        size, n = (array.shards or array.chunks)[0], array.shape[0]
        if rows.start % size or rows.stop != min(rows.start + size, n) or value.shape != (len(rows), *array.shape[1:]):
            raise ValueError(f"rows {rows.start}:{rows.stop} with images {value.shape} are not one whole shard of {size} of {array.shape}")
        if value.dtype != array.dtype:
            raise ValueError(f"images are {value.dtype}, the store holds {array.dtype}")
    for name, value in values.items():
        # opening forgets the configuration, and a shard of zeros is a shard too: its file says that it was written
        arrays[name].with_config({"write_empty_chunks": True})[rows.start : rows.stop] = value


def consolidate(folder: Path) -> None:
    """Gather the metadata in one file, so that a remote reader opens the store with one request."""
    with warnings.catch_warnings():
        # zarr-python consolidates v3 as every reader of it does, and warns that the specification has not said so yet
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(folder / NAME, zarr_format=3)


def read(folder: Path, rows: NDArray[np.integer[Any]] | None = None, name: str = "image") -> Images:
    """Read the images of `rows` (all where None) into memory, whole shard by whole shard, in the order of `rows`."""
    array = open_array(folder, name)
    wanted = np.arange(array.shape[0]) if rows is None else np.asarray(rows)
    out = np.empty((len(wanted), *array.shape[1:]), dtype=array.dtype)
    for span, block in blocks(folder, name):
        here = np.flatnonzero((wanted >= span.start) & (wanted < span.stop))
        if len(here):
            out[here] = block()[wanted[here] - span.start]
    return out


def blocks(folder: Path, name: str = "image") -> Iterator[tuple[range, Any]]:
    """Yield (rows, read) per shard, where `read()` gives the shard's images: memory stays that of one shard."""
    array = open_array(folder, name)
    for rows in shards(folder):
        yield rows, lambda rows=rows: np.asarray(array[rows.start : rows.stop])
