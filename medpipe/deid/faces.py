"""The faces of one patient: which images show one, what serves which, and the pixels without it.

Series that share a frame of reference share the finest volume's face, by place: it is looked for once, and judged anew on
each volume that it is removed from. Other volumes get their own. Single slices cannot be judged: docs/deidentification.md
says what becomes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels

from medpipe.deid import deface, heads, pixels, stacks
from medpipe.deid.deface import Face, Finding
from medpipe.deid.deface_check import Outcome
from medpipe.deid.heads import View
from medpipe.deid.stacks import Stack
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

DEFACED, MASKED = "images of defaced heads", "images masked by their place alone"
"""Counts of the audit: after the check of the whole volume, and without one."""
AXIAL_MIN = 0.7
"""Cosine between a slice's normal and the body's axis: such a slice shows no profile and no frontal view."""
LIKE_A_HEAD = 0.2
"""From this information on, a volume of an unknown part of the body that could not be defaced is taken for a head."""


@dataclass(frozen=True)
class Treatment:
    """What becomes of the face in one image."""

    reason: Reason | None = None
    """Why the image must not pass."""
    face: Face | None = field(default=None, repr=False)
    view: View | None = field(default=None, repr=False)
    air: float | None = None
    """The stored value that takes the face's place; None for the darkest that the image has."""
    judged: bool = False
    """Whether the face was found to be gone from the whole volume."""
    head: dict[str, Any] | None = None
    """What was found in the volume, told once, with its first image."""


class Faces:
    """The images of one patient that may show a face, and what becomes of each."""

    def __init__(self, settings: DeidSettings) -> None:
        self._mode = settings.faces
        self._spaces: dict[str, list[View]] = {}
        self._space_of: dict[int, str] = {}
        self._done: dict[str, dict[int, Treatment]] = {}

    def look(self, ordinal: int, path: Path, header: Dataset) -> None:
        """Take note of an image by its header."""
        view = heads.view(ordinal, path, header) if self._mode != "keep" else None
        if view is not None:
            self._spaces.setdefault(view.space, []).append(view)
            self._space_of[ordinal] = view.space

    def settled(self, ordinal: int, known: Collection[int]) -> bool:
        """Say whether an image's space holds `known` files alone: what becomes of a face hangs on all images of its space."""
        space = self._space_of.get(ordinal)
        return space is None or all(view.ordinal in known for view in self._spaces[space])

    def treatment(self, ordinal: int) -> Treatment | None:
        """Return what is to be done with an image, None for nothing; call within `reading.quiet`."""
        space = self._space_of.get(ordinal)
        if space is None:
            return None
        if space not in self._done:
            self._done[space] = _treated(self._spaces[space], remove=self._mode == "deface")
        return self._done[space].get(ordinal)


@dataclass(frozen=True)
class _Judged:
    """A volume with what was found in it."""

    stack: Stack
    finding: Finding
    air: float


def _treated(views: list[View], *, remove: bool) -> dict[int, Treatment]:
    """Decide on all images of one frame of reference."""
    head = any(view.head for view in views)
    volumes = sorted((stack for stack in stacks.stacks(views) if stack.solid), key=lambda stack: stack.order)
    if not remove and head:
        return {view.ordinal: Treatment(Reason.FACE) for view in views if not _harmless(view, volumes)}
    judged, face = [], None
    for stack in volumes:
        judged.append(_judged(stack, face))
        if face is None and judged[-1].finding.outcome is Outcome.DEFACED:
            face = judged[-1].finding.face
    head = head or face is not None
    out: dict[int, Treatment] = {}
    for one in judged:
        failed = one.finding.outcome is Outcome.FAILED and face is not None  # before the face was known
        _add(out, _judged(one.stack, face) if failed else one, head)
    if not remove:
        return {ordinal: Treatment(Reason.FACE, head=done.head) for ordinal, done in out.items()}
    for view in views if head else ():
        if view.ordinal not in out:
            if face is not None and view.planes is not None:
                out[view.ordinal] = Treatment(face=face, view=view)
            elif not _axial(view):
                out[view.ordinal] = Treatment(Reason.FACE_NOT_REMOVED)
    return out


