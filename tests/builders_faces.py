"""Builders of heads that belong to nobody: the average head that comes with medpipe, moved, cut and written as DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from builders_deid import instance, save
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from scipy import ndimage

from medpipe.deid.head_template import STEP_MM, template

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
STEPS = (5.0, 2.5, 2.5)
"""Of `head`, along z, y and x in mm."""
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
Array = NDArray[Any]


def head(what: str = "image", *, nod: float = 8.0, scale: float = 1.08) -> tuple[Array, Array]:
    """An average head (z, y, x) that nods by some degrees and is larger by `scale`, and its affine from (z, y, x) to LPS."""
    known = template()
    values = np.asarray(
        known.image if what == "image" else known.image * known.brain if what == "brain" else getattr(known, what), np.float32
    )
    turn = np.deg2rad(nod)
    matrix = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) / scale  # (z, y, x)
    steps = np.array(STEPS)
    shape = tuple(int(n * STEP_MM / step) for n, step in zip(values.shape, steps, strict=True))
    middle, own = (np.array(values.shape) - 1) / 2, (np.array(shape) - 1) / 2
    grid = matrix @ np.diag(steps) / STEP_MM
    smooth = ndimage.gaussian_filter1d(values, 1.0, axis=0)
    out = ndimage.affine_transform(smooth, grid, offset=middle - grid @ own, output_shape=shape, order=1)
    affine = np.zeros((4, 4))
    affine[:3, :3] = np.diag(steps)[::-1]
    affine[:, 3] = [-100.0, -120.0, -90.0, 1.0]
    return out, affine


def noisy(values: Array) -> Array:
    """The values with a scanner's noise, which is in the air, too."""
    return np.abs(values + np.random.default_rng(0).normal(0, 3, values.shape)).astype(np.float32)


def slices(values: Array, affine: Array, patient: int = 1, series: int = 1, **elements: Any) -> list[FileDataset]:
    """Single-frame MR instances of a volume (k, rows, columns) that `affine` takes to positions (LPS)."""
    rows, columns = affine[:3, 1], affine[:3, 2]
    steps = [float(np.linalg.norm(rows)), float(np.linalg.norm(columns))]
    out = []
    for number, plane in enumerate(values):
        file = instance(patient, 1, series, number + 1)
        file.SOPClassUID, file.Modality, file.BodyPartExamined = MR, "MR", "HEAD"
        file.FrameOfReferenceUID = generate_uid(entropy_srcs=["space", str(patient)])
        file.Rows, file.Columns = plane.shape
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit = 15
        file.PixelSpacing = steps
        file.ImageOrientationPatient = [*(columns / steps[1]), *(rows / steps[0])]
        file.ImagePositionPatient = list(affine[:3, 3] + number * affine[:3, 0])
        file.PixelData = plane.clip(0, 4000).astype("<u2").tobytes()
        for keyword, value in elements.items():
            setattr(file, keyword, value)
        out.append(file)
    return out


def multi_frame(values: Array, affine: Array, **elements: Any) -> FileDataset:
    """The same volume as one enhanced MR object."""
    single = slices(values, affine)
    file = single[0]
    file.SOPClassUID, file.NumberOfFrames = ENHANCED_MR, len(values)
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([Dataset()]), Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = file.ImageOrientationPatient
    shared.PixelMeasuresSequence[0].PixelSpacing = file.PixelSpacing
    for one in single:
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = one.ImagePositionPatient
        frames.append(frame)
    file.SharedFunctionalGroupsSequence, file.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    file.PixelData = b"".join(one.PixelData for one in single)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(file, keyword)
    for keyword, value in elements.items():
        setattr(file, keyword, value)
    return file


def written(files: list[FileDataset], folder: Path, name: str = "s") -> Path:
    """Write instances into a folder."""
    for number, file in enumerate(files):
        save(file, folder / f"{name}{number:03d}.dcm")
    return folder
