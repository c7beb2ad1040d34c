"""A refresh cleans what is new, takes the rest from the Collection before it, and ends in the bytes of a run from nothing."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from builders_deid import CANARY, hospital, instance, save, settings

from medpipe import chain, records
from medpipe.deid import instance as instances
from medpipe.deid import patient
from medpipe.deid.deidentify import deidentify
from medpipe.errors import RecordError
from medpipe.recipe import Recipe

DEFAULT = settings()


class Work:
    """Counts what is read and cleaned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searched, self.cleaned = 0, 0
        search, clean = patient.search, instances.deidentify

        def counted_search(work: patient.Search) -> list[patient.Found]:
            self.searched += len(work.files)
            return search(work)

        def counted_clean(*arguments: object) -> instances.Outcome:
            self.cleaned += 1
            return clean(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(patient, "search", counted_search)
        monkeypatch.setattr(instances, "deidentify", counted_clean)


def refreshed(source: Path, tmp_path: Path, key: Path, work: Work, recipe: Recipe = DEFAULT) -> tuple[int, int]:
    """Refresh the first Collection; return (headers read, files cleaned) after comparing the result with a run from nothing."""
    work.searched, work.cleaned = 0, 0
    made = deidentify(source, tmp_path / "second", recipe, key_file=key, earlier=tmp_path / "first")
    did = work.searched, work.cleaned
    assert made.content == deidentify(source, tmp_path / "fresh", recipe, key_file=key).content
    return did


@pytest.fixture
def source(tmp_path: Path, key: Path) -> Path:
    folder = hospital(tmp_path / "in", 4)
    (folder / "notes.txt").write_text("not an image")
    deidentify(folder, tmp_path / "first", DEFAULT, key_file=key)
    return folder


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


def test_only_a_new_patient_is_read_and_cleaned(tmp_path: Path, key: Path, source: Path, work: Work) -> None:
    save(instance(6), source / "new.dcm")
    assert refreshed(source, tmp_path, key, work) == (1, 1)


def test_only_a_new_study_of_a_known_patient_is_cleaned_and_days_are_counted_anew(
    tmp_path: Path, key: Path, source: Path, work: Work
) -> None:
    save(instance(1, 1, number=9, StudyDate="20140101"), source / "older.dcm")
    assert refreshed(source, tmp_path, key, work) == (1, 1)


def test_a_new_name_of_a_known_patient_is_taken_out_of_the_old_files(tmp_path: Path, key: Path, work: Work) -> None:
    folder = tmp_path / "in"
    save(instance(1, 1, ConvolutionKernel="SHARP"), folder / "1.dcm")
    save(instance(1, 2), folder / "2.dcm")
    deidentify(folder, tmp_path / "first", DEFAULT, key_file=key)
    save(instance(1, 3, PatientName="Sharp^Given"), folder / "3.dcm")  # married since: the word is a name now
    assert refreshed(folder, tmp_path, key, work) == (1, 2)
    kept = [pydicom.dcmread(path).get("ConvolutionKernel") for path in (tmp_path / "second").rglob("*.dcm")]
    assert "SHARP" not in kept


def test_a_file_that_went_or_changed_has_its_patient_cleaned_again(tmp_path: Path, key: Path, source: Path, work: Work) -> None:
    (source / "Family1" / "1.dcm").unlink()
    save(instance(2, 1, KVP="80"), source / "Family2" / "1.dcm")
    searched, cleaned = refreshed(source, tmp_path, key, work)
    assert (searched, cleaned) == (1, 1 + 2)


def test_a_renamed_file_is_the_same_file(tmp_path: Path, key: Path, source: Path, work: Work) -> None:
    (source / "Family1" / "1.dcm").rename(source / f"{CANARY}.dcm")
    assert refreshed(source, tmp_path, key, work) == (0, 0)


def test_an_altered_earlier_instance_is_cleaned_from_its_source(tmp_path: Path, key: Path, source: Path, work: Work) -> None:
    victim = next((tmp_path / "first").rglob("*.dcm"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    save(instance(6), source / "new.dcm")
    assert refreshed(source, tmp_path, key, work) == (1, 2)


def test_nothing_is_taken_from_a_collection_of_other_settings(tmp_path: Path, key: Path, source: Path, work: Work) -> None:
    assert refreshed(source, tmp_path, key, work, settings(dates="remove")) == (9, 8)


def test_what_is_no_finished_collection_is_an_error(tmp_path: Path, key: Path, source: Path) -> None:
    save(instance(6), source / "new.dcm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="not a record"):
        deidentify(source, tmp_path / "second", DEFAULT, key_file=key, earlier=tmp_path / "empty")


def test_a_workspace_finds_the_collection_before(tmp_path: Path, source: Path, work: Work) -> None:
    workspace = tmp_path / "work"
    keys = chain.keys(workspace)
    chain.deidentify(workspace, source, DEFAULT, keys)
    save(instance(6), source / "new.dcm")
    work.searched, work.cleaned = 0, 0
    made = chain.deidentify(workspace, source, DEFAULT, keys)
    assert (work.searched, work.cleaned) == (1, 1)
    assert records.load(made.path, verify=True).facts["patients"] == 5
