"""The phantom hospital as files: valid DICOM, the same bytes each time, identifiers everywhere, and an export's faults."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from medpipe import recipe
from medpipe.errors import InputError
from medpipe.parallel import processes
from medpipe.sources import phantom
from medpipe.sources.phantom_dicom import IMAGE_SERIES, uid
from medpipe.sources.phantom_images import render
from medpipe.sources.phantom_people import CANARY
from medpipe.sources.phantom_plan import plan
from medpipe.sources.phantom_truth import FINDINGS

PATIENTS = 6


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }


def instances(folder: Path) -> list[Path]:
    named = {phantom.TABLE, "README.txt", "IM0099.dcm"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in named and not path.name.startswith("Copy of"))


def of_canary(folder: Path) -> list[Path]:
    return [path for path in instances(folder) if CANARY in path.as_posix()]


def test_the_same_number_and_seed_give_the_same_bytes_however_many_workers(hospital: Path, tmp_path: Path) -> None:
    again = phantom.write(tmp_path / "again", patients=2)
    with processes(2) as executor:
        parallel = phantom.write(tmp_path / "parallel", patients=2, executor=executor)
    assert digests(again) == digests(parallel)
    shared = digests(hospital).items() & digests(again).items()
    assert len(shared) >= len(instances(again)) - 1


def test_progress_counts_patients(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    phantom.write(tmp_path / "h", patients=2, seed=3, progress=lambda *step: seen.append(step))
    assert [step[1:] for step in seen] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("patients", [0, -1, 100_001])
def test_a_number_of_patients_out_of_range_is_refused(tmp_path: Path, patients: int) -> None:
    with pytest.raises(InputError, match="1 to"):
        phantom.write(tmp_path / "h", patients=patients)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        phantom.write(tmp_path / "h", patients=1)
    with pytest.raises(InputError, match="not an empty folder"):
        phantom.write(tmp_path / "h" / "thesis.txt", patients=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["h", "thesis.txt"]


def test_an_empty_folder_is_used_and_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / ".h.partial").mkdir()
    (tmp_path / ".h.partial" / "half").write_text("")
    phantom.write(tmp_path / "h", patients=1)
    assert [path.name for path in tmp_path.iterdir()] == ["h"]
    assert not (tmp_path / "h" / "half").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_every_instance_is_valid_dicom_by_dciodvfy(hospital: Path) -> None:
    for path in instances(hospital):
        done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, check=False)
        errors = [line for line in (done.stdout + done.stderr).decode("utf-8", "replace").splitlines() if line.startswith("Error")]
        assert not errors, errors


def test_uids_are_unique_and_names_can_be_read(hospital: Path) -> None:
    files = [pydicom.dcmread(path, stop_before_pixels=True) for path in instances(hospital)]
    assert len({file.SOPInstanceUID for file in files}) == len(files)
    assert {str(file.PatientName) for file in files} == {person.person.name for person in plan(PATIENTS)}
    assert {file.Modality for file in files} == {"DX", "CR", "SEG", "SR", "OT"}


def test_pixels_are_those_of_the_plan_also_where_black_is_stored_as_white(hospital: Path) -> None:
    seen = set()
    for person in plan(PATIENTS):
        for study in person.studies:
            files = {
                pydicom.dcmread(p).SOPInstanceUID: p for p in (hospital / phantom.folder_of(person, study)).iterdir() if "99" not in p.name
            }
            file = pydicom.dcmread(files[uid(person, study, IMAGE_SERIES, 1)])
            shown = file.pixel_array if file.PhotometricInterpretation == "MONOCHROME2" else 2**file.BitsStored - 1 - file.pixel_array
            assert np.array_equal(shown, render(study.images[0])[0])
            seen.add(file.PhotometricInterpretation)
    assert seen == {"MONOCHROME1", "MONOCHROME2"}


def test_masks_refer_to_their_image_and_hold_the_planned_lesion(hospital: Path) -> None:
    images = {uid(p, s, IMAGE_SERIES, k + 1): image for p in plan(PATIENTS) for s in p.studies for k, image in enumerate(s.images)}
    masks = [path for path in instances(hospital) if "SEG" in path.name]
    for path in masks:
        mask = highdicom.seg.segread(path)
        _, _, source = mask.get_source_image_uids()[0]
        pixels = mask.get_pixels_by_source_instance([source], combine_segments=True)[0]
        assert np.array_equal(pixels > 0, render(images[source])[1])
    assert len(masks) == sum(image.lesion is not None for image in images.values())


def test_the_canary_stands_in_every_kind_of_place(hospital: Path) -> None:
    marker = CANARY.encode()
    files = of_canary(hospital)
    assert files
    for path in files:
        raw = path.read_bytes()
        assert marker in raw[:128], "preamble"
        assert CANARY in path.name or CANARY in path.parent.name
        assert CANARY in path.parent.parent.name
        assert raw.count(marker) > 40
    file = pydicom.dcmread(next(path for path in files if pydicom.dcmread(path).Modality == "DX"))
    assert file.file_meta.SourceApplicationEntityTitle == CANARY
    assert CANARY.encode() in file.file_meta.PrivateInformation
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName", "OperatorsName", "PatientComments"):
        assert CANARY in str(file[keyword].value), keyword
    assert CANARY in str(file.PatientName.ideographic)
    assert CANARY in file.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].OtherPatientIDsSequence[0].PatientID
    assert CANARY in file[0x0029, 0x1011].value[0][0x0029, 0x1011].value[0][0x0029, 0x1010].value
    assert marker in file[0x0019, 0x1002].value
    assert marker in file[0x0019, 0x1003].value
    assert CANARY in file[0x6000, 0x1500].value
    assert CANARY in (hospital / phantom.TABLE).read_text()
    assert CANARY in (hospital / "README.txt").read_text()


def test_the_export_has_the_faults_of_real_ones(hospital: Path) -> None:
    twice = next(hospital.rglob("Copy of *"))
    assert twice.read_bytes() == twice.with_name(twice.name.removeprefix("Copy of ")).read_bytes()
    cut = pydicom.dcmread(next(hospital.rglob("IM0099.dcm")))
    with pytest.raises(ValueError, match="less than expected"):
        _ = cut.pixel_array
    with pytest.raises(InvalidDicomError):
        pydicom.dcmread(hospital / "README.txt")
    assert any(path.suffix != ".dcm" for path in instances(hospital))
    assert not list(hospital.rglob("*truth*"))


def test_the_table_holds_the_findings_by_accession_number(hospital: Path) -> None:
    with (hospital / phantom.TABLE).open(encoding="utf-8") as file:
        table = {row["AccessionNumber"]: row["finding"] for row in csv.DictReader(file)}
    for person in plan(PATIENTS):
        for study in person.studies:
            assert table.get(study.accession) == (study.finding if study.in_table else None)


def test_the_demo_recipe_reads_this_hospital() -> None:
    demo = recipe.load("demo")
    assert (demo.source.form, demo.source.table, demo.source.table_key) == ("dicom", phantom.TABLE, "AccessionNumber")
    assert tuple(demo.source.classes) == FINDINGS
