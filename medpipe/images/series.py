"""Series: which instances are images, which slices make one volume, and why the others do not.

Never trusted: SliceThickness, SpacingBetweenSlices and InstanceNumber. The geometry is that of the positions, and
highdicom, which is strict, has the last word on whether they are regular.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.images import pixels
from medpipe.images.reasons import Reason, Rejected
from medpipe.images.volume import is_localizer

SLICES_MIN = 4
_PARALLEL = 1e-4  # 1 - cosine: 0.8 degrees between the directions of two slices of one stack
_SAME_PLACE_MM = 1e-3


@dataclass(frozen=True)
class Stack:
    """Slices that make one regular volume, in the order of their positions along the stack's normal."""

    instances: tuple[str, ...]
    position: tuple[float, ...]
    """ImagePositionPatient of the first slice in mm."""
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, float]
    slice_spacing: float


Rejects = list[tuple[str, Reason]]
"""Instance and why it is not used."""


def stacks(paths: Mapping[str, Path]) -> tuple[list[Stack], list[str], Rejects]:
    """Sort the instances of one series into regular stacks, multi-frame instances and rejects, by their headers.

    Grouped by orientation and matrix, since one series may hold several stacks; `paths` is SOPInstanceUID to file.
    """
    singles, multi, rejects = [], [], []
    for uid, path in sorted(paths.items()):
        try:
            header = pixels.read(path, pixels=False)
            _refuse(header)
        except Rejected as rejected:
            rejects.append((uid, rejected.reason))
            continue
        frames = int(header.get("NumberOfFrames") or 1)
        if frames >= SLICES_MIN:
            multi.append(uid)
        elif frames > 1:
            rejects.append((uid, Reason.TOO_FEW_SLICES))
        elif any(header.get(keyword) is None for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")):
            rejects.append((uid, Reason.NO_POSITION))
        else:
            singles.append(header)
    found = []
    for group in _groups(singles):
        try:
            kept, repeated = _distinct(group, paths)
            found.append(_stack(kept))
            rejects += [(uid, Reason.DUPLICATE_SLICE) for uid in repeated]
        except Rejected as rejected:
            rejects += [(header.SOPInstanceUID, rejected.reason) for header in group]
    return found, multi, rejects


def _refuse(header: Any) -> None:
    """Raise Rejected for an instance that is no slice of a grey volume."""
    if is_localizer(header):
        raise Rejected(Reason.LOCALIZER)
    if header.get("SamplesPerPixel", 1) != 1 or header.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise Rejected(Reason.COLOUR)


def _groups(headers: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield the headers of one matrix and one orientation, each orientation compared with the first of its group."""
    left = list(headers)
    while left:
        first = left[0]
        same = [header for header in left if _size(header) == _size(first) and _parallel(header, first)]
        left = [header for header in left if not any(header is other for other in same)]
        yield same


def _size(header: Any) -> tuple[int, int]:
    return int(header.Rows), int(header.Columns)


def _parallel(one: Any, other: Any) -> bool:
    a, b = (np.asarray(header.ImageOrientationPatient, float).reshape(2, 3) for header in (one, other))
    return bool(((a * b).sum(axis=1) >= 1 - _PARALLEL).all())


def _distinct(group: Sequence[Any], paths: Mapping[str, Path]) -> tuple[list[Any], list[str]]:
    """Drop slices that repeat another's position and pixels; raises Rejected(POSITION_CONFLICT) where the pixels differ."""
    places: NDArray[np.float64] = np.asarray([header.ImagePositionPatient for header in group], float)
    kept, repeated = [], []
    for header, place in zip(group, places, strict=True):
        twin = group[int(np.argmax(np.abs(places - place).max(axis=1) < _SAME_PLACE_MM))]  # the first there, or itself
        if twin is header:
            kept.append(header)
            continue
        own, other = (pixels.frame(pixels.read(paths[slice_.SOPInstanceUID])).values for slice_ in (header, twin))
        if not np.array_equal(own, other):
            raise Rejected(Reason.POSITION_CONFLICT)
        repeated.append(str(header.SOPInstanceUID))
    return kept, repeated


def _stack(group: Sequence[Any]) -> Stack:
    """Put the slices in order; raises Rejected where they do not make one regular volume."""
    from highdicom.spatial import get_volume_positions

    if len(group) < SLICES_MIN:
        raise Rejected(Reason.TOO_FEW_SLICES)
    if len({header.get("FrameOfReferenceUID") for header in group}) > 1:
        raise Rejected(Reason.MIXED_FRAME_OF_REFERENCE)
    spacings = np.asarray([header.PixelSpacing for header in group], float)
    if not np.allclose(spacings, spacings[0], rtol=1e-3) or not (spacings > 0).all():
        raise Rejected(Reason.MIXED_SPACING)
    spacing, order = get_volume_positions([header.ImagePositionPatient for header in group], group[0].ImageOrientationPatient)
    if spacing is None or order is None or spacing <= 0:
        raise Rejected(_irregularity(group))
    ordered = [header for _, header in sorted(zip(order, group, strict=True), key=lambda pair: pair[0])]
    first = ordered[0]
    return Stack(
        tuple(str(header.SOPInstanceUID) for header in ordered),
        tuple(float(value) for value in first.ImagePositionPatient),
        tuple(float(value) for value in first.ImageOrientationPatient),
        (float(first.PixelSpacing[0]), float(first.PixelSpacing[1])),
        float(spacing),
    )


def _irregularity(group: Sequence[Any]) -> Reason:
    """Say why highdicom refused: uneven steps along the normal, else slices that are sheared against each other."""
    row, column = np.asarray(group[0].ImageOrientationPatient, float).reshape(2, 3)
    positions: NDArray[np.float64] = np.asarray([header.ImagePositionPatient for header in group], float)
    steps = np.diff(np.sort(positions @ np.cross(row, column)))
    return Reason.TILT if np.allclose(steps, steps.mean(), rtol=0.01) else Reason.IRREGULAR_SPACING
