from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from builders_images import instance, volume

from medpipe.images import series
from medpipe.images.reasons import Rejected
from medpipe.images.volume import multi_frame, stacked

RNG = np.random.default_rng(5)
VOXELS = RNG.integers(0, 4000, (8, 12, 10)).astype(np.uint16)


def found(folder: Path, instances: list[pydicom.Dataset]) -> tuple[list[series.Stack], list[str], list[str], dict[str, Path]]:
    paths = {}
    for number, ds in enumerate(instances):
        path = folder / f"{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths[str(ds.SOPInstanceUID)] = path
    stacks, multi, rejects = series.stacks(paths)
    return stacks, multi, sorted(reason.name for _, reason in rejects), paths


def test_slices_in_any_order_become_the_volume_they_were_cut_from(tmp_path: Path) -> None:
    slices = volume(VOXELS, spacing=(2.0, 0.5, 0.75), RescaleSlope=2, RescaleIntercept=-1000)
    for number, ds in enumerate(slices):
        ds.InstanceNumber, ds.SliceThickness = 99 - number, 7  # never trusted
    stacks, _, rejects, paths = found(tmp_path, slices)
    image = stacked(stacks[0], paths, [])
    assert rejects == []
    assert image.spacing_mm == (2.0, 0.5, 0.75)
    assert np.array_equal(image.values, VOXELS * 2.0 - 1000)  # HPL: the axes of an axial scan head first, feet to head


def test_a_coronal_series_and_one_from_head_to_foot_end_in_the_same_orientation(tmp_path: Path) -> None:
    coronal = np.ascontiguousarray(VOXELS.transpose(1, 0, 2)[:, ::-1])  # planes along y; rows run from the head down
    stacks, _, _, paths = found(tmp_path, volume(coronal, spacing=(1.0, 2.0, 1.0), orientation=(1, 0, 0, 0, 0, -1)))
    assert np.array_equal(stacked(stacks[0], paths, []).values, VOXELS)


