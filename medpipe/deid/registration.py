"""Match the template to a subject with SimpleITK: several starts, rigid, then affine, by mutual information.

One thread and fixed seeds: the same head gives the same transform to the last bit, on any number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STEP_MM = 2.0
"""Step of the grids that are matched."""
SEED = 20_240_101
BINS = 32
TOP_MM = 150.0
"""How far below the crown a head is compared for its middle and size."""
PAD_MM = 60.0
"""Of air, put around the target."""
FOLLOWED = 5
"""Starts that are followed to their end."""
LANDMARK = 7
"""Every so many voxels of brain and skull rank the results,"""
HELD_MIN = 0.3
"""of which the subject's frame must hold this share."""
NODS, TURNS, TILTS = (-40, -20, 0, 20, 40), (-25, 0, 25), (-20, 0, 20)
"""Starts in degrees."""
Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Values (z, y, x) on a grid of 2 mm along the patient's axes (LPS)."""

    values: Volume
    origin: NDArray[np.float64]
    """Position (x, y, z) of the first voxel in mm."""

    def points(self, where: Mask | None = None) -> NDArray[np.float64]:
        """Return the positions (N, 3) of the voxels in mm, all of them or those of a mask."""
        index = np.argwhere(np.ones(self.values.shape, bool) if where is None else where)
        return np.asarray(index[:, ::-1] * STEP_MM + self.origin)


@dataclass(frozen=True)
class Match:
    """How a subject lies against the template."""

    matrix: Matrix
    """Affine (4, 4) from the subject's positions to the template's, in mm."""
    information: float
    """Mutual information in nats; larger is better."""


@lru_cache(maxsize=1)
def toolkit() -> Any:
    """Return SimpleITK, held to one thread."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return SimpleITK


def match(subject: Grid, target: Grid, *, head: Mask, target_head: Mask, near: Mask) -> Match:
    """Match `target` to `subject`, whose masks say where their heads are; `near` is what of the target ranks the results.

    Many starts are looked at, the most promising ones followed to their end, and the end that explains the brain and the
    skull around it best is refined.
    """
    sitk = toolkit()
    wide = ((int(PAD_MM / STEP_MM),) * 2,) * 3
    padded = Grid(np.pad(target.values, wide), target.origin - PAD_MM)  # beyond the frame is air, which counts
    fixed, moving = _image(subject), _image(padded)
    small, smaller = (sitk.BinShrink(image, [2, 2, 2]) for image in (fixed, moving))
    known = landmarks(target, near)
    starts = _starts(sitk, _top(subject, head), _top(target, target_head))
    starts.sort(key=lambda start: -information(subject, known, _matrix(start)))
    ends = [_run(sitk, small, smaller, start, share=0.1, shrink=[2, 1], sigmas=[4.0, 2.0]) for start in starts[:FOLLOWED]]
    best = max(ends, key=lambda end: information(subject, known, _matrix(end)))
    matrix = _matrix(_run(sitk, fixed, moving, _affine(sitk, best), share=0.02, shrink=[2, 1], sigmas=[2.0, 1.0]))
    return Match(matrix, information(subject, known, matrix))


@dataclass(frozen=True)
class Landmarks:
    """Positions (N, 3) in the target with its values there."""

    points: NDArray[np.float64]
    values: Volume


def landmarks(target: Grid, near: Mask) -> Landmarks:
    """Return every seventh voxel of a part of the target."""
    return Landmarks(target.points(near)[::LANDMARK], target.values[near][::LANDMARK])


def information(subject: Grid, known: Landmarks, matrix: Matrix) -> float:
    """Return the mutual information in nats of subject and target at the landmarks that the frame holds.

    Between 16 classes of equal size each, so that neither contrast nor outliers count.
    """
    index = (_moved(inverse(matrix), known.points) - subject.origin) / STEP_MM
    held = ((index >= 0) & (index <= np.array(subject.values.shape[::-1]) - 1)).all(axis=1)
    if held.mean() < HELD_MIN:
        return 0.0
    seen = ndimage.map_coordinates(subject.values, index[held].T[::-1], order=1)
    ranks = [np.searchsorted(np.quantile(one, np.linspace(0, 1, 17)[1:-1]), one) for one in (seen, known.values[held])]
    joint = np.bincount(16 * ranks[0] + ranks[1], minlength=256).reshape(16, 16) / held.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())


def _image(grid: Grid) -> Any:
    image = toolkit().GetImageFromArray(grid.values)
    image.SetSpacing([STEP_MM] * 3)
    image.SetOrigin(grid.origin.tolist())
    return image


def _top(grid: Grid, head: Mask) -> tuple[NDArray[np.float64], float]:
    """Return the middle and the size of the head without the neck, of which one frame shows more than another."""
    points = grid.points(head)
    points = points[points[:, 2] > points[:, 2].max() - TOP_MM]
    return np.asarray(points.mean(axis=0)), float(len(points) ** (1 / 3))


def _starts(sitk: Any, own: tuple[NDArray[np.float64], float], other: tuple[NDArray[np.float64], float]) -> list[Any]:
    """Return starts from middle to middle, of one size: heads nod far, turn and tilt less."""
    out = []
    for nod, turn, tilt in product(NODS, TURNS, TILTS):
        turned = sitk.Euler3DTransform()
        turned.SetRotation(*np.deg2rad([nod, tilt, turn]).tolist())
        start = sitk.Similarity3DTransform()
        start.SetMatrix((np.reshape(turned.GetMatrix(), (3, 3)) * (other[1] / own[1])).ravel().tolist())
        start.SetCenter(own[0].tolist())
        start.SetTranslation((other[0] - own[0]).tolist())
        out.append(start)
    return out


def _run(sitk: Any, fixed: Any, moving: Any, start: Any, *, share: float, shrink: list[int], sigmas: list[float]) -> Any:
    """Optimise a transform in place of its start; return it."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel(sigmas)
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start


def _affine(sitk: Any, rigid: Any) -> Any:
    out = sitk.AffineTransform(3)
    out.SetCenter(rigid.GetCenter())
    out.SetMatrix(rigid.GetMatrix())
    out.SetTranslation(rigid.GetTranslation())
    return out


def _matrix(transform: Any) -> Matrix:
    out = np.eye(4)
    out[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    out[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return out


def inverse(matrix: Matrix) -> Matrix:
    """Return the way back."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def _moved(matrix: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])
