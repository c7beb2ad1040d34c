"""A Collection on a medium: a DICOMDIR that other readers follow, made of what was cleaned."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest
from builders_deid import CANARY, DIGITS, canary, hospital, save, settings
from builders_objects import ecg, presentation, report, structures
from pydicom.fileset import FileSet

from medpipe import cli, records
from medpipe.deid import media
from medpipe.deid.deidentify import deidentify
from medpipe.errors import InputError

ALL = settings(objects="all", structured_content="clean", dates="remove")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    source = hospital(tmp_path / "in", 2)
    save(canary(), source / "c.dcm")
    for number, file in enumerate((report(), presentation(), ecg(), structures())):
        save(file, source / f"{number}.dcm")
    deidentify(source, tmp_path / "collection", ALL, key_file=tmp_path / "key" / "k.key")
    return tmp_path / "collection"


def test_every_instance_is_found_by_its_directory_and_nothing_identifies(collection: Path, tmp_path: Path) -> None:
    path = media.write(collection, tmp_path / "medium")
    directory = FileSet(path)
    listed = list(directory)
    directory._stage["t"].cleanup()  # the reader's own, for changes, which nobody makes here
    stored = {pydicom.dcmread(file).SOPInstanceUID for file in (collection / "instances").rglob("*.dcm")}
    assert {entry.SOPInstanceUID for entry in listed} == stored
    assert all(pydicom.dcmread(entry.path).SOPInstanceUID == entry.SOPInstanceUID for entry in listed)
    assert len(list((tmp_path / "medium").rglob("*"))) > len(stored)
    for file in (tmp_path / "medium").rglob("*"):
        assert file.name == "DICOMDIR" or re.fullmatch(r"(PT|ST|SE|IM)[0-9A-Z]{6}", file.name)
        data = file.read_bytes() if file.is_file() else b""
        assert CANARY.encode() not in data
        assert DIGITS.encode() not in data
    kinds = {item.DirectoryRecordType for item in pydicom.dcmread(path).DirectoryRecordSequence}
    assert kinds == {"PATIENT", "STUDY", "SERIES", "IMAGE", "SR DOCUMENT", "PRESENTATION", "WAVEFORM", "RT STRUCTURE SET"}


def test_equal_collections_give_equal_bytes_and_the_collection_is_left_as_it_is(collection: Path, tmp_path: Path) -> None:
    before = records.load(collection, "Collection", verify=True).content
    one, two = media.write(collection, tmp_path / "one"), media.write(collection, tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()
    assert records.load(collection, "Collection", verify=True).content == before


def test_a_folder_that_is_there_is_not_written_into(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "medium").mkdir()
    with pytest.raises(InputError, match="there already"):
        media.write(collection, tmp_path / "medium")


def test_the_command_line_writes_it_too(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(collection), str(tmp_path / "medium")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "medium" / "DICOMDIR")
    assert cli.main(["export", str(collection), str(tmp_path / "medium")]) == 2
    assert "name a new one" in capsys.readouterr().err
