"""The verb on heads: which images show one, what serves which, and what the header then says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from builders_deid import instance, settings
from builders_faces import head, multi_frame, noisy, slices, written
from pydicom.uid import generate_uid

from medpipe.deid import faces, stacks
from medpipe.deid.deidentify import deidentify
from medpipe.deid.heads import shows_head, view
from medpipe.deid.reading import quiet
from medpipe.errors import InputError
from medpipe.parallel import processes
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

DEFAULT = settings(quarantine_max=1.0)
OTHER = generate_uid(entropy_srcs=["another space"])


def codes(file: pydicom.Dataset) -> list[str]:
    return [item.CodeValue for item in file.DeidentificationMethodCodeSequence]


def listed(out: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(out / path) for path in pd.read_parquet(out / "index.parquet")["path"]]


def test_a_study_of_a_head_loses_its_face_and_says_so(tmp_path: Path, key: Path) -> None:
    """One volume is matched; a localizer in its space gets its mask, one in another space is not let through."""
    values, affine = head()
    values = noisy(values)
    written(slices(values, affine), tmp_path / "in")
    side = affine[:, [2, 0, 1, 3]]  # sagittal: x first, rows to the feet
    sagittal = values.transpose(2, 0, 1)[values.shape[2] // 2 - 1 : values.shape[2] // 2 + 1]
    side[:3, 3] += (values.shape[2] // 2 - 1) * side[:3, 0]
    written(slices(sagittal, side, series=2), tmp_path / "in", "near")
    written(slices(sagittal, side, series=3, FrameOfReferenceUID=OTHER), tmp_path / "in", "far")
    written(slices(values[8:10], affine, series=4, FrameOfReferenceUID=OTHER), tmp_path / "in", "axial")
    record = deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    assert record.facts["quarantined"] == {"FACE_NOT_REMOVED": 2}
    found = listed(tmp_path / "out")
    by_series = Counter(file.SeriesInstanceUID for file in found)
    assert sorted(by_series.values()) == [2, 2, len(values)]
    volume = sorted((file for file in found if by_series[file.SeriesInstanceUID] > 2), key=lambda file: file.ImagePositionPatient[2])
    after = np.stack([file.pixel_array for file in volume])
    region, brain = head("face")[0] > 0.5, head("brain")[0] > 30
    skin = (values > 20) & region
    assert (after[skin] < 15).mean() > 0.9
    assert (after == values.astype(np.uint16))[brain].all()
    assert all("113102" in codes(file) and file.RecognizableVisualFeatures == "NO" for file in volume)
    masked = [file for file in found if by_series[file.SeriesInstanceUID] == 2]
    assert not any("113102" in codes(file) or "RecognizableVisualFeatures" in file for file in masked)
    upright = [file for file in masked if file.Rows == values.shape[0]]
    assert len(upright) == 2
    front = sagittal[:, values.shape[0] // 6, :] > 20
    assert all((file.pixel_array[values.shape[0] // 6][line][:8] < 15).all() for file, line in zip(upright, front, strict=True))
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    (told,) = audit["heads"]
    assert (told["outcome"], told["images"], told["brain_voxels_lost"], told["face_lines_left"]) == ("defaced", len(values), 0, 0)
    assert audit["actions"]["images of defaced heads"] == len(values)
    assert audit["actions"]["images masked by their place alone"] == 2
    assert ["113102", "Clean Recognizable Visual Features Option"] in audit["codes"]


def test_a_head_that_cannot_be_matched_is_quarantined(tmp_path: Path, key: Path) -> None:
    values, affine = head()
    written(slices(values, affine @ np.diag([-1.0, 1, 1, 1])), tmp_path / "in")
    written([instance(2)], tmp_path / "in", "chest")
    record = deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    assert record.facts["quarantined"] == {"FACE_NOT_REMOVED": len(values)}
    assert record.facts["instances"] == 1
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["heads"][0]["outcome"] == "failed"


@pytest.mark.parametrize(("mode", "kept"), [("quarantine", 2), ("keep", 10)])
def test_a_recipe_can_let_no_head_through_or_keep_all_and_then_claims_nothing(tmp_path: Path, key: Path, mode: str, kept: int) -> None:
    values, affine = np.full((9, 16, 16), 50.0), np.diag([10.0, 10.0, 10.0, 1.0])[:, [2, 1, 0, 3]]
    written(slices(values, affine), tmp_path / "in")
    written(slices(values[:1], affine, series=2, FrameOfReferenceUID=OTHER), tmp_path / "in", "axial")
    written([instance(2)] if mode == "quarantine" else [], tmp_path / "in", "chest")
    record = deidentify(tmp_path / "in", tmp_path / "out", settings(faces=mode, quarantine_max=1.0), key_file=key)
    assert record.facts["instances"] == kept
    assert record.facts["quarantined"] == ({"FACE": 9} if mode == "quarantine" else {})
    assert not any("113102" in codes(file) for file in listed(tmp_path / "out"))


@pytest.mark.parametrize(
    ("elements", "shown"),
    [
        ({"BodyPartExamined": "HEAD"}, True),
        ({"BodyPartExamined": "BRAIN"}, True),
        ({"BodyPartExamined": "CHEST"}, False),
        ({"BodyPartExamined": "CHEST", "StudyDescription": "Thorax und Neck"}, True),
        ({"BodyPartExamined": "", "SeriesDescription": "t1_mprage_sag"}, True),
        ({"BodyPartExamined": "", "ProtocolName": "Sch\u00e4del nativ"}, True),
        ({"BodyPartExamined": "", "StudyDescription": "MR LSPINE"}, False),
        ({"BodyPartExamined": "", "StudyDescription": "early heart"}, False),
        ({"BodyPartExamined": ""}, None),
        ({"BodyPartExamined": "", "SeriesDescription": "AX T2"}, None),
    ],
)
def test_a_header_tells_whether_it_is_of_a_head(elements: dict[str, str], shown: bool | None) -> None:
    assert shows_head(instance(**elements)) is shown


def test_only_modalities_that_show_skin_against_air_are_looked_at() -> None:
    assert view(0, Path("x"), instance(Modality="DX", BodyPartExamined="HEAD")) is None
    assert view(0, Path("x"), instance(Modality="MR", BodyPartExamined="KNEE")) is None
    projection = view(0, Path("x"), slices(*head())[0])
    assert projection is not None
    assert projection.planes is not None
    projection = view(0, Path("x"), slices(*head(), ImageType=["DERIVED", "SECONDARY", "MIP"])[0])
    assert projection is not None
    assert projection.planes is None


def test_slices_become_the_volume_that_they_were_cut_from_also_tilted_and_with_a_gap(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 900, (30, 40, 36)).astype(np.float32)
    affine = np.diag([3.0, 3.0, 4.0, 1.0])[:, [2, 1, 0, 3]]
    affine[:3, 0] += [0.0, 1.0, 0.0]  # a gantry's tilt
    files = slices(values, affine)
    del files[12]
    folder = written(files[::-1], tmp_path)
    found = [view(number, path, pydicom.dcmread(path)) for number, path in enumerate(sorted(folder.iterdir()))]
    (stack,) = stacks.stacks([one for one in found if one is not None])
    assert stack.solid
    with quiet():
        volume = stacks.load(stack)
    assert volume is not None
    assert np.allclose(volume.affine, affine)
    assert np.array_equal(np.delete(volume.values, 12, axis=0), np.delete(values, 12, axis=0))
    assert np.allclose(volume.values[12], (values[11] + values[13]) / 2)


def test_an_enhanced_object_has_a_plane_for_each_frame_and_keeps_what_is_not_the_face(tmp_path: Path) -> None:
    values, affine = head()
    (path,) = written([multi_frame(values, affine)], tmp_path).iterdir()
    dataset = pydicom.dcmread(path)
    seen = view(0, path, dataset)
    assert seen is not None
    assert seen.planes is not None
    (stack,) = stacks.stacks([seen])
    assert (len(stack.along), stack.members) == (len(values), (seen,))
    with quiet():
        volume = stacks.load(stack)
    assert volume is not None
    assert np.allclose(volume.affine, affine)
    face = faces.Face(np.eye(4), np.zeros((1, 1, 1), bool), np.zeros(3))
    assert faces.apply(dataset, faces.Treatment(None, face, seen, 3.0, judged=True), Counter()) is None
    gone = face.mask(values.shape, affine)
    assert gone.any()
    assert np.array_equal(dataset.pixel_array, np.where(gone, 3, values.astype(np.uint16)))


def test_an_unlabelled_volume_that_has_not_the_size_of_a_head_passes_untouched(tmp_path: Path) -> None:
    values = np.zeros((20, 30, 30), np.float32)
    values[4:16, 8:22, 8:22] = 500
    affine = np.diag([4.0, 4.0, 4.0, 1.0])[:, [2, 1, 0, 3]]
    found = faces.Faces(DeidSettings())
    for number, path in enumerate(sorted(written(slices(values, affine, BodyPartExamined=""), tmp_path).iterdir())):
        found.look(number, path, pydicom.dcmread(path))
    with quiet():
        assert found.treatment(0) is None
    labelled = faces.Faces(DeidSettings())
    for number, path in enumerate(sorted(written(slices(values, affine), tmp_path / "head").iterdir())):
        labelled.look(number, path, pydicom.dcmread(path))
    with quiet():
        treatment = labelled.treatment(3)
    assert treatment is not None
    assert treatment.reason is Reason.FACE_NOT_REMOVED


@pytest.mark.slow
def test_two_workers_and_a_killed_run_give_the_same_bytes(tmp_path: Path, key: Path) -> None:
    for patient in (1, 2):
        values, affine = head(nod=4.0 * patient)
        written(slices(noisy(values), affine, patient), tmp_path / "in", f"p{patient}s")
    whole = deidentify(tmp_path / "in", tmp_path / "one", DEFAULT, key_file=key)
    assert whole.facts["quarantined"] == {}
    with processes(2) as executor:
        assert deidentify(tmp_path / "in", tmp_path / "two", DEFAULT, key_file=key, executor=executor).content == whole.content
    out = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from medpipe import recipe; from medpipe.deid.deidentify import deidentify;"
        "deidentify(Path(sys.argv[1]), Path(sys.argv[2]), recipe.build({'deid': {'quarantine_max': 1.0}}), key_file=Path(sys.argv[3]))"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "in"), str(out), str(key)], env=os.environ)
    deadline = time.monotonic() + 600
    while run.poll() is None and len(list(out.glob("instances/*/*.dcm"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (out / "record.json").exists()
    assert deidentify(tmp_path / "in", out, DEFAULT, key_file=key).content == whole.content


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_series_of_a_head_whose_face_others_removed_is_not_passed_on_their_word(tmp_path: Path, key: Path, data_dir: Path) -> None:
    """Every fourth slice of a published series: too much of what lies in the face's place is left, so the check says no."""
    import tarfile

    with tarfile.open(data_dir / "dicom" / "datalad_t1w_384slices.tar.gz") as archive:
        members = sorted((one for one in archive.getmembers() if one.name.endswith(".dcm")), key=lambda one: one.name)[::4]
        archive.extractall(tmp_path / "in", members, filter="data")
    with pytest.raises(InputError, match=f"FACE_NOT_REMOVED {len(members)}"):
        deidentify(tmp_path / "in", tmp_path / "out", settings(quarantine_max=1.0), key_file=key)
