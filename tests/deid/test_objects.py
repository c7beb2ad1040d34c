"""Objects that are no images: cleaned where everything in them can be judged, set aside under their own reason where not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from builders_deid import CANARY, DIGITS, instance, save, settings
from builders_objects import bare, document, ecg, presentation, report, structures

from medpipe import recipe
from medpipe.deid import objects
from medpipe.deid.deidentify import deidentify
from medpipe.images.preprocess import preprocess
from medpipe.recipe import Recipe
from medpipe.records import Record
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

ALL = settings(objects="all", structured_content="clean", graphics="clean", descriptors="clean")


def made(tmp_path: Path, files: list[pydicom.FileDataset], chosen: Recipe = ALL) -> tuple[Record, dict[str, pydicom.FileDataset]]:
    """De-identify files beside one image; return the record and the objects by modality, after a search of every byte."""
    save(instance(7, PatientID=DIGITS, PatientName=f"{CANARY}^Ada"), tmp_path / "in" / "image.dcm")
    for number, file in enumerate(files):
        save(file, tmp_path / "in" / f"{number}.dcm")
    record = deidentify(tmp_path / "in", tmp_path / "out", chosen, key_file=tmp_path / "key" / "k.key")
    for path in (tmp_path / "out").rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        for marker in (CANARY, DIGITS, "20150117", "White", "482910", "Ada^", "Reader"):
            assert marker.encode() not in data, (path.name, marker)
    index = pd.read_parquet(tmp_path / "out" / "index.parquet")
    return record, {row.modality: pydicom.dcmread(tmp_path / "out" / row.path) for row in index.itertuples()}


def test_a_report_keeps_its_tree_codes_and_numbers_and_loses_who_and_when(tmp_path: Path) -> None:
    record, found = made(tmp_path, [report()])
    assert record.facts["instances"] == 2
    text, person, when, number, container = found["SR"].ContentSequence
    assert text.TextValue == "Nodule in the left lung, 12 mm, for seen"
    assert text.ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    assert person.PersonName == "REMOVED"
    assert when.DateTime != "20150117101530"
    assert when.DateTime.endswith("101530")
    assert number.MeasuredValueSequence[0].NumericValue == 12.5
    assert number.ConceptNameCodeSequence[0].CodeMeaning == "REMOVED"
    assert container.ContentSequence[0].TextValue == "back"
    codes = [item.CodeValue for item in found["SR"].DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113103", "113104", "113105", "113107", "113108"]
    assert "BurnedInAnnotation" not in found["SR"]


def test_a_report_is_set_aside_where_its_content_may_not_stay(tmp_path: Path) -> None:
    record, found = made(tmp_path, [report(), report(21, "88.59")], settings(objects="all"))
    assert record.facts["set_aside"] == {"REPORT": 2}
    assert set(found) == {"DX"}


def test_images_alone_are_taken_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    files = [report(), presentation(), ecg(), structures(), document()]
    record, _ = made(tmp_path, files, settings())
    assert record.facts["set_aside"] == {"NO_PIXELS": 4, "DOCUMENT": 1}


def test_presentation_states_waveforms_and_structures_keep_their_numbers(tmp_path: Path) -> None:
    record, found = made(tmp_path, [presentation(), ecg(trailing=f"{CANARY}{DIGITS}".encode()), structures()])
    assert (record.facts["instances"], record.facts["set_aside"], record.facts["quarantined"]) == (4, {}, {})
    annotation = found["PR"].GraphicAnnotationSequence[0]
    assert annotation.TextObjectSequence[0].UnformattedTextValue == "nodule"
    assert list(annotation.GraphicObjectSequence[0].GraphicData) == [1, 2, 3, 4]
    wave = found["ECG"].WaveformSequence[0]
    assert wave.WaveformData == np.arange(8, dtype="<i2").tobytes()
    assert wave.ChannelDefinitionSequence[0].ChannelSourceSequence[0].CodeMeaning == "Lead I"
    assert found["ECG"].WaveformAnnotationSequence[0].UnformattedTextValue == "ectopic beat"
    assert found["RTSTRUCT"].StructureSetROISequence[0].ROIName == "LUNG"
    assert list(found["RTSTRUCT"].ROIContourSequence[0].ContourSequence[0].ContourData) == [1.5, 2.5, 3.5]


def test_without_the_option_annotations_go(tmp_path: Path) -> None:
    _, found = made(tmp_path, [presentation()], settings(objects="all"))
    assert "GraphicAnnotationSequence" not in found["PR"]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (document(), Reason.DOCUMENT),
        (bare("104.2", "DOC", 1), Reason.DOCUMENT),
        (ecg(kind="9.4.1"), Reason.AUDIO),
        (ecg(interpretation="MB"), Reason.AUDIO),
        (bare("66", "OT", 1), Reason.NO_PIXELS),
        (bare("9", "OT", 1), Reason.NO_PIXELS),
        (bare("1.1", "DX", 1), Reason.NO_PIXELS),
        (bare("481.5", "RTPLAN", 1), None),
        (bare("66.1", "REG", 1), None),
    ],
)
def test_what_nobody_can_vouch_for_is_set_aside_whatever_the_recipe_says(file: pydicom.FileDataset, reason: Reason | None) -> None:
    assert (objects.refused(file, ALL.deid) or objects.data(file, Counter())) == reason


def test_a_document_with_pixels_is_no_image() -> None:
    file = document()
    file.PixelData = b"\0" * 4
    assert objects.refused(file, DeidSettings()) == Reason.DOCUMENT


def test_a_waveform_that_ends_before_its_samples_do_is_truncated() -> None:
    file = ecg()
    file.WaveformSequence[0].WaveformData = b"\0" * 6
    assert objects.data(file, Counter()) == Reason.TRUNCATED


def test_waveforms_in_an_image_are_none_and_go() -> None:
    file, counts = instance(), Counter[str]()
    file.WaveformSequence = ecg().WaveformSequence
    assert objects.data(file, counts) is None
    assert "WaveformSequence" not in file
    assert counts["removed, binary"] == 1


def test_preprocess_passes_over_what_is_no_image(tmp_path: Path) -> None:
    for patient in range(1, 7):
        for study in (1, 2):
            save(instance(patient, study), tmp_path / "in" / f"{patient}{study}.dcm")
    for number, file in enumerate((report(), presentation(), ecg(), structures())):
        save(file, tmp_path / "in" / f"o{number}.dcm")
    chosen = recipe.build(
        {
            "deid": ALL.deid.model_dump(),
            "images": {"size": 16, "patients_per_class_min": 1},
            "model": {"channels": [32], "blocks": [1]},
        }
    )
    record = deidentify(tmp_path / "in", tmp_path / "out", chosen, key_file=tmp_path / "key" / "k.key")
    assert record.facts["instances"] == 16
    dataset = preprocess(tmp_path / "out", tmp_path / "dataset", chosen)
    assert dataset.facts["modality"] == "DX"
    excluded = pd.read_parquet(dataset.path / "excluded.parquet")
    assert list(excluded["reason"]).count("NOT_AN_IMAGE") == 4


def test_the_bundled_objects_are_cleaned(tmp_path: Path) -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in ("test-SR.dcm", "reportsi.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((folder / name).read_bytes())
    record = deidentify(tmp_path / "in", tmp_path / "out", ALL, key_file=tmp_path / "key" / "k.key")
    assert (record.facts["instances"], record.facts["quarantined"], record.facts["set_aside"]) == (5, {}, {})
    ecg_file = next(path for path in (tmp_path / "out").rglob("*.dcm") if pydicom.dcmread(path).Modality == "ECG")
    wave, original = pydicom.dcmread(ecg_file).WaveformSequence, pydicom.dcmread(folder / "waveform_ecg.dcm").WaveformSequence
    assert [group.WaveformData for group in wave] == [group.WaveformData for group in original]
