"""Faces: seconds for a head, what is left of the face, what is lost of the brain, on real heads and on ones laid otherwise.

Needs the folders `nifti` and `dicom` in the folder that MEDPIPE_DATA names (default: ../shared/data). Any further
NIfTI heads, and their brains where they are known, are named as `python -m benchmarks.deface HEAD[=BRAIN] ...`.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray

from benchmarks.table import Row
from medpipe.deid import stacks
from medpipe.deid.deface import LPS, Finding, deface_volume
from medpipe.deid.deface_check import Outcome
from medpipe.deid.head_template import template
from medpipe.deid.heads import view
from medpipe.deid.reading import quiet

LONG = True
SECONDS = 15.0
"""What is wanted of a head, on one core."""
WHOLE = ("nibabel_someones_anatomy", "torchio_fernando_t2")
WITHOUT = ("nibabel_someones_epi", "ds114_sub009_t1_brain_2mm", "niivue_MR_Gd", "mni152_t1_template")
Array = NDArray[Any]


def rows() -> Iterator[Row]:
    """Deface every head as it is, and laid in two other ways."""
    data = Path(os.environ.get("MEDPIPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (data / "nifti").is_dir():
        sys.exit("no folder nifti: set MEDPIPE_DATA to the folder that holds it")
    for name in WHOLE:
        image = nibabel.load(data / "nifti" / f"{name}.nii.gz")
        values, affine = np.asarray(image.dataobj).squeeze(), image.affine
        yield from _head(name, values, affine)
        yield from _head(f"{name}, flipped", *_flipped(values, affine))
        yield from _head(f"{name}, nodding 15°", values, _turned(15) @ affine)
    known = template()
    average = np.eye(4) * 2.0
    average[:3, 3], average[3, 3] = known.origin, 1
    yield from _head("the average head", known.image.transpose(2, 1, 0), LPS @ average, known.brain.transpose(2, 1, 0))
    yield from _head("a DICOM series, defaced before", *_series(data / "dicom" / "datalad_t1w_384slices.tar.gz"))
    for name in WITHOUT:
        image = nibabel.load(data / "nifti" / f"{name}.nii.gz")
        mask, _, seconds = _timed(np.asarray(image.dataobj).squeeze(), image.affine)
        yield Row(f"{name} (no face): seconds", seconds, "s", "what is wanted", SECONDS, "at most 1")
        yield Row(f"{name} (no face): voxels removed", float(mask.sum()), "", "all", float(mask.size), "0")


def _head(name: str, values: Array, affine: Array, brain: Array | None = None) -> Iterator[Row]:
    mask, finding, seconds = _timed(values, affine)
    figures = finding.figures
    done = finding.outcome is Outcome.DEFACED
    yield Row(f"{name}: seconds", seconds, "s", "what is wanted", SECONDS, "at most 1")
    left = figures.get("face_lines_left", float("nan")) if done else float("nan")
    yield Row(f"{name}: lines of sight on the face", left, "", "before", figures.get("face_lines_before", 0.0), "0")
    yield Row(
        f"{name}: brain lost", figures.get("brain_voxels_lost", float("nan")) * 0.008, "ml", "whole", figures.get("brain_ml", 0.0), "0"
    )
    if brain is not None:
        yield Row(f"{name}: voxels lost of its known brain", float((mask & brain).sum()), "", "all", float(brain.sum()), "0")


def _timed(values: Array, affine: Array) -> tuple[Array, Finding, float]:
    begun = time.process_time()
    mask, finding = deface_volume(values, affine)
    return mask, finding, time.process_time() - begun


def _flipped(values: Array, affine: Array) -> tuple[Array, Array]:
    """Return the same head with its axes in another order and from their other ends."""
    across, along = values.shape[:2]
    old = np.array([[0.0, 0, -1, across - 1], [-1, 0, 0, along - 1], [0, 1, 0, 0], [0, 0, 0, 1]])  # indices of the new to those of the old
    return values.transpose(1, 2, 0)[::-1, :, ::-1], affine @ old


def _turned(degrees: float) -> Array:
    turn, out = np.deg2rad(degrees), np.eye(4)
    out[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    return out


def _series(archive: Path) -> tuple[Array, Array]:
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive) as packed, quiet():
        packed.extractall(scratch, [one for one in packed.getmembers() if one.name.endswith(".dcm")], filter="data")
        paths = sorted(Path(scratch).rglob("*.dcm"))
        found = [view(number, path, pydicom.dcmread(path, stop_before_pixels=True)) for number, path in enumerate(paths)]
        (stack,) = stacks.stacks([one for one in found if one is not None])
        volume = stacks.load(stack)
    if volume is None:
        sys.exit("the series cannot be decoded")
    return volume.values, LPS @ volume.affine


def _named(argument: str) -> Iterator[Row]:
    path, _, brain = argument.partition("=")
    image = nibabel.load(path)
    known = np.asarray(nibabel.load(brain).dataobj).squeeze() > 0 if brain else None
    yield from _head(Path(path).name.split(".")[0], np.asarray(image.dataobj).squeeze(), image.affine, known)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        for row in _named(wanted):
            print(f"{row.what}: {row.value:.4g} {row.unit} ({row.reference} {row.reference_value:.4g})", flush=True)