def _judged(stack: Stack, face: Face | None) -> _Judged:
    """Look for the face in a volume; where one is known in its space, judge first whether that one serves."""
    volume = stacks.load(stack)
    if volume is None:
        return _Judged(stack, Finding(Outcome.FAILED), 0.0)
    if face is not None:
        finding = deface.judge(volume.values, volume.affine, face)
        if finding.outcome in (Outcome.DEFACED, Outcome.NO_FACE):
            return _Judged(stack, finding, volume.air)
    return _Judged(stack, deface.find(volume.values, volume.affine), volume.air)


def _add(out: dict[int, Treatment], one: _Judged, head: bool) -> None:
    """Put down what becomes of the images of a volume; what fails in one of its volumes fails an object of several."""
    outcome, figures = one.finding.outcome, one.finding.figures
    if not head and not (outcome is Outcome.FAILED and figures.get("information", 0.0) >= LIKE_A_HEAD):
        return
    told = {"outcome": str(outcome), "images": len(one.stack.members)} | {name: round(value, 3) for name, value in sorted(figures.items())}
    seen = {view.ordinal for view, _ in one.stack.frames}
    for number, view in enumerate(one.stack.members):
        ordinal, known = view.ordinal, out.get(view.ordinal)
        if known is not None and (known.reason or outcome is not Outcome.FAILED):
            continue
        first = told if number == 0 else None
        if outcome in (Outcome.FAILED, Outcome.NO_HEAD):
            out[ordinal] = Treatment(Reason.FACE_NOT_REMOVED, head=first)
        elif outcome is Outcome.DEFACED:
            out[ordinal] = Treatment(None, one.finding.face, view, one.air, judged=ordinal in seen, head=first)
        else:
            out[ordinal] = Treatment(head=first)


def _axial(view: View) -> bool:
    """Say whether every frame lies across the body's axis."""
    return view.planes is not None and bool((np.abs(np.cross(view.planes[:, 1], view.planes[:, 2])[:, 2]) >= AXIAL_MIN).all())


def _harmless(view: View, volumes: Iterable[Stack]) -> bool:
    """Say whether an image of a head shows no face by itself: an axial slice that is in no volume."""
    return _axial(view) and not any(view is member for stack in volumes for member in stack.members)


def apply(dataset: Dataset, treatment: Treatment, counts: Counter[str]) -> Reason | None:
    """Remove the face from the pixels of an object in place; return why it must not pass, None where it may."""
    if treatment.reason is not None:
        return treatment.reason
    view, face = treatment.view, treatment.face
    if view is None or view.planes is None or face is None:
        return None
    counts[DEFACED if treatment.judged else MASKED] += 1
    rows, columns = (np.arange(size) * step for size, step in zip(view.shape, view.step, strict=True))
    masks = []
    for position, row, column in view.planes:
        points = position + rows[:, None, None] * column + columns[None, :, None] * row
        masks.append(face.holds(points.reshape(-1, 3)).reshape(view.shape))
    if not any(mask.any() for mask in masks):
        return None
    if "PixelData" not in dataset:
        return Reason.FACE_NOT_REMOVED  # floating-point pixels
    frames = [np.array(frame) for frame in iter_pixels(dataset)]
    dark = min(float(np.percentile(frame, 1)) for frame in frames) if treatment.air is None else treatment.air
    for frame, mask in zip(frames, masks, strict=True):
        frame[mask] = 0 if frame.ndim == 3 else np.clip(round(dark), *_range(frame))
        counts["pixels of faces removed"] += int(mask.sum())
    pixels.replace(dataset, b"".join(frame.tobytes() for frame in frames), frames[0].dtype)
    return None


def _range(frame: np.ndarray[Any, Any]) -> tuple[int, int]:
    limits = np.iinfo(frame.dtype)
    return int(limits.min), int(limits.max)
