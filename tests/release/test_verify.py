from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpipe import records
from medpipe.errors import InputError
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom
from medpipe.release import sign
from medpipe.verify import chain_of, verify


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    """A workspace of one's own to spoil."""
    return Path(shutil.copytree(workspace, tmp_path / "workspace"))


def the(workspace: Path, noun: str) -> Path:
    (found,) = sorted((workspace / noun).glob("*/record.json"))
    return found.parent


def folder_of(workspace: Path) -> Path:
    return the(workspace, "release") / "chest-demo-1.0.0"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << (place % 8)
    path.write_bytes(bytes(data))


def reseal(path: Path, **changes: object) -> None:
    """Do what a forger would: change a record.json and compute its seal anew."""
    text = json.loads((path / records.RECORD).read_text())
    text.pop("seal")
    text.update(changes)
    text["seal"] = records.digest(text)
    records.write_json(path / records.RECORD, text)


def test_a_whole_chain_is_well_and_what_is_not_here_is_a_note(workspace: Path) -> None:
    links = chain_of(the(workspace, "release"))
    assert [link.what.split()[0] for link in links] == ["Release", "Cohort", "Checkpoint", "Report", "Dataset", "Release"]
    assert {link.state for link in links} == {"intact", "not here"}
    assert verify(the(workspace, "release")) == []
    assert verify(the(workspace, "cohort")) == []


def test_a_copied_folder_is_judged_alone(workspace: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(folder_of(workspace), tmp_path / "received"))
    key = the(workspace, "release") / "public_key.pem"
    assert verify(alone, key) == []
    assert "signed by the key that was given" in chain_of(alone, key)[0].notes[0]
    assert "to know who signed" in chain_of(alone)[0].notes[0]


def test_a_folder_signed_with_another_key_is_found(workspace: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(folder_of(workspace), tmp_path / "received"))
    other = tmp_path / "other.pem"
    other.write_bytes(sign.public_pem(sign.signing_key(tmp_path / "other.key").public_key()))
    assert any("another key signed" in problem for problem in verify(alone, other))
    sign.seal(alone, sign.signing_key(tmp_path / "other.key"))  # signed anew by someone else
    assert any("not a signature" in problem for problem in verify(alone))
    assert any("not a signature" in problem for problem in verify(alone, the(workspace, "release") / "public_key.pem"))


def _files(workspace: Path, base: Path) -> list[str]:
    return sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("noun", ["cohort", "report", "release"])
def test_a_byte_changed_in_any_file_of_the_chain_is_found_and_named(workspace: Path, noun: str) -> None:
    record = the(workspace, noun)
    for name in _files(workspace, record):
        path = record / name
        original = path.read_bytes()
        for place in (0, len(original) // 2, len(original) - 1):
            try:
                flip(path, place)
                problems = verify(the(workspace, "release"))
            finally:
                path.write_bytes(original)
            assert any(name.split("/", 1)[-1] in problem or name in problem for problem in problems), (name, place, problems)
    assert verify(the(workspace, "release")) == []


def test_a_byte_changed_in_any_file_of_a_received_folder_is_found(workspace: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(folder_of(workspace), tmp_path / "received"))
    for name in _files(workspace, alone):
        for key in (None, the(workspace, "release") / "public_key.pem"):
            original = (alone / name).read_bytes()
            flip(alone / name, len(original) // 3)
            problems = verify(alone, key)
            (alone / name).write_bytes(original)
            assert problems, name
    assert verify(alone) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 10**6),
    mask=st.integers(1, 255),
    which=st.sampled_from(["record.json", "public_key.pem", "chest-demo-1.0.0/SHA256SUMS"]),
)
def test_no_byte_of_the_seals_themselves_can_change(workspace: Path, place: int, mask: int, which: str) -> None:
    path = the(workspace, "release") / which
    original = path.read_bytes()
    data = bytearray(original)
    data[place % len(data)] ^= mask
    try:
        path.write_bytes(bytes(data))
        assert verify(the(workspace, "release"))
    finally:
        path.write_bytes(original)


