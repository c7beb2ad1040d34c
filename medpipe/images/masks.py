"""Masks: DICOM segmentations laid on the images they were drawn on, as label maps.

Read frame by frame from the functional groups, because a segmentation of a projection has no slice thickness and
highdicom's reader asks for one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.images import pixels
from medpipe.images.reasons import Reason, Rejected


def label_map(segmentations: Sequence[Path], instances: Sequence[str], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the segment number at each pixel of `instances`: (n, rows, columns), 0 where there is no segment.

    Frames belong to the source instance that they refer to (Derivation Image, PS3.3 C.7.6.16.2.6), or to the only one
    that the segmentation refers to. Where segments overlap, the higher number is kept; a fractional segment counts from
    one half. Raises Rejected(MASK_UNREADABLE).
    """
    labels = np.zeros((len(instances), *shape), np.uint8)
    place = {uid: index for index, uid in enumerate(instances)}
    for path in segmentations:
        try:
            for source, drawn in _frames(pixels.read(path)):
                if source in place:
                    np.maximum(labels[place[source]], drawn, out=labels[place[source]])
        except (Rejected, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
            raise Rejected(Reason.MASK_UNREADABLE) from None
    return labels


def _frames(segmentation: Any) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield (source instance, label map) of each frame of a segmentation (PS3.3 C.8.20)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = np.asarray(segmentation.pixel_array)
    frames = stored.reshape(-1, segmentation.Rows, segmentation.Columns)
    kind = segmentation.SegmentationType
    for groups, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True):
        if kind == "LABELMAP":
            drawn = frame
        else:
            half = 0.5 if kind == "BINARY" else segmentation.MaximumFractionalValue / 2
            number = _group(segmentation, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber
            drawn = np.where(frame >= half, number, 0)
        if drawn.max() > 255:
            raise OverflowError("segment numbers beyond 255 do not fit a mask")
        yield _source(segmentation, groups), drawn.astype(np.uint8)


def _group(segmentation: Any, groups: Any, keyword: str) -> Any:
    """Return the functional group `keyword` of a frame: its own, else the one that all frames share."""
    return (groups.get(keyword) or segmentation.SharedFunctionalGroupsSequence[0][keyword].value)[0]


def _source(segmentation: Any, groups: Any) -> str:
    try:
        return str(_group(segmentation, groups, "DerivationImageSequence").SourceImageSequence[0].ReferencedSOPInstanceUID)
    except (KeyError, AttributeError, IndexError):
        (series,) = segmentation.ReferencedSeriesSequence
        (instance,) = series.ReferencedInstanceSequence
        return str(instance.ReferencedSOPInstanceUID)
