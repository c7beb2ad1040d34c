"""The two kinds of distributed work: preparing a part of the Collection, and writing a shard of the Dataset.

A part is a fixed range of the Collection, so that nothing depends on the number of workers; its result is a file of
ready images in the record's `state/` and, written last, a file of outcomes that says that it is done. A shard is one
file of the store with one owner, gathered from the parts. Tasks are given paths and rows, never pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe import records, store
from medpipe.images import series, transforms, volume
from medpipe.images.reasons import Reason, Rejected
from medpipe.images.transforms import Stored
from medpipe.images.volume import Image
from medpipe.settings import ImagesSettings


@dataclass(frozen=True)
class Candidate:
    """What may become an image: one instance, or for volumes the instances of one series; with the segmentations of them."""

    instances: tuple[str, ...]
    files: tuple[str, ...]
    segmentations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One range of the Collection to prepare: candidates of DICOM, or rows of arrays."""

    number: int
    collection: Path
    state: Path
    settings: ImagesSettings
    candidates: tuple[Candidate, ...] = ()
    rows: range = range(0)
    instances: tuple[str, ...] = ()
    """Pseudonyms of `rows`."""

    @staticmethod
    def path(state: Path, number: int) -> Path:
        """Return the place of a part's files, less their suffix."""
        return state / f"part-{number:06d}"


@dataclass(frozen=True)
class Outcome:
    """What became of one image, or of one instance that is none."""

    image: str
    """Pseudonym: SOPInstanceUID of an image, of the first slice of a volume, or of what was left out."""
    reason: str | None = None
    digest: str = ""
    """SHA-256 of the stored pixels."""
    part: int = -1
    position: int = -1
    """Place in the part's file."""
    dtype: str = ""
    spacing_mm: tuple[float, ...] | None = None
    masked: bool = False


def prepare(part: Part) -> list[Outcome]:
    """Prepare one part, or return what an earlier run made of it."""
    file = Part.path(part.state, part.number)
    done = file.with_suffix(".json")
    if done.exists():
        return [Outcome(**outcome) for outcome in json.loads(done.read_text())]
    images: list[Stored] = []
    masks: list[Stored | None] = []
    outcomes: list[Outcome] = []
    for found in _from_arrays(part) if part.instances else _from_dicom(part):
        if isinstance(found, Outcome):
            outcomes.append(found)
            continue
        pixels, mask = found.pixels, found.mask
        outcomes.append(
            Outcome(
                found.image,
                digest=sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
                part=part.number,
                position=len(images),
                dtype=pixels.dtype.name,
                spacing_mm=found.spacing_mm,
                masked=mask is not None,
            )
        )
        images.append(pixels)
        masks.append(mask)
    if images:
        dtype = np.result_type(*images).name
        _save(file.with_suffix(".image.npy"), np.stack([widened(image, dtype) for image in images]))
        if any(mask is not None for mask in masks):
            empty = np.zeros((1, *images[0].shape[1:]), np.uint8)
            _save(file.with_suffix(".mask.npy"), np.stack([empty if mask is None else mask for mask in masks]))
    records.write_bytes(done, json.dumps([vars(outcome) for outcome in outcomes]).encode())
    return outcomes


@dataclass(frozen=True)
class _Ready:
    """One image in its final form: `pixels` (C, …) and `mask` (1, …) or None."""

    image: str
    pixels: Stored
    mask: Stored | None
    spacing_mm: tuple[float, ...] | None


def _from_dicom(part: Part) -> Iterator[_Ready | Outcome]:
    for candidate in part.candidates:
        files = {uid: part.collection / file for uid, file in zip(candidate.instances, candidate.files, strict=True)}
        drawn = [part.collection / file for file in candidate.segmentations]
        if part.settings.dimensions == 2:
            for uid, file in files.items():
                yield from _attempt((uid,), partial(volume.single, file, drawn, uid), part.settings)
            continue
        stacks, multi_frame, rejects = series.stacks(files)
        yield from (Outcome(uid, reason.name) for uid, reason in rejects)
        for uid in multi_frame:
            yield from _attempt((uid,), partial(volume.multi_frame, files[uid], drawn), part.settings)
        for stack in stacks:
            yield from _attempt(stack.instances, partial(volume.stacked, stack, files, drawn), part.settings)