def test_files_missing_added_and_linked_are_named(workspace: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(folder_of(workspace), tmp_path / "received"))
    (alone / "LICENSE").unlink()
    (alone / "patients.csv").write_text("id\n")
    (alone / "evidence.json").rename(tmp_path / "evidence.json")
    (alone / "evidence.json").symlink_to(tmp_path / "evidence.json")
    text = "\n".join(verify(alone))
    for said in ("LICENSE is missing", "patients.csv was added", "evidence.json is a link"):
        assert said in text


def test_a_folder_without_its_signature_is_found(workspace: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(folder_of(workspace), tmp_path / "received"))
    (alone / "SHA256SUMS.sig").unlink()
    assert any("SHA256SUMS.sig is missing" in problem for problem in verify(alone))


def test_documents_that_disagree_are_found_though_the_signature_holds(workspace: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(folder_of(workspace), tmp_path / "received"))
    evidence = json.loads((alone / "evidence.json").read_text())
    evidence["verdicts"][0]["passed"] = False
    evidence["images_released"] = 24
    records.write_json(alone / "evidence.json", evidence)
    sign.seal(alone, sign.signing_key(workspace / "private" / "signing.key"))
    text = "\n".join(verify(alone))
    for said in ("every gate passed", "evidence.json 24", "another digest of evidence.json"):
        assert said in text


def test_an_upstream_record_resealed_by_a_forger_breaks_the_chain(copy: Path) -> None:
    cohort = the(copy, "cohort")
    (cohort / "model.json").write_text("{}")
    files = {
        path.relative_to(cohort).as_posix(): [path.stat().st_size, records.file_digest(path)]
        for path in cohort.rglob("*")
        if path.is_file() and path.name not in ("record.json", ".lock")
    }
    reseal(cohort, files=files, content=records.digest(files))
    assert verify(cohort) == []  # by itself it looks whole
    links = {link.what.split()[0]: link for link in chain_of(the(copy, "release"))}
    assert links["Cohort"].state == "not here"


def test_a_record_moved_to_the_place_of_another_is_found(copy: Path) -> None:
    reseal(the(copy, "cohort"), made_from={**records.load(the(copy, "cohort")).made_from, "seed": 99})
    assert any("made from something else belongs" in problem for problem in verify(the(copy, "cohort")))


def test_an_unreadable_record_where_the_upstream_should_be_is_a_problem(copy: Path) -> None:
    (the(copy, "cohort") / "record.json").write_bytes(b"\xff\xfe")
    assert any("was made from Cohort" in problem and "record.json was altered" in problem for problem in verify(the(copy, "release")))


def test_an_unfinished_record_says_so(tmp_path: Path) -> None:
    made_from = MadeFrom("Cohort", {"checkpoint": "c" * 64}, Recipe().settings("cohort"), 0, "0.1.0")
    with records.making(tmp_path / "cohort" / "x", made_from):
        pass
    assert any("not finished" in problem for problem in verify(tmp_path / "cohort" / "x"))


def test_a_report_judged_against_other_data_than_the_model_learned_from_is_found(copy: Path) -> None:
    checkpoint = records.load(the(copy, "cohort")).made_from["inputs"]["checkpoint"]
    assert checkpoint == "c" * 64
    other = MadeFrom("Checkpoint", {"dataset": "e" * 64}, {}, 0, "0.1.0")
    place = other.place(copy)
    with records.making(place, other) as making:
        (place / "model.json").write_text("{}")
        made = making.seal({})
    text = json.loads((the(copy, "cohort") / "record.json").read_text())
    reseal(the(copy, "cohort"), made_from={**text["made_from"], "inputs": {"checkpoint": made.content}})
    assert any("another Dataset" in problem for problem in verify(the(copy, "release")))


def test_what_is_neither_record_nor_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a record nor a release"):
        verify(tmp_path)
