"""The pixels of one DICOM frame as numbers with a meaning: modality transform, polarity and padding resolved.

Order: stored value → padding found (PS3.3 C.7.5.1.1.2, in stored values) → modality LUT or rescale (C.11.1) → MONOCHROME1
turned over, so that more is brighter (C.7.6.3.1.2). VOI windows are a reader's taste and are not applied.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut

from medpipe.images.reasons import Reason, Rejected


@dataclass(frozen=True)
class Frame:
    """One frame, or a stack of them: `values` (…, rows, columns); `padding` marks pixels that are no part of the image."""

    values: NDArray[Any]
    padding: NDArray[np.bool_] | None
    eight_bit: bool
    """The values are the stored 8-bit ones, whose range is used as it is."""


def read(path: Path, *, pixels: bool = True) -> pydicom.Dataset:
    """Read the DICOM file at `path`; raises Rejected(PIXELS_UNREADABLE) where it is none or is cut off."""
    with warnings.catch_warnings():  # a file that strays from the standard is used where it can be, without a remark each
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(path, stop_before_pixels=not pixels)
        except Exception as error:
            raise _refused(error) from None


def frame(instance: pydicom.Dataset) -> Frame:
    """Return the pixels of `instance` (rows, columns), or (frames, rows, columns) of a multi-frame one.

    Raises Rejected with COLOUR, PIXELS_UNREADABLE or NOT_FINITE.
    """
    photometric = instance.get("PhotometricInterpretation")
    if instance.get("SamplesPerPixel", 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Rejected(Reason.COLOUR if photometric else Reason.PIXELS_UNREADABLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            stored = instance.pixel_array
            values = apply_modality_lut(stored, instance)
        except Exception as error:
            raise _refused(error) from None
    if not np.isfinite(values).all():
        raise Rejected(Reason.NOT_FINITE)
    eight_bit = stored.dtype.kind == "u" and instance.get("BitsStored") == 8 and np.array_equal(values, stored)
    if photometric == "MONOCHROME1" or instance.get("PresentationLUTShape") == "INVERSE":
        values = 255 - values if eight_bit else -values.astype(np.float32)
    return Frame(values.astype(np.uint8 if eight_bit else np.float32), _padding(instance, stored), eight_bit)


def _padding(instance: pydicom.Dataset, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Mark the pixels that only fill the frame; None where the instance names no padding value."""
    value = instance.get("PixelPaddingValue")
    if value is None:
        return None
    limit = instance.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= low) & (stored <= high)


def _refused(error: Exception) -> Exception:
    """Return what to raise for an error of a decoder: the machine's faults pass through, the file's become a reason.

    Decoders raise anything, OSError without an errno included; a disk that fails has one.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        return error
    return Rejected(Reason.PIXELS_UNREADABLE)
