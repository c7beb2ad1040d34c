"""The average head that subjects are matched to: its image, the region of its face, its brain, on one grid of 2 mm.

Made once from pydeface's template and face mask (MIT) and the ICBM 152 brain (its licence permits redistribution);
`head_template.json` holds the sources and their licences, and `python -m medpipe.deid.head_template PYDEFACE ICBM OUT`
makes the data anew from the folders with the originals. It is a mean of many people and shows nobody.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STEP_MM = 2.0
_FILE = "head_template.npz"
_MARGIN_MM = 80.0
"""How far the region of the face goes on beyond the template's frame, to the front, the feet and the sides."""


@dataclass(frozen=True)
class Template:
    """Arrays (z, y, x) with z to the head, y to the back and x to the left (LPS), all on one grid."""

    image: NDArray[np.float32]
    face: NDArray[np.bool_]
    """What is removed: all in front of and below the brain's front, from the brows down."""
    brain: NDArray[np.bool_]
    origin: NDArray[np.float64]
    """Position (x, y, z) of the first voxel in mm."""

    @cached_property
    def head(self) -> NDArray[np.bool_]:
        """Voxels inside the head, without what the average has in front of it."""
        return filled(self.image > 0.06 * float(np.percentile(self.image, 99)))

    @cached_property
    def near(self) -> NDArray[np.bool_]:
        """The brain and 10 mm around it, where skull and scalp are."""
        return np.asarray(ndimage.binary_dilation(self.brain, iterations=5))


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest piece of a mask, without its holes."""
    labels, count = ndimage.label(ndimage.binary_opening(mask))
    if not count:
        return np.zeros_like(mask)
    largest = 1 + int(np.bincount(labels.ravel())[1:].argmax())
    return np.asarray(ndimage.binary_fill_holes(labels == largest))


@lru_cache(maxsize=1)
def template() -> Template:
    """Return the template that comes with medpipe."""
    with as_file(files("medpipe.deid") / _FILE) as path, np.load(path) as data:
        shape = tuple(int(size) for size in data["image"].shape)
        face, brain = (np.unpackbits(data[name], count=int(np.prod(shape))).reshape(shape).astype(bool) for name in ("face", "brain"))
        return Template(data["image"].astype(np.float32), face, brain, data["origin"])


def in_face(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say for points (N, 3) in the template's space, (x, y, z) in mm, whether they lie in the region of the face."""
    known = template()
    index = np.rint((points - known.origin) / STEP_MM).astype(np.int64)
    last = np.array(known.face.shape[::-1]) - 1
    beyond = (index - last).clip(min=0) + (-index).clip(min=0)
    near = (beyond * STEP_MM <= _MARGIN_MM).all(axis=1)
    # The frame cuts through the region in front, below and at the sides: there it goes on as it is at the border.
    x, y, z = index.clip(0, last).T
    return np.asarray(known.face[z, y, x] & near)


def _made(pydeface: Path, icbm: Path) -> dict[str, NDArray[Any]]:
    """Make the data from the folders that hold the originals."""
    sitk = import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    head, keep = (sitk.ReadImage(str(pydeface / f"{name}.nii.gz"), sitk.sitkFloat32) for name in ("mean_reg2mean", "facemask"))
    t1 = sitk.ReadImage(str(icbm / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"), sitk.sitkFloat32)
    last = np.array(head.GetSize()) - 1
    corners = np.array([head.TransformIndexToPhysicalPoint((last * at).tolist()) for at in np.ndindex(2, 2, 2)])
    origin, size = corners.min(axis=0), np.ceil(np.ptp(corners, axis=0) / STEP_MM).astype(int)
    grid = sitk.Image(size.tolist(), sitk.sitkFloat32)
    grid.SetSpacing([STEP_MM] * 3)
    grid.SetOrigin(origin.tolist())
    image = sitk.Resample(sitk.SmoothingRecursiveGaussian(head, 0.8), grid, sitk.Transform(), sitk.sitkLinear, 0.0)
    kept = sitk.GetArrayFromImage(sitk.Resample(keep, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 1.0))
    placed = sitk.Resample(t1, grid, _brain_in(sitk, image, t1), sitk.sitkLinear, 0.0)
    outline = sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(placed > 40, [3, 3, 3]))) > 0
    brain = ndimage.binary_dilation(outline)  # the average's border is soft
    face = _widened(kept < 0.5) & ~ndimage.binary_dilation(brain, iterations=2)
    values = sitk.GetArrayFromImage(image)
    scaled = (values * (255 / np.percentile(values, 99.9))).clip(0, 255).astype(np.uint8)
    return {"image": scaled, "face": np.packbits(face), "brain": np.packbits(brain), "origin": origin}


def _brain_in(sitk: Any, head: Any, brain: Any) -> Any:
    """Match a bare brain to a head: affine, from a start that was found by eye, over the brain and 10 mm around it."""
    start = sitk.AffineTransform(3)
    start.SetCenter(head.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in head.GetSize()]))
    start.SetMatrix(np.diag([1.1] * 3).ravel().tolist())
    start.SetTranslation((1.0, 3.0, 5.0))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, 20_240_101)
    method.SetMetricMovingMask(sitk.BinaryDilate(brain > 1, [10, 10, 10]))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 0.0])
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(head, brain)
    return start


def _widened(face: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Raise the region by 8 mm, over the eyes, and let it reach the frame in front, below and at the sides."""
    face[4:] |= face[:-4].copy()
    face = np.logical_or.accumulate(face[:, ::-1], axis=1)[:, ::-1]
    face = np.logical_or.accumulate(face[::-1], axis=0)[::-1]
    face[:, :, :10], face[:, :, -10:] = face[:, :, 10:11], face[:, :, -11:-10]
    return face


if __name__ == "__main__":
    made = _made(Path(sys.argv[1]), Path(sys.argv[2]))
    with (Path(sys.argv[3]) / _FILE).open("wb") as file:
        np.savez_compressed(file, image=made["image"], face=made["face"], brain=made["brain"], origin=made["origin"])
