"""Find the face in the volume of a head: a template is matched to it, and its region of the face is what to remove.

The brain is protected twice: by the template's brain and by what can be grown from it in the subject's own intensities.
A volume that was skull-stripped, or whose frame ends above the face, has no face. `deface_check` judges the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.deid import deface_check, head_template, registration
from medpipe.deid.deface_check import Outcome
from medpipe.deid.head_template import STEP_MM, template
from medpipe.deid.registration import Grid, Mask, Match, Matrix, Volume

HEAD_MM = 280.0
"""What lies further below the crown is no head."""
FRAME_MIN_MM, FRAME_MAX_MM = 50.0, 2500.0
WIDTH_MM, LENGTH_MM = (80.0, 280.0), (90.0, 330.0)
"""Of a head, from a newborn's to one with a headrest, left to right and front to back."""
BRAIN_REACH_MM = 8.0
"""How far a subject's brain may reach beyond the template's, after it was matched."""
HU_MIN, HU_MAX = -1000.0, 1500.0
"""What lies beyond is padding and metal."""
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From NIfTI's axes of the patient (right, anterior, superior) to DICOM's, and back."""


@dataclass(frozen=True)
class Face:
    """Where the face is in space: it serves every series of the same frame of reference."""

    matrix: Matrix
    """From the patient's positions (LPS, mm) to the template's."""
    protected: Mask = field(repr=False)
    """The brain and a margin of 2 mm, (z, y, x) on a grid of 2 mm."""
    origin: NDArray[np.float64]
    """Position of the first voxel of `protected`."""

    def holds(self, points: NDArray[np.float64]) -> Mask:
        """Say for positions (N, 3) in mm whether what is there has to go."""
        out = head_template.in_face(points @ self.matrix[:3, :3].T + self.matrix[:3, 3])
        index = np.rint((points[out] - self.origin) / STEP_MM).astype(np.int64)
        inside: Mask = np.asarray(((index >= 0) & (index < self.protected.shape[::-1])).all(axis=1))
        x, y, z = index[inside].T
        inside[inside] = self.protected[z, y, x]
        out[np.flatnonzero(out)[inside]] = False
        return out

    def mask(self, shape: tuple[int, ...], affine: Matrix) -> Mask:
        """Return what to remove from an array (i, j, k) whose indices `affine` (4, 4) takes to positions (LPS, mm)."""
        out = np.zeros(shape, bool)
        across = np.argwhere(np.ones(shape[1:], bool)) @ affine[:3, 1:3].T + affine[:3, 3]
        for i in range(shape[0]):
            out[i] = self.holds(across + i * affine[:3, 0]).reshape(shape[1:])
        return out


@dataclass(frozen=True)
class Finding:
    """What was found in a volume, with the figures that it was judged by."""

    outcome: Outcome
    face: Face | None = None
    figures: dict[str, float] = field(default_factory=dict)


def find(values: Volume, affine: Matrix) -> Finding:
    """Look for the face in an array (i, j, k) whose indices `affine` (4, 4) takes to positions (LPS, mm)."""
    seen = _seen(values, affine)
    if isinstance(seen, Outcome):
        return Finding(seen)
    subject, head = seen
    known = template()
    target = Grid(known.image, known.origin)
    try:
        found = registration.match(subject, target, head=head, target_head=known.head, near=known.near)
    except RuntimeError:  # ITK's word for images that do not overlap
        return Finding(Outcome.FAILED)
    figures = deface_check.quality(subject, head, found)
    if deface_check.stripped(subject, head, figures):
        return Finding(Outcome.STRIPPED, None, figures)
    brain = _brain(subject, head, found.matrix)
    face = Face(found.matrix, np.asarray(ndimage.binary_dilation(brain)), subject.origin)
    return _judged(subject, head, brain, face, figures)


def judge(values: Volume, affine: Matrix, face: Face) -> Finding:
    """Judge whether a face that was found in another volume of the same space serves this one, too."""
    seen = _seen(values, affine)
    if isinstance(seen, Outcome):
        return Finding(seen)
    subject, head = seen
    known = template()
    information = registration.information(subject, registration.landmarks(Grid(known.image, known.origin), known.near), face.matrix)
    figures = deface_check.quality(subject, head, Match(face.matrix, information))
    return _judged(subject, head, _brain(subject, head, face.matrix), face, figures)


def deface_volume(values: NDArray[np.generic], affine: Matrix) -> tuple[Mask, Finding]:
    """Return the voxels (i, j, k) of a NIfTI array to remove, none unless the outcome is `defaced`, and what was found.

    `affine` is NIfTI's, to right, anterior, superior, in mm. Where the voxels lie counts, not the order of the axes.
    """
    placed = LPS @ affine
    finding = find(np.asarray(values, np.float32), placed)
    if finding.outcome is not Outcome.DEFACED or finding.face is None:
        return np.zeros(values.shape, bool), finding
    return finding.face.mask(values.shape, placed), finding


def _seen(values: Volume, affine: Matrix) -> tuple[Grid, Mask] | Outcome:
    """Return the part of a volume that can be a head, and the head in it."""
    if values.ndim != 3 or not np.isfinite(values).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        return Outcome.FAILED
    frame = np.linalg.norm(affine[:3, :3], axis=0) * values.shape
    if frame.min() < FRAME_MIN_MM or frame.max() > FRAME_MAX_MM:
        return Outcome.FAILED
    subject = canonical(values.clip(HU_MIN, HU_MAX) if values.min() < HU_MIN / 2 else values, affine)
    head = deface_check.tissue(subject.values)
    if not head.any():
        return Outcome.NO_HEAD
    inside = np.argwhere(head)
    low, high = inside.min(axis=0), inside.max(axis=0)
    low[0] = max(low[0], high[0] - int(HEAD_MM / STEP_MM))
    upper = inside[inside[:, 0] >= low[0]]
    length, width = (np.ptp(np.percentile(upper[:, axis], [1, 99])) * STEP_MM for axis in (1, 2))
    if not (WIDTH_MM[0] <= width <= WIDTH_MM[1] and LENGTH_MM[0] <= length <= LENGTH_MM[1]):
        return Outcome.NO_HEAD
    box = tuple(slice(max(0, int(a) - 5), int(b) + 6) for a, b in zip(low, high, strict=True))
    first = np.array([part.start for part in box])
    return Grid(np.ascontiguousarray(subject.values[box]), subject.origin + first[::-1] * STEP_MM), head[box]


def canonical(values: Volume, affine: Matrix) -> Grid:
    """Resample an array (i, j, k) to 2 mm along the patient's axes; fine steps are averaged first."""
    placed = affine.copy()
    for axis in range(3):
        times = min(values.shape[axis], int(STEP_MM / np.linalg.norm(affine[:3, axis])))
        if times > 1:
            size = values.shape[axis] // times
            values = np.take(values, range(size * times), axis)
            values = values.reshape(*values.shape[:axis], size, times, *values.shape[axis + 1 :]).mean(axis=axis + 1)
            placed[:3, 3] += placed[:3, axis] * (times - 1) / 2
            placed[:3, axis] *= times
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(values.shape) - 1)
    ends = corners @ placed[:3, :3].T + placed[:3, 3]
    low = ends.min(axis=0)
    size_xyz = np.floor((ends.max(axis=0) - low) / STEP_MM).astype(int) + 1
    back = np.linalg.inv(placed)
    out = ndimage.affine_transform(
        values,
        back[:3, :3][:, ::-1] * STEP_MM,  # from (z, y, x) to (i, j, k)
        offset=back[:3, :3] @ low + back[:3, 3],
        output_shape=tuple(int(size) for size in size_xyz[::-1]),
        order=1,
        cval=float(values.min()),
    )
    return Grid(out.astype(np.float32), low)


def _brain(subject: Grid, head: Mask, matrix: Matrix) -> Mask:
    """Return the template's brain in the subject, with what the subject's own intensities add around it."""
    there = deface_check.on_subject(template().brain, subject, matrix)
    core = ndimage.binary_erosion(there, iterations=5)
    if not core.any():
        return there
    low, high = np.percentile(subject.values[core], [2, 98])
    reach = ndimage.binary_dilation(there, iterations=int(BRAIN_REACH_MM / STEP_MM))
    like = (subject.values >= low) & (subject.values <= high) & reach & head
    grown = ndimage.binary_propagation(core, mask=ndimage.binary_opening(like | core, iterations=2))
    return np.asarray(there | ndimage.binary_closing(grown, iterations=2))


def _judged(subject: Grid, head: Mask, brain: Mask, face: Face, figures: dict[str, float]) -> Finding:
    removed = face.holds(subject.points()).reshape(head.shape)
    figures |= deface_check.figures(subject, head, removed, brain, face.matrix)
    return Finding(deface_check.verdict(figures), face, figures)
