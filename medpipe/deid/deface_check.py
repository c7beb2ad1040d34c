"""Judge what was done about a face: was the head matched, is the face's surface gone, is the brain whole.

The limits were set on real heads and on volumes that hold no whole head (benchmarks/deface.py): what does not meet them
all has failed, and is not let through.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.deid.head_template import STEP_MM, filled, template
from medpipe.deid.registration import Grid, Mask, Match, Matrix, Volume, inverse, match

INFORMATION_MIN = 0.22
"""Nats, in brain and skull: what tells a right match from a wrong one."""
OVERLAP_MIN = 0.7
"""Of the head and the template's, where the frame holds both."""
STRETCH_MIN, STRETCH_MAX = 0.65, 1.6
BRAIN_ML = (300.0, 2600.0)
"""Grown with a margin: from an infant's to the largest."""
STRIPPED_ML_MAX, STRIPPED_OVERLAP_MIN, STRIPPED_INFORMATION_MIN, NOTHING_MIN = 2200.0, 0.88, 0.5, 0.95
DEPTH_MM = 12.0
"""The window of the face is where the region reaches at least this far behind the template's surface,"""
WINDOW_TOP, WINDOW_SIDES = 50, (27, 68)
"""from the eyes down and 40 mm to each side (in voxels of the template)."""
RECEDED_MM = 8.0
"""So far the surface must have gone back for what was in front of it to be gone."""
_NOTHING = 10**6


class Outcome(StrEnum):
    """What is known of the face in a volume."""

    DEFACED = "defaced"
    """There was one, and the mask removes it."""
    STRIPPED = "stripped"
    """The skull was stripped: there is nothing but brain."""
    NO_FACE = "no face in the frame"
    NO_HEAD = "no head"
    """What is in the frame has not the size of a head."""
    FAILED = "failed"
    """There may be one, and that a mask would remove it is not certain."""


def tissue(values: Volume) -> Mask:
    """Return the head (z, y, x): what is clearly brighter than air, in one piece."""
    top = values.clip(max=float(np.percentile(values, 99.5)))
    between = otsu(top)
    dark = top[top < between]
    air = float(np.median(dark)) if dark.size else float(top.min())
    return filled(top > air + 0.35 * (between - air))


def otsu(values: Volume) -> float:
    """Return the threshold between two classes of values (Otsu 1979); where there is but one, its largest value."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(centres[int(np.nanargmax(between[:-1]))]) if below[-1] > counts.max() else float(values.max())


def moved(mask: Mask, onto: NDArray[np.float64], shape: tuple[int, ...], origin: NDArray[np.float64], matrix: Matrix) -> Mask:
    """Return a mask whose first voxel is at `origin` on another grid of 2 mm, that begins at `onto` and is taken here by `matrix`."""
    turn = matrix[:3, :3]
    offset = (turn @ onto + matrix[:3, 3] - origin) / STEP_MM
    out = ndimage.affine_transform(mask.astype(np.float32), turn[::-1, ::-1], offset=offset[::-1], output_shape=shape, order=1)
    return np.asarray(out > 0.5)


def on_subject(mask: Mask, subject: Grid, matrix: Matrix) -> Mask:
    """Return a mask of the template on the subject's grid."""
    return moved(mask, subject.origin, subject.values.shape, template().origin, matrix)


def overlap(one: Mask, other: Mask) -> float:
    """Return twice the common part over the sum of two masks (Dice 1945)."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def quality(subject: Grid, head: Mask, found: Match) -> dict[str, float]:
    """Return how well the template was matched."""
    stretch = np.linalg.svd(found.matrix[:3, :3])[1]
    return {
        "information": found.information,
        "overlap": overlap(on_subject(template().head, subject, found.matrix), head),
        "stretch_min": float(stretch.min()),
        "stretch_max": float(stretch.max()),
    }


def stripped(subject: Grid, head: Mask, figures: dict[str, float]) -> bool:
    """Say whether a volume holds nothing but brain; adds the figure that says so.

    It must look so in four ways: the whole head does not fit it, one value is around it, it has a brain's volume, and the
    template's bare brain fits it.
    """
    if figures["information"] >= INFORMATION_MIN:
        return False
    outside = subject.values[~ndimage.binary_dilation(head, iterations=2)]
    if not outside.size or (outside == outside.min()).mean() < NOTHING_MIN or head.sum() * STEP_MM**3 / 1000 > STRIPPED_ML_MAX:
        return False
    known = template()
    bare = Grid(np.where(known.brain, known.image, 0).astype(np.float32), known.origin)
    found = match(subject, bare, head=head, target_head=known.brain, near=known.near)
    figures["brain_overlap"] = overlap(on_subject(known.brain, subject, found.matrix), head)
    figures["brain_information"] = found.information
    return figures["brain_overlap"] >= STRIPPED_OVERLAP_MIN and found.information >= STRIPPED_INFORMATION_MIN


@lru_cache(maxsize=1)
def _window() -> NDArray[np.int64]:
    """Return for each line of sight (z, x) how far back (y) the region reaches, -1 outside the window of the face."""
    known = template()
    front = _seen(known.head)
    rear = np.where(known.face.any(axis=1), known.face.shape[1] - 1 - known.face[:, ::-1].argmax(axis=1), -1)
    out = np.where((rear - front) * STEP_MM >= DEPTH_MM, rear, -1)
    out[WINDOW_TOP + 1 :] = -1
    out[:, : WINDOW_SIDES[0]] = out[:, WINDOW_SIDES[1] :] = -1
    return np.asarray(out)


def _seen(mask: Mask) -> NDArray[np.int64]:
    """Return the depth (y) of the surface that is seen from the front along each line of sight (z, x)."""
    return np.where(mask.any(axis=1), mask.argmax(axis=1), _NOTHING)


def figures(subject: Grid, head: Mask, removed: Mask, brain: Mask, matrix: Matrix) -> dict[str, float]:
    """Return what was there, what is left of the face's surface, and what was lost of the brain.

    The face's surface is what is seen from the front through the window, in lines of sight 2 mm apart; it is left where it
    did not go back. A patch of less than 6 mm across is no part of a face.
    """
    known, back, litre = template(), inverse(matrix), 1e6 / STEP_MM**3
    before, after = (_seen(moved(mask, known.origin, known.face.shape, subject.origin, back)) for mask in (head, head & ~removed))
    rear = _window()
    shown = (before <= rear) & (rear >= 0)
    left = ndimage.binary_opening(shown & ((after - before) * STEP_MM < RECEDED_MM), np.ones((3, 3), bool))
    return {
        "head_ml": 1000 * float(head.sum()) / litre,
        "brain_ml": 1000 * float(brain.sum()) / litre,
        "removed_ml": 1000 * float((removed & head).sum()) / litre,
        "brain_voxels_lost": float((removed & brain).sum()),
        "face_lines_before": float(shown.sum()),
        "face_lines_left": float(left.sum()),
    }


def verdict(figures: dict[str, float]) -> Outcome:
    """Return what the figures say of a volume that was not stripped."""
    matched = (
        figures["information"] >= INFORMATION_MIN
        and figures["overlap"] >= OVERLAP_MIN
        and figures["stretch_min"] >= STRETCH_MIN
        and figures["stretch_max"] <= STRETCH_MAX
        and BRAIN_ML[0] <= figures["brain_ml"] <= BRAIN_ML[1]
    )
    if not matched or figures["brain_voxels_lost"] or figures["face_lines_left"]:
        return Outcome.FAILED
    return Outcome.DEFACED if figures["removed_ml"] else Outcome.NO_FACE
