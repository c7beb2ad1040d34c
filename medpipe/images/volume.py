"""Images with their geometry, and slices made into volumes.

Axis order, said once: arrays are (y, x) for an image and (z, y, x) for a volume, channels before them. In a volume z grows
to the patient's Head, y to the Posterior and x to the Left (DICOM's "HPL"), so that a slice looks as a radiologist sees
it. Oblique volumes are turned to the nearest such order and not resampled for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medpipe.images import masks, pixels
from medpipe.images.reasons import Reason, Rejected

if TYPE_CHECKING:
    from medpipe.images.series import Stack

ORIENTATION = "HPL"


@dataclass(frozen=True)
class Image:
    """Pixels in memory with what they measure: `values` (y, x) or (z, y, x) and the step along each axis."""

    values: NDArray[Any]
    """float32 in the modality's unit (HU for CT), or the stored uint8."""
    padding: NDArray[np.bool_] | None
    """Pixels that only fill the frame; None where there are none."""
    spacing_mm: tuple[float, ...] | None
    """Step along each axis in millimetres; None where the image does not say."""
    aspect: tuple[float, ...]
    """Relative step along each axis: `spacing_mm` where it is known."""
    mask: NDArray[np.uint8] | None
    """Segment number at each pixel, of the shape of `values`; None where nothing was drawn."""


def single(path: Path, segmentations: Sequence[Path], instance_uid: str) -> Image:
    """Read one single-frame instance as an image; raises Rejected."""
    instance = pixels.read(path)
    if is_localizer(instance):
        raise Rejected(Reason.LOCALIZER)
    frame = pixels.frame(instance)
    if frame.values.ndim != 2:
        raise Rejected(Reason.MULTI_FRAME)
    spacing = _pixel_spacing(instance)
    mask = masks.label_map(segmentations, [instance_uid], frame.values.shape)[0] if segmentations else None
    return Image(frame.values, frame.padding, spacing, spacing or _aspect(instance), mask)


def is_localizer(header: Any) -> bool:
    """Say whether ImageType calls the instance a localizer (PS3.3 C.7.6.1.1.2, value 3)."""
    return "LOCALIZER" in (header.get("ImageType") or [])


def _pixel_spacing(instance: Any) -> tuple[float, float] | None:
    """Return the row and column step in mm: in the patient, else at the detector (projections; PS3.3 10.7.1.3)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = instance.get(keyword)
        if found is not None and len(found) == 2 and all(float(value) > 0 for value in found):
            return float(found[0]), float(found[1])
    return None


def _aspect(instance: Any) -> tuple[float, float]:
    """Return the relative row and column step from PixelAspectRatio (vertical, horizontal), square where absent."""
    found = instance.get("PixelAspectRatio")
    if found is not None and len(found) == 2 and all(int(value) > 0 for value in found):
        return float(found[0]), float(found[1])
    return 1.0, 1.0


def stacked(stack: Stack, paths: dict[str, Path], segmentations: Sequence[Path]) -> Image:
    """Read the slices of `stack`, in its order, as one volume in canonical orientation; raises Rejected."""
    frames = [pixels.frame(pixels.read(paths[uid])) for uid in stack.instances]
    eight_bit = all(frame.eight_bit for frame in frames)
    values = np.stack([frame.values if eight_bit else frame.values.astype(np.float32) for frame in frames])
    padding = None
    if any(frame.padding is not None for frame in frames):
        padding = np.stack([np.zeros(frame.values.shape, bool) if frame.padding is None else frame.padding for frame in frames])
    mask = masks.label_map(segmentations, stack.instances, values.shape[1:]) if segmentations else None
    turned, spacing = _canonical(values, stack)
    return Image(
        turned,
        None if padding is None else _canonical(padding, stack)[0],
        spacing,
        spacing,
        None if mask is None else _canonical(mask, stack)[0],
    )


def _canonical(array: NDArray[Any], stack: Stack) -> tuple[NDArray[Any], tuple[float, ...]]:
    from highdicom import Volume

    volume = Volume.from_attributes(
        array=array,
        image_position=stack.position,
        image_orientation=stack.orientation,
        pixel_spacing=stack.pixel_spacing,
        spacing_between_slices=stack.slice_spacing,
        coordinate_system="PATIENT",
    ).to_patient_orientation(ORIENTATION)
    return volume.array, tuple(float(step) for step in volume.spacing)


def multi_frame(path: Path, segmentations: Sequence[Path]) -> Image:
    """Read one multi-frame instance (enhanced CT or MR) as a volume in canonical orientation; raises Rejected."""
    from highdicom import Image as HighdicomImage

    instance = pixels.read(path)
    if instance.get("SamplesPerPixel", 1) != 1:
        raise Rejected(Reason.COLOUR)
    if segmentations:
        raise Rejected(Reason.MASK_UNREADABLE)
    try:
        volume = HighdicomImage.from_dataset(instance, copy=False).get_volume(dtype=np.float32).to_patient_orientation(ORIENTATION)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError):
        raise Rejected(Reason.IRREGULAR_GEOMETRY) from None
    spacing = tuple(float(step) for step in volume.spacing)
    return Image(volume.array, None, spacing, spacing, None)
