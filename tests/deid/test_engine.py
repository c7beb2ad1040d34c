"""The parts of the engine: the table, pseudonyms, text, identifiers, pixels, keys."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from builders_deid import CANARY, canary, instance, settings, with_pixels, written
from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit

from medpipe.deid import burned_in, ocr, pixels, policy, profile, pseudonyms
from medpipe.deid.actions import Cleaner, capped_age, shifted_date
from medpipe.deid.freetext import technical
from medpipe.deid.identifiers import Identifiers
from medpipe.deid.instance import Needles, encoded
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.reading import quiet
from medpipe.errors import InputError
from medpipe.settings import DeidSettings
from medpipe.sources.folder import SENTENCES, Reason

NAMES = Pseudonyms(b"k" * 32)
CODES = {"D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D", "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D",
         "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U*"}  # fmt: skip
OPTIONS = {"rtnSafePrivOpt": "private", "rtnUIDsOpt": "uids", "rtnDevIdOpt": "devices", "rtnInstIdOpt": "institutions",
           "rtnPatCharsOpt": "patient", "rtnLongFullDatesOpt": "full_dates", "rtnLongModifDatesOpt": "modified_dates",
           "cleanDescOpt": "descriptors", "cleanStructContOpt": "content", "cleanGraphOpt": "graphics"}  # fmt: skip


def cleaned(file: pydicom.FileDataset, deid: DeidSettings | None = None, shift_days: int = -100) -> pydicom.FileDataset:
    identifiers = Identifiers()
    with quiet():
        identifiers.gather(file)
        Cleaner(deid or DeidSettings(), NAMES, identifiers, "P1", shift_days).clean(file)
    return file


def test_the_profile_is_the_packages_table_row_by_row() -> None:
    table = dicom_anonymization_database_selector("dicomfields_2026c")
    wanted = {}
    for name, code in CODES.items():
        for tag in table[name]:
            masked = {0x5000: "50XXXXXX", 0x6000: f"60XX{tag[1]:04X}"}
            wanted[f"{tag[0]:04X}{tag[1]:04X}" if len(tag) == 2 else masked[tag[0]]] = code
    ours = {row.tag: row.basic for row in profile.rows() if row.tag != "PRIVATE"}
    assert ours == wanted
    assert len(profile.rows()) == 656


def test_the_options_are_the_standards_columns(data_dir: Path) -> None:
    rows = json.loads((data_dir / "dicom" / "confidentiality_2024e.json").read_text())
    ours = {row.tag: row for row in profile.rows()}
    for row in rows:
        mine = ours["PRIVATE" if row["id"].upper().startswith("GGGG") else row["id"].upper()]
        assert mine.basic == row["basicProfile"]
        assert mine.options == {OPTIONS[name]: code for name, code in row.items() if name in OPTIONS}
    assert len(ours) - len(rows) == 35  # the rows that are newer than the option columns


def test_the_page_is_what_the_profile_says(root: Path) -> None:
    page = (root / "docs" / "deidentification.md").read_text()
    assert policy.page(page) == page


def test_every_reason_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Reason)


@given(st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=64))
def test_the_map_of_uids_is_injective_stable_and_legal(one: str, other: str) -> None:
    assert NAMES.uid(one) == NAMES.uid(one) != Pseudonyms(b"l" * 32).uid(one)
    assert (NAMES.uid(one) == NAMES.uid(other)) == (one == other)
    assert re.fullmatch(r"2\.25\.[1-9][0-9]{0,38}", NAMES.uid(one))
    number = int(NAMES.uid(one)[5:])
    assert (number >> 76 & 0xF, number >> 62 & 0x3) == (8, 2)


@given(st.dates(date(1920, 1, 1), date(2090, 1, 1)), st.integers(0, 10000), st.text(max_size=20), st.integers(30, 36500))
def test_a_shift_keeps_intervals_and_is_never_nothing(first: date, later: int, patient: str, most: int) -> None:
    days = NAMES.shift_days(patient, most)
    assert -most <= days <= -1
    moved = [shifted_date((first + timedelta(days=add)).strftime("%Y%m%d"), days) for add in (0, later)]
    parsed = [date(int(text[:4]), int(text[4:6]), int(text[6:])) for text in moved if text]
    assert (parsed[1] - parsed[0]).days == later


@pytest.mark.parametrize(
    ("age", "capped"), [("089Y", "089Y"), ("090Y", "090Y"), ("104Y", "090Y"), ("011M", "011M"), ("old", None), ("9Y", None)]
)
def test_ages(age: str, capped: str | None) -> None:
    assert capped_age(age) == capped


@pytest.mark.parametrize(
    "text", ["SIEMENS", "FAST_GEMS", "*tfl3d1_16ns", "H30s", "GE MEDICAL SYSTEMS", "syngo MR B17", "T-A0100", "HEAD FIRST", "LSPINE", ""]
)
def test_technical_text_stays(text: str) -> None:
    assert technical(text)


@pytest.mark.parametrize(
    "text",
    [CANARY, "DOE^JANE", "Jane Doe", "1234567", "2019-02-03", "03.02.19", "Feb 3 2019", "555-1234567", "Petersen", "山田", "MRN 482910",
     "+44 20 7946 0123", "see Dr Whitcombe", "x" * 300, "a\x00b"],
)  # fmt: skip
def test_text_that_may_identify_goes(text: str) -> None:
    assert not technical(text)


def test_a_patient_called_like_a_technical_word_is_cleaned_from_text_but_not_from_the_standards_values() -> None:
    file = cleaned(instance(PatientName="Axial^Detail", ReceiveCoilName="Detail coil", FilterType="STRIP"))
    assert file.ReceiveCoilName == "REMOVED"
    assert file.FilterType == "STRIP"
    assert list(file.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]


@given(st.permutations(["DOE", "Jane", "8841-2207"]), st.sampled_from(["^", " ", "_", "", "-", ", "]))
def test_an_identifier_is_seen_in_any_order_and_with_any_separator(parts: list[str], between: str) -> None:
    known = Identifiers()
    known.add("Doe^Jane")
    known.add("88412207", number=True)
    assert known.within(between.join(parts).upper())
    assert not known.within("SIEMENS Avanto 1.5 T")


def test_the_canary_is_gone_from_every_syntax() -> None:
    for syntax in (pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian):
        file = canary()
        file.file_meta.TransferSyntaxUID = syntax
        assert CANARY.encode() not in encoded(cleaned(file))


def test_sequences_nested_a_hundred_deep_are_cleaned_to_the_bottom() -> None:
    inner = pydicom.Dataset()
    inner.PatientName, inner.CodeMeaning = CANARY, CANARY
    for _ in range(100):
        outer = pydicom.Dataset()
        outer.ConceptCodeSequence = [inner]
        inner = outer
    assert CANARY.encode() not in encoded(cleaned(instance(ViewCodeSequence=[inner])))


def test_ten_thousand_private_elements_are_removed_quickly() -> None:
    file = instance()
    for number in range(10_000):
        file.add_new(0x00111000 + number % 0xF00 + (number // 0xF00 << 17), "LO", CANARY)
    assert not [tag for tag in cleaned(file).keys() if tag.is_private]  # noqa: SIM118 (iterating a Dataset gives elements)


def test_identifying_numbers_are_removed_from_numeric_text() -> None:
    file = cleaned(instance(PatientID="7730951", NumberOfAverages="7730951", EchoTime="4.5", TriggerTime="19510829"))
    assert not file.NumberOfAverages
    assert not file.TriggerTime
    assert file.EchoTime == 4.5


def test_a_value_with_the_wrong_representation_goes() -> None:
    file = instance()
    file.add_new(0x00280030, "UT", "spacing")
    with quiet():
        file.add_new(0x00181150, "IS", None)
    file[0x00181150]._value = CANARY
    result = cleaned(file)
    assert not result.ExposureTime


def test_sites_can_be_removed_or_told_apart() -> None:
    one, two, other = cleaned(instance(1)), cleaned(instance(2)), cleaned(instance(3, InstitutionName="Harbour House"))
    assert one.InstitutionName == two.InstitutionName != other.InstitutionName
    assert one.DeviceSerialNumber.startswith("scanner-")
    assert cleaned(instance(), settings(sites="remove").deid).InstitutionName == "REMOVED"


def test_characteristics_can_be_removed() -> None:
    file = cleaned(instance(PatientWeight="71"), settings(retain_patient_characteristics=False).deid)
    assert file.PatientSex == ""
    assert "PatientAge" not in file
    assert "PatientWeight" not in file


def test_needles_are_found_where_they_stand_and_not_where_they_happen() -> None:
    known = Identifiers()
    known.add("Mary^Quillfeather")
    known.add("123456", number=True)
    needles = Needles(*(frozenset(some) for some in known.needles()))
    for data in (b"..quillfeather..", b"xQuillFeatherx", b" MARY ", b"id 123456 "):
        assert needles.within(data, slice(0, 0)), data
    for data in (b"PRIMARY", b"2.25.91234567", b"0.123456", b"quill feather"):
        assert not needles.within(data, slice(0, 0)), data


def test_an_overlay_in_the_unused_bits_is_cleared() -> None:
    values = (np.arange(48 * 48, dtype=np.uint16) % 4096).reshape(48, 48)
    file = instance(BitsAllocated=16, BitsStored=12, HighBit=11)
    file.PixelData = (values | np.uint16(0x8000)).tobytes()
    file.add_new(0x60000102, "US", 15)
    counts: Counter[str] = Counter()
    assert pixels.clean(file, DeidSettings(), counts) is None
    assert np.array_equal(np.frombuffer(file.PixelData, np.uint16).reshape(48, 48), values)


def test_bytes_behind_the_last_pixel_are_cut() -> None:
    file = instance()
    whole = file.PixelData
    file.PixelData = whole + CANARY.encode()
    assert pixels.clean(file, DeidSettings(), Counter()) is None
    assert file.PixelData == whole


def test_text_is_blacked_out_in_big_endian_and_in_wide_pixels() -> None:
    drawn = written(["COHEN, PAVEL", "10.03.2015"]).astype(np.uint16) * 16
    file = instance(BitsAllocated=16, BitsStored=12, HighBit=11, Rows=256, Columns=256)
    file.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    file.PixelData = drawn.astype(">u2").tobytes()
    file["PixelData"].VR = "OW"
    assert pixels.clean(file, DeidSettings(), Counter()) is None
    again = np.frombuffer(file.PixelData, "<u2").reshape(256, 256)
    assert not burned_in.must_go(ocr.lines((again / 16).astype(np.uint8)))
    assert np.array_equal(again[100:], drawn[100:])


def test_text_in_compressed_colour_is_blacked_out() -> None:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.repeat(written(["OKAFOR, CHIDI"], pixels=16)[..., None], 3, -1)).save(buffer, "JPEG", quality=95)
    file = instance(Rows=256, Columns=256, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file.PixelData = encapsulate([buffer.getvalue()])
    file["PixelData"].is_undefined_length = True
    counts: Counter[str] = Counter()
    assert pixels.clean(file, DeidSettings(), counts) is None
    assert counts["frames blacked out"] == 1
    assert (file.PhotometricInterpretation, len(file.PixelData)) == ("RGB", 256 * 256 * 3)


def test_a_file_of_ones_and_zeros_is_a_mask_and_is_not_read() -> None:
    file = with_pixels(instance(), np.zeros((48, 48)))
    file.BitsAllocated = file.BitsStored = 1
    file.PixelData = bytes(48 * 48 // 8)
    counts: Counter[str] = Counter()
    assert pixels.clean(file, DeidSettings(), counts) is None
    assert not counts


def test_a_key_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "private" / "k.key"
    first = pseudonyms.load(path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert pseudonyms.load(path) == first
    assert len(first.key_id) == 16
    assert path.read_text().strip() not in repr(first)


@pytest.mark.parametrize("text", ["", "abc", "z" * 64, "00" * 16])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InputError, match="holds no key"):
        pseudonyms.load(path)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.key"
    pseudonyms.load(path)
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        pseudonyms.load(path)
