"""Slices put together to volumes in which a face can be looked for, whatever their order, tilt and gaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels

from medpipe.deid.heads import View
from medpipe.deid.reading import read
from medpipe.deid.registration import STEP_MM
from medpipe.sources.folder import Reason

SLICES_MIN, EXTENT_MIN_MM, GAP_MAX_MM = 8, 60.0, 15.0
"""Fewer slices, a thinner stack or wider gaps give no surface that could be told as a face, or matched."""
CT_RANGE = (-1000.0, 1500.0)
"""HU; beyond it are padding and metal."""
SAME_MM = 0.05


@dataclass(frozen=True)
class Stack:
    """Frames of one series in one orientation, in the order of their places, one for each place."""

    frames: tuple[tuple[View, int], ...]
    along: NDArray[np.float64]
    """Place of each frame along the normal in mm."""
    members: tuple[View, ...]
    """All objects of the stack, by ordinal, also those that lie where another does, as in a series over time."""

    @property
    def solid(self) -> bool:
        """Whether the slices make a volume."""
        return len(self.along) >= SLICES_MIN and bool(np.ptp(self.along) >= EXTENT_MIN_MM and np.diff(self.along).max() <= GAP_MAX_MM)

    @property
    def order(self) -> tuple[bool, float, int, int]:
        """Sorts the finest volumes first, and those of positron emission, which show anatomy least, last."""
        view = self.frames[0][0]
        return view.modality == "PT", round(max(*view.step, float(np.diff(self.along).max())), 3), -len(self.along), view.ordinal


def stacks(views: Iterable[View]) -> list[Stack]:
    """Sort the frames of placed views into stacks."""
    groups: dict[tuple[object, ...], list[tuple[float, View, int]]] = defaultdict(list)
    for view in sorted(views, key=lambda view: view.ordinal):
        if view.planes is None:
            continue
        for number, (position, row, column) in enumerate(view.planes):
            normal = np.cross(row, column)
            key = (view.series, view.shape, np.round(view.step, 3).tolist(), np.round(normal, 2).tolist(), np.round(row, 2).tolist())
            groups[tuple(map(str, key))].append((float(position @ normal), view, number))
    return [_stack(group) for group in groups.values()]


def _stack(group: list[tuple[float, View, int]]) -> Stack:
    group.sort(key=lambda one: (round(one[0] / SAME_MM), one[1].ordinal, one[2]))
    kept = [group[0]]
    for one in group[1:]:
        if one[0] - kept[-1][0] > SAME_MM:
            kept.append(one)
    members = {view.ordinal: view for _, view, _ in group}
    frames = tuple((view, number) for _, view, number in kept)
    return Stack(frames, np.array([place for place, _, _ in kept]), tuple(view for _, view in sorted(members.items())))


@dataclass(frozen=True)
class Volume:
    """A stack's values (k, rows, columns), thinned to about 2 mm within a slice, and where they lie."""

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    """From (k, row, column) to positions (LPS, mm)."""
    air: float
    """The stored value of air."""


def load(stack: Stack) -> Volume | None:
    """Read the pixels of a stack; None where a frame cannot be decoded. Call within `reading.quiet`."""
    first = stack.frames[0][0]
    thin = tuple(max(1, min(int(STEP_MM / step), size // 8)) for step, size in zip(first.step, first.shape, strict=True))
    slices: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(stack.frames)
    stored = []
    for places, dataset, view in _objects(stack):
        try:
            frames = [stack.frames[place][1] for place in places]
            pixels = dict(
                zip(frames, iter_pixels(dataset, indices=frames if view.planes is not None and len(view.planes) > 1 else None), strict=True)
            )
            for place in places:
                values = pixels[stack.frames[place][1]].astype(np.float32)
                values = values.mean(axis=-1) if values.ndim == 3 else values
                stored.append(values[::5, ::5].ravel())
                slices[place] = _thinned(_rescaled(values, dataset, stack.frames[place][1]), thin)
        except MemoryError:
            raise
        except Exception:  # decoders raise whatever they like
            return None
        inverse = str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    if any(one.size == 0 for one in slices):
        return None
    values = np.stack(slices)
    if first.modality == "CT":
        values = values.clip(*CT_RANGE)
    air = float(np.percentile(np.concatenate(stored), 99 if inverse else 1))
    return Volume(*_even(values, stack, thin), air)


def _objects(stack: Stack) -> Iterator[tuple[list[int], Dataset, View]]:
    """Yield each object once, with the places of its frames in the stack."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, (view, _) in enumerate(stack.frames):
        places[view.ordinal].append(place)
    for found in places.values():
        view = stack.frames[found[0]][0]
        dataset = read(view.path)
        if not isinstance(dataset, Reason):
            yield found, dataset, view


def _rescaled(values: NDArray[np.float32], dataset: Dataset, frame: int) -> NDArray[np.float32]:
    source = dataset
    for name, at in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(name)
        if groups is not None and "PixelValueTransformationSequence" in groups[at]:
            source = groups[at].PixelValueTransformationSequence[0]
            break
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    return np.asarray(values * float(1 if slope is None else slope) + float(intercept or 0), np.float32)


def _thinned(values: NDArray[np.float32], thin: tuple[int, ...]) -> NDArray[np.float32]:
    rows, columns = (size // by for size, by in zip(values.shape, thin, strict=True))
    return np.asarray(values[: rows * thin[0], : columns * thin[1]].reshape(rows, thin[0], columns, thin[1]).mean(axis=(1, 3)), np.float32)


def _even(values: NDArray[np.float32], stack: Stack, thin: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the values at even steps along the normal, and their affine; a tilted gantry shears it."""
    view = stack.frames[0][0]
    planes = [(view.planes, number) for view, number in stack.frames]
    origins = np.array([known[number, 0] for known, number in planes if known is not None])
    row, column = planes[0][0][planes[0][1], 1:] if planes[0][0] is not None else np.eye(3)[:2]
    steps = np.diff(stack.along)
    if np.ptp(steps) > 0.1 * np.median(steps):
        count = int(np.ptp(stack.along) / np.median(steps)) + 1
        at = np.interp(np.linspace(stack.along[0], stack.along[-1], count), stack.along, np.arange(len(values)))
        low = at.astype(int).clip(max=len(values) - 2)
        share = (at - low).astype(np.float32)[:, None, None]
        values = values[low] * (1 - share) + values[low + 1] * share
    affine = np.eye(4)
    affine[:3, 0] = (origins[-1] - origins[0]) / (len(values) - 1)
    affine[:3, 1], affine[:3, 2] = column * view.step[0] * thin[0], row * view.step[1] * thin[1]
    affine[:3, 3] = origins[0] + column * view.step[0] * (thin[0] - 1) / 2 + row * view.step[1] * (thin[1] - 1) / 2
    return values, affine