def _attempt(instances: Sequence[str], read: Callable[[], Image], settings: ImagesSettings) -> Iterator[_Ready | Outcome]:
    """Yield the image that `read` gives, or one outcome for each of the instances that it would have been made of."""
    try:
        image = read()
        if settings.spacing_mm is not None and image.spacing_mm is None:
            raise Rejected(Reason.NO_SPACING)
        to = settings.spacing_mm or transforms.step(image.values.shape, image.aspect, settings.shape)
        pixels = on_grid(image.values[None], image.padding, image.aspect, to, settings)
        mask = None if image.mask is None else transforms.fit_nearest(image.mask[None], image.aspect, settings.shape, to)
        spacing = None if image.spacing_mm is None else (to,) * image.values.ndim
        yield _Ready(min(instances), pixels, mask, spacing)
    except Rejected as rejected:
        yield from (Outcome(uid, rejected.reason.name) for uid in instances)


def _from_arrays(part: Part) -> Iterator[_Ready | Outcome]:
    block = np.asarray(store.open_array(part.collection)[part.rows.start : part.rows.stop])
    rows, masked = slice(part.rows.start, part.rows.stop), store.has(part.collection, "mask")
    drawn = np.asarray(store.open_array(part.collection, "mask")[rows]) if masked else [None] * len(block)
    aspect = (1.0,) * (block.ndim - 2)
    to = transforms.step(block.shape[2:], aspect, part.settings.shape)
    for uid, pixels, labels in zip(part.instances, block, drawn, strict=True):
        try:
            mask = None if labels is None else transforms.fit_nearest(labels, aspect, part.settings.shape, to)
            yield _Ready(uid, on_grid(pixels, None, aspect, to, part.settings), mask, None)
        except Rejected as rejected:
            yield Outcome(uid, rejected.reason.name)


def on_grid(
    values: NDArray[Any], padding: NDArray[np.bool_] | None, aspect: Sequence[float], to: float, settings: ImagesSettings
) -> Stored:
    """Return `values` (C, …) on the model's grid as uint8 where they are 8-bit, else windowed as uint16."""
    dtype = "uint8" if values.dtype == np.uint8 else "uint16"
    if dtype == "uint16":
        ignored = None if padding is None else np.broadcast_to(padding, values.shape)
        levels = transforms.window(values, settings.percentile_low, settings.percentile_high, ignored)
    elif values.min() == values.max():
        raise Rejected(Reason.CONSTANT)
    elif values.shape[1:] == settings.shape and padding is None and set(aspect) == {to}:
        return np.ascontiguousarray(values)
    else:
        levels = values.astype(np.float32) / np.float32(255)
        levels = levels if padding is None else np.where(padding, np.float32(0), levels)
    fitted = transforms.fit(levels, aspect, settings.shape, to)
    stored = transforms.to_stored(fitted * 2 - 1, dtype)
    if stored.min() == stored.max():
        raise Rejected(Reason.CONSTANT)
    return stored


def widened(image: Stored, dtype: str) -> Stored:
    """Return 8-bit images on the scale of 16 bits where the others are 16-bit: 0 stays 0, 255 becomes 65535."""
    return image if image.dtype == dtype else image.astype(np.uint16) * np.uint16(257)


def _save(path: Path, array: NDArray[Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass(frozen=True)
class Shard:
    """One shard to write: `rows` of the store in `folder`, gathered from places (part, position) of prepared parts."""

    folder: Path
    state: Path
    rows: range
    places: tuple[tuple[int, int], ...]
    dtype: str
    masks: bool


def write(shard: Shard) -> None:
    """Write one shard of the store, unless an earlier run has."""
    done = shard.state / f"shard-{shard.rows.start:09d}.done"
    if done.exists():
        return
    images, masks = _gather(shard)
    store.write_shard(shard.folder, shard.rows, images, masks if shard.masks else None)
    records.write_bytes(done, b"")


def _gather(shard: Shard) -> tuple[Stored, Stored]:
    """Read the images and masks of a shard from the parts; no mask drawn is an empty one."""
    places = np.asarray(shard.places)
    images: list[Stored] = [np.empty(0, np.uint8)] * len(places)
    masks = images.copy()
    for number in np.unique(places[:, 0]):
        file = Part.path(shard.state, int(number))
        block = np.load(file.with_suffix(".image.npy"), mmap_mode="r")
        drawn = file.with_suffix(".mask.npy")
        labels = np.load(drawn, mmap_mode="r") if drawn.exists() else np.zeros((len(block), 1, *block.shape[2:]), np.uint8)
        for index in np.flatnonzero(places[:, 0] == number):
            images[index] = widened(np.asarray(block[places[index, 1]]), shard.dtype)
            masks[index] = np.asarray(labels[places[index, 1]])
    return np.stack(images), np.stack(masks)
