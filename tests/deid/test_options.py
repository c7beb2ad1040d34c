"""The options of PS3.15: each keeps what it says, never an identifier, and its code is written where it was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from builders_deid import BIRTH, CANARY, DIGITS, canary, instance, save, settings, written
from builders_objects import item
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medpipe.deid import overlays, private, profile
from medpipe.deid.actions import Cleaner
from medpipe.deid.deidentify import deidentify
from medpipe.deid.identifiers import Identifiers
from medpipe.deid.instance import encoded
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.reading import quiet
from medpipe.deid.wording import technical_words
from medpipe.settings import DeidSettings

NAMES = Pseudonyms(b"k" * 32)
EVERYTHING = DeidSettings(
    dates="keep",
    retain_device_identity=True,
    retain_institution_identity=True,
    retain_uids=True,
    retain_safe_private=True,
    descriptors="clean",
    structured_content="clean",
    graphics="clean",
    objects="all",
)


def cleaned(file: pydicom.FileDataset, **deid: Any) -> pydicom.FileDataset:
    chosen = DeidSettings(**deid)
    identifiers = Identifiers(retained=profile.retained(chosen))
    with quiet():
        identifiers.gather(file)
        identifiers.dates -= identifiers.told
        Cleaner(chosen, NAMES, identifiers, "P1", -100).clean(file)
    return file


def single(tmp_path: Path, file: pydicom.FileDataset, **deid: Any) -> pydicom.FileDataset:
    """De-identify one file by the verb, and read it back."""
    save(file, tmp_path / "in" / "a.dcm")
    record = deidentify(tmp_path / "in", tmp_path / "out", settings(**deid), key_file=tmp_path / "key" / "k.key")
    assert (record.facts["instances"], record.facts["quarantined"]) == (1, {})
    (path,) = pd.read_parquet(tmp_path / "out" / "index.parquet")["path"]
    return pydicom.dcmread(tmp_path / "out" / path)


def test_the_canary_is_gone_under_every_option_at_once() -> None:
    file = canary(ImageComments=f"nodule {CANARY}", SeriesDescription=f"CT {CANARY} {DIGITS}", Allergies=CANARY, DetectorID=CANARY)
    data = encoded(cleaned(file, **EVERYTHING.model_dump()))
    for marker in (CANARY, DIGITS, BIRTH, "Hanako"):
        assert marker.encode() not in data, marker


@pytest.mark.parametrize(("option", "code"), [(option, option.code) for option in profile.OPTIONS])
def test_a_code_is_written_where_its_option_is_chosen(option: profile.Option, code: str) -> None:
    none = DeidSettings(dates="remove", retain_patient_characteristics=False)
    one = none.model_copy(update={option.setting: option.value})
    assert [value for value, _ in profile.codes(none, pixels_cleaned=False)] == ["113100"]
    assert [value for value, _ in profile.codes(one, pixels_cleaned=True)] == sorted(["113100", "113101", code])


@pytest.mark.parametrize("row", profile.rows(), ids=lambda row: row.tag)
def test_every_row_does_what_its_columns_say(row: profile.Row) -> None:
    basic = DeidSettings(dates="remove", retain_patient_characteristics=False, sites="remove")
    named = row.tag in ("00100010", "00100020", "00080050")
    if not named and row.tag != "00700001":
        assert profile.action(row, basic) == ("remove" if row.tag == "00081110" else profile.BASIC[row.basic])
    for option in profile.OPTIONS:
        done = profile.action(row, basic.model_copy(update={option.setting: option.value}))
        code = row.options.get(option.column)
        if named or row.tag == "00700006":
            continue
        if option.column in ("full_dates", "modified_dates"):
            assert (done in ("shift", "keep date")) == (code is not None)
        elif code == "K" and "full_dates" not in row.options:
            assert done in ("keep", "retain")
        elif code == "C":
            assert done == "clean"
        else:
            assert done not in ("keep", "retain", "clean", "shift", "keep date")


@pytest.mark.parametrize(("dates", "said"), [("keep", "UNMODIFIED"), ("shift", "MODIFIED"), ("remove", "REMOVED")])
def test_dates_are_kept_shifted_or_removed_and_the_header_says_which(tmp_path: Path, dates: str, said: str) -> None:
    file = instance(AcquisitionDateTime="20150117101530", DateOfSecondaryCapture="20150117", TimezoneOffsetFromUTC="+0100")
    out = single(tmp_path, file, dates=dates)
    assert out.LongitudinalTemporalInformationModified == said
    kept = [out.get("StudyDate"), out.get("AcquisitionDateTime"), out.get("DateOfSecondaryCapture")]
    assert (kept == ["20150117", "20150117101530", "20150117"]) == (dates == "keep")
    assert ("TimezoneOffsetFromUTC" in out) == (dates == "keep")
    assert out.PatientBirthDate == ""
    if dates == "shift":
        assert out.StudyDate == out.DateOfSecondaryCapture != "20150117"


def test_a_child_scanned_on_its_day_of_birth_is_no_leak_where_dates_are_kept(tmp_path: Path) -> None:
    out = single(tmp_path, instance(PatientBirthDate="20150117", PatientAge="001D"), dates="keep")
    assert (out.StudyDate, out.PatientBirthDate) == ("20150117", "")


def test_a_date_of_birth_is_kept_nowhere_else(tmp_path: Path) -> None:
    out = single(tmp_path, instance(DateOfSecondaryCapture=BIRTH, AcquisitionDate=BIRTH), dates="keep")
    assert out.AcquisitionDate == BIRTH  # the table keeps it, and says that it is a date of the acquisition
    nested = cleaned(instance(TriggerTime=BIRTH, ImageComments=f"born {BIRTH}"), dates="keep", descriptors="clean")
    assert not nested.TriggerTime
    assert BIRTH not in str(nested)


def test_devices_and_institutions_are_kept_as_they_are_and_alone(tmp_path: Path) -> None:
    file = instance(StationName="CT-ROOM-7", InstitutionAddress="1 Alban Way", DetectorID="DET 0042", DateOfLastCalibration="20150110")
    kept = single(tmp_path, file, retain_device_identity=True, retain_institution_identity=True)
    assert (kept.DeviceSerialNumber, kept.StationName, kept.DetectorID) == ("SN-4471209", "CT-ROOM-7", "DET 0042")
    assert (kept.InstitutionName, kept.InstitutionAddress) == ("Alban Infirmary", "1 Alban Way")
    assert kept.DateOfLastCalibration != "20150110"
    assert kept.PatientIdentityRemoved == "YES"


def test_a_device_called_after_the_patient_is_not_kept() -> None:
    file = cleaned(
        instance(StationName="FAMILYB-PC", InstitutionName="Given"), retain_device_identity=True, retain_institution_identity=True
    )
    assert file.StationName == "REMOVED"
    assert "Given" not in str(file)


def test_uids_are_kept_or_mapped_and_one_that_holds_a_number_is_always_mapped(tmp_path: Path) -> None:
    file = instance(FrameOfReferenceUID=f"1.2.3.{DIGITS}", PatientID=DIGITS)
    original = file.SOPInstanceUID
    out = single(tmp_path, file, retain_uids=True)
    assert out.SOPInstanceUID == out.file_meta.MediaStorageSOPInstanceUID == original
    assert DIGITS not in out.FrameOfReferenceUID
    row = pd.read_parquet(tmp_path / "out" / "index.parquet").iloc[0]
    assert row["instance"] == original
    assert original not in row["path"]


def mr(**elements: Any) -> pydicom.FileDataset:
    """A file with Siemens' and GE's private blocks, of which some elements are safe."""
    file = instance(**elements)
    block = file.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0E, "FD", [0.5, 0.5, 0.7])
    block.add_new(0x08, "CS", CANARY)
    other = file.private_block(0x0043, "GEMS_PARM_01", create=True)
    other.add_new(0x27, "SH", "0.531:1")
    other.add_new(0x39, "IS", ["800", "0", "0", "0"])
    other.add_new(0x6F, "DS", ["1", "2", "3", "4", "5", "6"])
    file.private_block(0x0043, "SOMEBODY ELSE", create=True).add_new(0x27, "SH", "0.531:1")
    file.private_block(0x0045, CANARY, create=True).add_new(0x01, "SS", 3)
    return file


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_safe_private_elements_stay_by_creator_and_nothing_else_private_does(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    file = mr()
    file.file_meta.TransferSyntaxUID = syntax
    out = single(tmp_path, file, retain_safe_private=True)
    block = out.private_block(0x0019, "SIEMENS MR HEADER")
    assert block[0x0C].value == 1000
    assert list(block[0x0E].value) == [0.5, 0.5, 0.7]
    assert out.private_block(0x0043, "GEMS_PARM_01")[0x27].value == "0.531:1"
    private_tags = [tag for tag in out.keys() if tag.is_private]  # noqa: SIM118 (iterating a Dataset gives elements)
    assert len(private_tags) == 6
    assert not [tag for tag in single(tmp_path / "2", mr()).keys() if tag.is_private]  # noqa: SIM118


def test_safe_private_elements_with_a_wrong_value_go() -> None:
    file = instance(PatientID="7730951")
    block = file.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "7730951")
    block.add_new(0x0D, "CS", "FAMILYB")
    block.add_new(0x0E, "UN", b"JOHN DOE 1951")
    block.add_new(0x27, "FD", [0.0] * 7)
    inner = item()
    inner.private_block(0x0045, "GEMS_HELIOS_01", create=True).add_new(0x01, "SS", 32)
    inner.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x27, "SH", CANARY)
    file.ViewCodeSequence = Sequence([inner])
    out = cleaned(file, retain_safe_private=True)
    assert not [tag for tag in out.keys() if tag.is_private]  # noqa: SIM118 (iterating a Dataset gives elements)
    assert out.ViewCodeSequence[0].private_block(0x0045, "GEMS_HELIOS_01")[0x01].value == 32
    assert CANARY not in str(out)


def test_the_safe_list_has_the_representations_of_pydicoms_private_dictionary() -> None:
    from pydicom.datadict import private_dictionary_VM, private_dictionary_VR
    from pydicom.tag import Tag

    for row in private.rows():
        tag = Tag(int(row.group, 16), 0x1000 | int(row.element, 16))
        assert private_dictionary_VR(tag, row.creator) == row.vr, row
        assert str(row.values) in private_dictionary_VM(tag, row.creator), row


def test_descriptions_keep_their_technical_words(tmp_path: Path) -> None:
    file = instance(
        StudyDescription="CT ABDOMEN for Dr White, MRN 482910",
        SeriesDescription=f"T2 axial FAMILYB {BIRTH}",
        ImageComments="Zacharias called",
        ProtocolName="Given^Familyb",
        PatientState="Familyb is stable",
    )
    out = single(tmp_path, file, descriptors="clean")
    assert out.StudyDescription == "CT ABDOMEN for"
    assert out.SeriesDescription == "T2 axial"
    assert "ImageComments" not in out or "Zacharias" not in out.ImageComments
    assert out.ProtocolName == "REMOVED"
    assert "StudyDescription" not in single(tmp_path / "2", file)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Lung, 12 mm in segment 7", "Lung, 12 mm in segment 7"),
        ("CT of Mr Li", "CT of"),
        ("CT of Li", "CT of"),
        ("Prof. White Hill chest", "chest"),
        ("chest 03 02 2019", "chest"),
        ("chest 3 2 19", "chest"),
        ("chest 1.2.840.113619", "chest"),
        ("chest 02/03/19", "chest"),
        ("chest 88 41 22 07", "chest"),
        ("call 555-1234", "call"),
        ("山田 chest", "chest"),
        ("chest\x00\x01 lung", "lung"),
        ("Jane", ""),
        ("", ""),
    ],
)
def test_the_technical_words_of_a_description(text: str, left: str) -> None:
    known = Identifiers()
    known.add("Doe^Jane")
    known.add("88412207", number=True)
    assert technical_words(text, known) == left


def test_characteristics_that_are_texts_keep_their_technical_words() -> None:
    file = cleaned(instance(Allergies="contrast, says Familyb", PatientWeight="71"))
    assert file.Allergies == "contrast,"
    assert "Allergies" not in cleaned(instance(Allergies="contrast"), retain_patient_characteristics=False)


def with_overlay(bits: np.ndarray[Any, Any], trailing: bytes = b"") -> pydicom.FileDataset:
    """An image with one overlay."""
    file = instance(side=256)
    for element, vr, value in ((0x10, "US", 256), (0x11, "US", 256), (0x40, "CS", "G"), (0x50, "SS", [1, 1]), (0x100, "US", 1),
                               (0x102, "US", 0), (0x22, "LO", CANARY), (0x1500, "LO", CANARY), (0x4000, "LT", CANARY)):  # fmt: skip
        file.add_new(0x60000000 | element, vr, value)
    file.add_new(0x60003000, "OW", np.packbits(bits.reshape(-1), bitorder="little").tobytes() + trailing)
    return file


def test_an_overlay_stays_where_no_text_is_found_in_it_and_without_its_own_texts(tmp_path: Path) -> None:
    box = np.zeros((256, 256), np.uint8)
    box[60:120, 80:200] = 1
    out = single(tmp_path, with_overlay(box, CANARY.encode()), graphics="clean")
    assert np.array_equal(out.overlay_array(0x6000), box)
    assert CANARY.encode() not in (tmp_path / "out" / pd.read_parquet(tmp_path / "out" / "index.parquet")["path"][0]).read_bytes()
    assert not [tag for tag in single(tmp_path / "2", with_overlay(box)).keys() if tag.group == 0x6000]  # noqa: SIM118


def test_an_overlay_with_text_goes(tmp_path: Path) -> None:
    text = (written(["MILLER, ANNA", "MRN 4820193"], fill=255) > 230).astype(np.uint8)
    out = single(tmp_path, with_overlay(text), graphics="clean")
    assert not [tag for tag in out.keys() if tag.group == 0x6000]  # noqa: SIM118 (iterating a Dataset gives elements)


@pytest.mark.parametrize(("element", "value"), [(0x0100, 16), (0x0102, 3), (0x0010, 0), (0x0010, 999), (0x0040, "X")])
def test_an_overlay_that_is_not_what_it_should_be_goes(element: int, value: object) -> None:
    file = with_overlay(np.zeros((256, 256), np.uint8))
    file[0x60000000 | element].value = value
    assert not overlays.verified(file, Cleaner(DeidSettings(), NAMES, Identifiers(), "P", -1).counts)