def test_two_stacks_in_one_series_and_a_localizer_come_apart(tmp_path: Path) -> None:
    axial = volume(VOXELS)
    sagittal = volume(VOXELS, orientation=(0, 1, 0, 0, 0, -1))
    scout = volume(VOXELS[:1], orientation=(0, 1, 0, 0, 0, -1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for number, ds in enumerate([*sagittal, *scout]):
        ds.SOPInstanceUID = f"2.25.{number + 1}"
    stacks, _, rejects, _ = found(tmp_path, [*axial, *sagittal, *scout])
    assert [len(stack.instances) for stack in stacks] == [8, 8]
    assert rejects == ["LOCALIZER"]


def _middle_missing(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    return [ds for ds in slices if ds.SOPInstanceUID != sorted(slices, key=lambda ds: ds.ImagePositionPatient[2])[3].SOPInstanceUID]


def _spaced_out(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for ds in slices:
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], float(ds.ImagePositionPatient[2]) ** 1.1]
    return slices


def _tilted(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for ds in slices:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, float(y) + 0.27 * (float(z) - 30), z]
    return slices


def _second_at_one_place(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    slices[1].ImagePositionPatient = slices[0].ImagePositionPatient
    return slices


def _without(keyword: str) -> Callable[[list[pydicom.Dataset]], list[pydicom.Dataset]]:
    def change(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
        for ds in slices:
            del ds[keyword]
        return slices

    return change


def _one(keyword: str, value: object) -> Callable[[list[pydicom.Dataset]], list[pydicom.Dataset]]:
    def change(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
        setattr(slices[2], keyword, value)
        return slices

    return change


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (_middle_missing, {"IRREGULAR_SPACING": 7}),
        (_spaced_out, {"IRREGULAR_SPACING": 8}),
        (_tilted, {"TILT": 8}),
        (_second_at_one_place, {"POSITION_CONFLICT": 8}),
        (_without("ImagePositionPatient"), {"NO_POSITION": 8}),
        (_without("PixelSpacing"), {"NO_POSITION": 8}),
        (_one("FrameOfReferenceUID", "2.25.9"), {"MIXED_FRAME_OF_REFERENCE": 8}),
        (_one("PixelSpacing", [3.0, 3.0]), {"MIXED_SPACING": 8}),
        (_one("PhotometricInterpretation", "RGB"), {"COLOUR": 1, "IRREGULAR_SPACING": 7}),
        (lambda slices: slices[:3], {"TOO_FEW_SLICES": 3}),
    ],
)
def test_a_stack_that_is_no_regular_volume_is_refused_with_its_reason(
    tmp_path: Path, change: Callable[[list[pydicom.Dataset]], list[pydicom.Dataset]], reasons: dict[str, int]
) -> None:
    stacks, _, rejects, _ = found(tmp_path, change(volume(VOXELS)))
    assert stacks == []
    assert {name: rejects.count(name) for name in rejects} == reasons


def test_a_slice_sent_twice_is_dropped_once_and_the_volume_kept(tmp_path: Path) -> None:
    slices = volume(VOXELS)
    again = copy.deepcopy(slices[3])
    again.SOPInstanceUID = "2.25.77"
    stacks, _, rejects, _ = found(tmp_path, [*slices, again])
    assert [len(stack.instances) for stack in stacks] == [8]
    assert rejects == ["DUPLICATE_SLICE"]


def test_a_jitter_of_micrometres_is_no_irregularity(tmp_path: Path) -> None:
    slices = volume(VOXELS)
    for ds in slices:
        ds.ImagePositionPatient = [float(value) + float(RNG.uniform(-3e-3, 3e-3)) for value in ds.ImagePositionPatient]
        ds.ImageOrientationPatient = [float(value) + float(RNG.uniform(-1e-6, 1e-6)) for value in ds.ImageOrientationPatient]
    assert len(found(tmp_path, slices)[0]) == 1


def test_multi_frame_instances_are_told_apart(tmp_path: Path) -> None:
    stacks, multi, rejects, _ = found(tmp_path, [instance(VOXELS, modality="MR")])
    assert (stacks, len(multi), rejects) == ([], 1, [])


@pytest.mark.filterwarnings("ignore")  # highdicom's converter remarks on what the source lacks
def test_an_enhanced_multi_frame_instance_becomes_the_same_volume_as_its_slices(tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    slices = volume(VOXELS, spacing=(2.0, 0.5, 0.75), RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU", SliceThickness=2)
    for ds in slices:
        for keyword in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientSex", "PatientBirthDate"):
            ds.setdefault(keyword, "")
        ds.setdefault("Manufacturer", "")
        ds.SeriesNumber = ds.InstanceNumber = 1
    enhanced = LegacyConvertedEnhancedCTImage(slices, "2.25.1", 1, "2.25.2", 1)
    _, multi, _, paths = found(tmp_path, [enhanced])
    image = multi_frame(paths[multi[0]], [])
    assert image.spacing_mm == (2.0, 0.5, 0.75)
    assert np.array_equal(image.values, VOXELS * 2.0 - 1000)
    uneven = pydicom.dcmread(paths[multi[0]])
    uneven.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 7]
    uneven.save_as(tmp_path / "uneven.dcm")
    with pytest.raises(Rejected, match="IRREGULAR_GEOMETRY"):
        multi_frame(tmp_path / "uneven.dcm", [])


@pytest.mark.slow
def test_a_real_series_of_384_slices_is_one_volume_and_a_hole_in_it_is_seen(data_dir: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(next((data_dir / "dicom").rglob("datalad_t1w*.tar.gz"))) as tar:
        tar.extractall(tmp_path, filter="data")
    files = sorted(tmp_path.rglob("*.dcm"))
    paths = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in files}
    stacks, _, rejects = series.stacks(paths)
    assert ([len(stack.instances) for stack in stacks], rejects) == ([384], [])
    image = stacked(stacks[0], paths, [])
    assert sorted(image.values.shape) == [274, 384, 384]
    assert min(image.spacing_mm or ()) == pytest.approx(0.67, abs=0.05)
    del paths[stacks[0].instances[100]]
    assert series.stacks(paths)[0] == []
