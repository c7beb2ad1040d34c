"""Volumes of heads: the face goes, the brain stays, and what cannot be judged fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from builders_faces import FLIP, head, noisy
from scipy import ndimage

from medpipe.deid import deface_check, registration
from medpipe.deid.deface import Face, deface_volume, find
from medpipe.deid.deface_check import Outcome
from medpipe.deid.head_template import in_face, template

Array = np.ndarray[Any, Any]


def test_the_template_is_whole_and_its_brain_is_clear_of_its_face() -> None:
    known = template()
    assert known.image.shape == known.face.shape == known.brain.shape
    assert 900 < known.brain.sum() * 0.008 < 1500
    assert not (ndimage.binary_dilation(known.brain, iterations=2) & known.face).any()
    front = np.argwhere(known.head[:40])[:, 1].min()  # the tip of the nose and the chin
    assert known.face[20, front + 1, known.face.shape[2] // 2]


def test_the_region_of_the_face_goes_on_beyond_the_templates_frame() -> None:
    known = template()
    chin = known.origin + 2.0 * np.array([known.face.shape[2] / 2, 10, 2])
    points = chin + np.array([[0.0, 0, 0], [0, -40, 0], [0, 0, -40], [0, 0, -400], [0, 200, 0]])
    assert in_face(points).tolist() == [True, True, True, False, False]


@pytest.mark.slow
def test_the_face_goes_and_the_brain_stays_in_any_order_of_axes() -> None:
    values, affine = head()
    brain, region = head("brain")[0] > 30, head("face")[0] > 0.5
    mask, finding = deface_volume(noisy(values), FLIP @ affine)
    assert finding.outcome is Outcome.DEFACED, finding.figures
    assert not (mask & brain).any()
    skin = (values > 20) & region
    assert (mask & skin).sum() > 0.9 * skin.sum()
    assert finding.figures["face_lines_before"] > 1000
    turned = np.eye(4)[:, [2, 0, 1, 3]]  # (x, z, y) first, then x and y from the other end
    ends = np.eye(4)
    ends[[0, 2], [0, 2]], ends[[0, 2], 3] = -1, [values.shape[2] - 1, values.shape[1] - 1]
    other, found = deface_volume(noisy(values).transpose(2, 0, 1)[::-1, :, ::-1], FLIP @ affine @ turned @ ends)
    assert found.outcome is Outcome.DEFACED
    back = other[::-1, :, ::-1].transpose(1, 2, 0)
    assert (back ^ mask).sum() < 0.03 * mask.sum()


@pytest.mark.slow
def test_a_brain_without_a_head_is_left_alone() -> None:
    values, affine = head("brain", scale=1.15)
    mask, finding = deface_volume(values, FLIP @ affine)
    assert finding.outcome in (Outcome.STRIPPED, Outcome.NO_FACE, Outcome.DEFACED), finding.figures
    bright = values > 30
    assert (mask & bright).sum() < 0.002 * bright.sum(), "what may go is the rim where a face would be"
    assert finding.figures.get("brain_voxels_lost", 0) == 0


@pytest.mark.slow
def test_a_head_upside_down_fails() -> None:
    values, affine = head()
    wrong = affine @ np.diag([-1.0, 1, 1, 1])
    mask, finding = deface_volume(noisy(values), FLIP @ wrong)
    assert finding.outcome is Outcome.FAILED, finding.figures
    assert not mask.any()


def test_values_that_are_no_numbers_and_an_empty_volume_are_no_heads() -> None:
    values = np.zeros((40, 40, 40), np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    assert find(values, affine).outcome is Outcome.NO_HEAD
    values[0, 0, 0] = np.nan
    assert find(values, affine).outcome is Outcome.FAILED
    assert find(np.zeros((40, 40), np.float32), np.eye(4)).outcome is Outcome.FAILED


def test_what_is_too_small_or_too_large_for_a_head_is_none() -> None:
    values = np.zeros((60, 60, 60), np.float32)
    values[10:50, 10:50, 10:50] = 100
    assert find(values, np.diag([1.0, 1, 1, 1])).outcome is Outcome.NO_HEAD  # 40 mm
    assert find(values, np.diag([10.0, 10, 10, 1])).outcome is Outcome.NO_HEAD  # 400 mm


def test_a_mask_is_where_the_points_are() -> None:
    protected = np.zeros((5, 5, 5), bool)
    protected[2, 2, 2] = True
    known = template()
    face = Face(np.eye(4), protected, known.origin + np.array([90.0, 10.0, 20.0]))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = known.origin
    mask = face.mask(known.face.shape[::-1], affine)
    different = np.argwhere(mask != known.face.transpose(2, 1, 0))
    assert different.tolist() == [[47, 7, 12]]


def test_the_figures_see_a_face_that_was_left_and_a_brain_that_was_cut() -> None:
    known = template()
    grid = registration.Grid(known.image, known.origin)
    nothing = np.zeros(known.face.shape, bool)
    left = deface_check.figures(grid, known.head, nothing, known.brain, np.eye(4))
    assert left["face_lines_left"] > 1500
    gone = deface_check.figures(grid, known.head, known.face, known.brain, np.eye(4))
    assert (gone["face_lines_left"], gone["brain_voxels_lost"]) == (0, 0)
    cut = deface_check.figures(grid, known.head, known.face | known.brain, known.brain, np.eye(4))
    assert cut["brain_voxels_lost"] == known.brain.sum()
    good = {"information": 0.5, "overlap": 0.9, "stretch_min": 0.9, "stretch_max": 1.1}
    assert [deface_check.verdict(good | figures) for figures in (left, gone, cut)] == [Outcome.FAILED, Outcome.DEFACED, Outcome.FAILED]
    assert deface_check.verdict(good | gone | {"removed_ml": 0.0}) is Outcome.NO_FACE
    for worse in ({"information": 0.1}, {"overlap": 0.5}, {"stretch_max": 3.0}, {"brain_ml": 100.0}):
        assert deface_check.verdict(good | gone | worse) is Outcome.FAILED


REAL = {
    "nibabel_someones_anatomy": Outcome.DEFACED,
    "torchio_fernando_t2": Outcome.DEFACED,
    "nibabel_someones_epi": Outcome.NO_FACE,
    "ds114_sub009_t1_brain_2mm": Outcome.STRIPPED,
    "niivue_MR_Gd": Outcome.STRIPPED,
    "mni152_t1_template": Outcome.STRIPPED,
    "dipy_S0_10slices": Outcome.NO_HEAD,  # its header says 53 mm between slices
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_volumes_get_the_right_outcome(name: str, data_dir: Path) -> None:
    image = nibabel.load(data_dir / "nifti" / f"{name}.nii.gz")
    mask, finding = deface_volume(np.asarray(image.dataobj).squeeze(), image.affine)
    assert finding.outcome is REAL[name], finding.figures
    assert mask.any() == (finding.outcome is Outcome.DEFACED)
    if mask.any():
        assert (finding.figures["brain_voxels_lost"], finding.figures["face_lines_left"]) == (0, 0)


@pytest.mark.slow
def test_the_same_head_gives_the_same_mask() -> None:
    values, affine = head()
    one, other = (deface_volume(noisy(values), FLIP @ affine) for _ in range(2))
    assert one[0].tobytes() == other[0].tobytes()
    assert one[1].figures == other[1].figures
