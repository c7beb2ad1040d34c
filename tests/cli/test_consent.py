"""`medpipe consent` and `medpipe withdraw`, and the whole chain with a withdrawal between two refreshes."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from builders_cli import TINY, Done, images, medpipe, ran

from medpipe import ledger, records

WITHDREW = "MRN-0007"
PEOPLE = [f"MRN-{number:04d}" for number in range(100)]
NOBODY = "P" + "0" * 16


@dataclass(frozen=True)
class Hospital:
    """A source of 100 patients with four images each, of whom 90 permit it, a recipe that asks, and a finished workspace."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def run(self) -> list[str | Path]:
        return ["run", "--recipe", self.folder / "asking.yaml", "--source", self.folder / "images.npz", "--out", self.workspace]

    @property
    def at(self) -> list[str | Path]:
        return ["--workspace", self.workspace, "--form", "arrays"]

    def the(self, noun: str) -> Path:
        (found,) = [path.parent for path in (self.workspace / noun).glob("*/record.json") if not path.parent.is_symlink()]
        return found


def permissions(path: Path, people: list[str]) -> Path:
    path.write_text("PatientID,permission\n" + "".join(f"{who},{'HMB' if i % 2 else 'GRU'}\n" for i, who in enumerate(people)))
    return path


@pytest.fixture(scope="module")
def finished_hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    folder = tmp_path_factory.mktemp("hospital")
    recipe = {**yaml.safe_load(TINY), "consent": {"check": "ledger", "purpose": "health"}}
    (folder / "asking.yaml").write_text(yaml.safe_dump(recipe))
    pixels, labels = images(400)
    np.savez(folder / "images.npz", images=pixels, labels=labels, patients=np.array(PEOPLE * 4))
    hospital = Hospital(folder)
    done = medpipe("consent", "import", permissions(folder / "p.csv", PEOPLE[:90]), *hospital.at)
    assert done.status == 0, done.err
    done = medpipe(*hospital.run)
    assert done.status == 0, done.err
    return hospital


@pytest.fixture
def hospital(finished_hospital: Hospital, tmp_path: Path) -> Hospital:
    """A copy to change."""
    return Hospital(Path(shutil.copytree(finished_hospital.folder, tmp_path / "hospital", symlinks=True)))


def withdrawn(hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, who: str = WITHDREW) -> Done:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{who}\n"))
    return ran(capsys, "withdraw", "--patients", "-", *hospital.at)


def pseudonym(hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, who: str = WITHDREW) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{who}\n"))
    return ran(capsys, "consent", "show", "--patients", "-", *hospital.at).out.split("\t")[0]


def read(path: Path) -> str:
    return path.read_text()


def files(workspace: Path) -> dict[Path, tuple[int, int]]:
    found = [path for path in workspace.rglob("*") if path.is_file() and path.suffix != ".digests" and ".lock" not in path.name]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def test_the_evidence_says_how_consent_was_checked(finished_hospital: Hospital) -> None:
    (folder,) = (path.parent for path in finished_hospital.the("release").glob("*/evidence.json"))
    evidence = json.loads(read(folder / "evidence.json"))
    said = evidence["consent"]
    book = ledger.load(ledger.place(finished_hospital.workspace))
    assert book is not None
    assert (said["checked"], said["purpose"], said["ledger_head"]) == (True, "health", book.head)
    assert said["patients"] == {"permitted": None, "denied": None}, "10 were denied, which is a small count"
    assert "legal question" in next(item["why"] for item in evidence["not_assessed"] if item["what"] == "consent")
    assert said["statement"] in " ".join(read(folder / "README.md").split())
    assert "Did the patients permit it?" in read(folder / "report.html")
    assert book.head[:8] in read(folder / "report.html")


def test_no_patient_id_is_anywhere_in_the_workspace(finished_hospital: Hospital) -> None:
    for path in finished_hospital.workspace.rglob("*"):
        assert "MRN" not in str(path)
        assert not path.is_file() or b"MRN-" not in path.read_bytes(), path


def test_a_withdrawal_blocks_what_descends_and_the_next_refresh_is_without_that_patient(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nouns = ("collection", "dataset", "checkpoint", "cohort", "report", "release")
    before = {noun: hospital.the(noun) for noun in nouns}
    done = withdrawn(hospital, capsys, monkeypatch)
    assert done.status == 0, done.err
    assert done.path == ledger.place(hospital.workspace)
    for noun, path in before.items():
        assert f"{noun}/{path.name}" in done.err, "everything that descends is listed"
    assert "1 withdrawals recorded" in done.err
    assert "release/current" in done.err
    assert not (hospital.workspace / "release" / "current").is_symlink()
    assert (before["release"] / "record.json").exists(), "nothing is deleted"
    assert "MRN" not in done.out + done.err

    key = hospital.workspace / "private" / "signing.key"
    recipe = ["--recipe", hospital.folder / "asking.yaml"]
    for command in (
        ["train", before["dataset"], hospital.folder / "t", *recipe],
        ["train", before["dataset"], hospital.folder / "t"],
        ["train", before["dataset"], before["checkpoint"], *recipe],
        ["release", before["cohort"], before["report"], hospital.folder / "r", "--key", key, *recipe],
        ["release", before["cohort"], before["report"], hospital.folder / "r", "--key", key],
        ["release", before["cohort"], before["report"], before["release"], "--key", key, *recipe],
    ):
        refused = ran(capsys, *command)
        assert (refused.status, refused.out, len(refused.err.splitlines())) == (3, "", 1), refused.err
        assert "1 withdrawn" in refused.err
        assert "run the chain again" in refused.err
    assert not (hospital.folder / "t").exists()
    assert not (hospital.folder / "r").exists()

    again = ran(capsys, *hospital.run)
    assert again.status == 0, again.err
    assert (hospital.workspace / "release" / "current").resolve() == again.path.resolve() != before["release"].resolve()
    gone = pseudonym(hospital, capsys, monkeypatch)
    for noun in ("collection", "dataset"):
        first, second = (
            set(pd.read_parquet(path.parent / "index.parquet")["patient"])
            for path in sorted((hospital.workspace / noun).glob("*/record.json"), key=lambda path: path.stat().st_mtime_ns)
        )
        assert first - second == {gone}
    listed = withdrawn(hospital, capsys, monkeypatch)
    assert "0 withdrawals recorded" in listed.err
    assert (hospital.workspace / "release" / "current").is_symlink(), "the new release does not descend from the patient"

    seen = files(hospital.workspace)
    assert ran(capsys, "consent", "add", NOBODY, "--permission", "NRES", *hospital.at).status == 0
    assert ran(capsys, *hospital.run).path == again.path, "an entry about somebody else makes nothing new"
    assert {path for path, state in files(hospital.workspace).items() if seen.get(path) != state} <= set(
        (hospital.workspace / "private").iterdir()
    )
    test_no_patient_id_is_anywhere_in_the_workspace(hospital)


def test_a_withdrawal_that_was_cut_off_after_the_ledger_is_finished_by_the_same_command(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    who = pseudonym(hospital, capsys, monkeypatch)
    book = ledger.load(ledger.place(hospital.workspace))
    assert book is not None
    ledger.append(book.path, book.key, lambda _: [ledger.Entry(who, "withdraw")])
    assert (hospital.workspace / "release" / "current").is_symlink()
    done = withdrawn(hospital, capsys, monkeypatch)
    assert "0 withdrawals recorded" in done.err
    assert not (hospital.workspace / "release" / "current").is_symlink()


def test_a_withdrawal_while_a_release_is_written_stops_it(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medpipe.release import sign

    who = pseudonym(hospital, capsys, monkeypatch)
    seal = sign.seal

    def late(*arguments: Any) -> None:
        seal(*arguments)
        assert ran(capsys, "withdraw", who, *hospital.at).status == 0

    monkeypatch.setattr(sign, "seal", late)
    done = ran(capsys, *hospital.run, "--release.version", "2.0.0")
    assert done.status == 3, done.err
    assert "1 withdrawn" in done.err
    assert not (hospital.workspace / "release" / "current").is_symlink()
    assert len(list((hospital.workspace / "release").glob("*/record.json"))) == 1


def test_a_permission_that_ends_is_asked_again_before_training_and_release(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    who = pseudonym(hospital, capsys, monkeypatch)
    assert ran(capsys, "consent", "add", who, "--permission", "GRU", "--valid_to", "2020-01-01", *hospital.at).status == 0
    key = hospital.workspace / "private" / "signing.key"
    for command in (
        ["train", hospital.the("dataset"), hospital.folder / "t"],
        ["release", hospital.the("cohort"), hospital.the("report"), hospital.folder / "r", "--key", key],
    ):
        refused = ran(capsys, *command)
        assert refused.status == 3, refused.err
        assert "1 ended" in refused.err, "the Collection was made under the ledger, so it is asked without the recipe saying so"


def test_a_recipe_with_a_wider_purpose_does_not_train_on_a_dataset_of_a_narrower_one(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    done = ran(capsys, "train", hospital.the("dataset"), hospital.folder / "t", "--consent.check", "ledger")
    assert done.status == 3, done.err
    assert "45 for another use" in done.err


def test_a_withdrawal_of_somebody_else_lists_nothing_and_leaves_the_pointer(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    done = ran(capsys, "withdraw", NOBODY, *hospital.at)
    assert done.status == 0, done.err
    assert "no record of the workspace holds them" in done.err
    assert (hospital.workspace / "release" / "current").is_symlink()


def test_a_withdrawal_finds_what_was_begun_and_what_cannot_be_looked_into(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = records.load(hospital.the("dataset"))
    begun = records.MadeFrom("Checkpoint", {"dataset": dataset.content}, {}, 1, "0.1.0")
    with records.making(begun.place(hospital.workspace), begun):
        pass
    cohort = hospital.the("cohort")
    (cohort / "index.parquet").write_bytes(b"altered")
    done = withdrawn(hospital, capsys, monkeypatch)
    assert done.status == 0, done.err
    assert re.search(rf"Checkpoint.*{begun.digest[:12]}.*not finished", done.err)
    assert re.search(rf"Cohort.*{cohort.name}.*altered", done.err)
    assert re.search(rf"Release.*{hospital.the('release').name}", done.err)
    assert not (hospital.workspace / "release" / "current").is_symlink()


def test_a_ledger_that_was_cut_off_or_removed_stops_the_next_run_and_any_withdrawal(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    book = ledger.place(hospital.workspace)
    head = ledger.head_file(book)
    kept = book.read_bytes(), head.read_bytes()
    lines = kept[0].splitlines(keepends=True)
    book.write_bytes(b"".join(lines[:-1]))
    for command in (hospital.run, ["withdraw", NOBODY, *hospital.at], ["consent", "verify", *hospital.at]):
        done = ran(capsys, *command)
        assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
        assert "was cut off after entry 89" in done.err
    head.write_text(json.dumps({"entries": 89, "head": json.loads(lines[-1])["previous"]}))
    for command in (hospital.run, ["withdraw", NOBODY, *hospital.at], ["consent", "verify", *hospital.at]):
        done = ran(capsys, *command)
        assert done.status == 2
        assert "does not go on from" in done.err, "the Collection remembers the head that it was made under"
    book.unlink()
    head.unlink()
    for command in (hospital.run, ["withdraw", NOBODY, *hospital.at]):
        done = ran(capsys, *command)
        assert done.status == 2
        assert "does not go on from" in done.err
    book.write_bytes(kept[0])
    head.write_bytes(kept[1])
    book.chmod(0o600)
    assert ran(capsys, "consent", "verify", *hospital.at).status == 0


def test_a_cohort_whose_dataset_is_elsewhere_is_not_released_where_a_ledger_has_to_be_asked(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    away = tmp_path / "away"
    for noun in ("cohort", "report"):
        shutil.copytree(hospital.the(noun), away / noun / hospital.the(noun).name)
    inputs = [away / noun / hospital.the(noun).name for noun in ("cohort", "report")]
    release = ["release", *inputs, away / "out", "--key", away / "signing.key"]
    done = ran(capsys, *release, "--ledger", ledger.place(hospital.workspace))
    assert done.status == 3, done.err
    assert "nobody can say whose images are behind it" in done.err
    done = ran(capsys, *release)
    assert done.status == 2, "the Cohort's own record says under which ledger it was made"
    assert "name the right one with --ledger" in done.err
    assert not (away / "out").exists()


def test_a_mistyped_ledger_is_refused_and_not_made(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["withdraw", NOBODY, *hospital.at],
        ["consent", "show", *hospital.at],
        ["consent", "verify", *hospital.at],
        hospital.run,
    ):
        done = ran(capsys, *command, "--ledger", hospital.folder / "typo.jsonl")
        assert done.status == 2, done.err
        assert "there is no consent ledger" in done.err
        assert not (hospital.folder / "typo.jsonl").exists()


def test_a_ledger_may_lie_elsewhere(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = hospital.folder / "elsewhere.jsonl"
    for suffix in ("", ".head"):
        Path(f"{ledger.place(hospital.workspace)}{suffix}").rename(f"{elsewhere}{suffix}")
    assert ran(capsys, *hospital.run, "--ledger", elsewhere).status == 0
    assert ran(capsys, *hospital.run).status == 2, "without it, the records tell that it is missing"
    assert ran(capsys, "withdraw", NOBODY, *hospital.at, "--ledger", elsewhere).status == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["withdraw", WITHDREW], "stays in the shell's history"),
        (["consent", "add", WITHDREW, "--permission", "GRU"], "stays in the shell's history"),
        (["withdraw"], "no patient is named"),
        (["withdraw", "--patients", "/no/such/file"], "--patients names no file"),
        (["consent", "add", NOBODY, "--permission", "GRUX"], "--permission holds what is no code"),
        (["consent", "add", NOBODY, "--permission", "GRU", "--modifiers", "TS"], "TS, which needs a day in valid_to"),
        (["consent", "import", "/no/such/table.csv"], "there is no table"),
    ],
)
def test_a_wrong_command_is_status_2_in_one_sentence(
    finished_hospital: Hospital, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    before = files(finished_hospital.workspace)
    done = ran(capsys, *arguments, *finished_hospital.at)
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert says in done.err
    assert "MRN" not in done.err
    assert files(finished_hospital.workspace) == before


def test_identifiers_are_read_as_the_workspaces_collections_are(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pseudonym(hospital, capsys, monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{WITHDREW}\n"))
    done = ran(capsys, "withdraw", "--patients", "-", "--workspace", hospital.workspace)
    assert f"dataset/{hospital.the('dataset').name}" in done.err
    book = ledger.load(ledger.place(hospital.workspace))
    assert book is not None
    assert book.withdrawn == {wanted}
    record = hospital.the("collection") / records.RECORD
    other = hospital.workspace / "collection" / "other" / records.RECORD
    other.parent.mkdir()
    other.write_text(json.dumps({"facts": {**json.loads(read(record))["facts"], "form": "dicom"}}))
    done = ran(capsys, "consent", "show", "--patients", "-", "--workspace", hospital.workspace)
    assert (done.status, "--form" in done.err) == (2, True)


def test_a_withdrawal_needs_the_workspace_and_its_key(capsys: pytest.CaptureFixture[str], tmp_path: Path, hospital: Hospital) -> None:
    done = ran(capsys, "withdraw", NOBODY, "--workspace", tmp_path / "nowhere")
    assert done.status == 2
    assert not (tmp_path / "nowhere").exists()
    (hospital.workspace / "private" / "pseudonym.key").unlink()
    for command in (["withdraw", NOBODY], ["consent", "add", NOBODY, "--permission", "GRU"]):
        done = ran(capsys, *command, *hospital.at)
        assert done.status == 2
        assert "there is no pseudonym key" in done.err


def test_show_tells_of_each_patient_and_in_figures(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    (hospital.folder / "who.txt").write_text(f"{PEOPLE[0]}\n{PEOPLE[1]}\n{PEOPLE[95]}\n")
    named = ["consent", "show", "--patients", hospital.folder / "who.txt", *hospital.at]
    rows = [line.split("\t") for line in ran(capsys, *named).out.splitlines()]
    assert [row[1] for row in rows] == ["permitted", "denied: for another use", "denied: not on record"]
    rows = [line.split("\t") for line in ran(capsys, *named, "--recipe", hospital.folder / "asking.yaml").out.splitlines()]
    assert [row[1] for row in rows] == ["permitted", "permitted", "denied: not on record"]
    assert "permission=HMB" in rows[1][2]
    figures = ran(capsys, "consent", "show", *hospital.at)
    assert "90 patients on record; for the purpose 'general': 45 for another use, 45 permitted" in figures.err
    assert figures.path == ledger.place(hospital.workspace)


def test_importing_a_table_again_says_what_was_new_and_who_stays_withdrawn(
    hospital: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    withdrawn(hospital, capsys, monkeypatch)
    done = ran(capsys, "consent", "import", permissions(hospital.folder / "p.csv", PEOPLE[:92]), *hospital.at)
    assert "2 permissions recorded, 89 were in force already" in done.err
    assert "1 patients withdrew before and stay withdrawn" in done.err
    who = pseudonym(hospital, capsys, monkeypatch)
    assert ran(capsys, "consent", "add", who, "--permission", "GRU", "--again", *hospital.at).status == 0
    assert ran(capsys, "consent", "show", who, *hospital.at).out.split("\t")[1] == "permitted"


def test_the_help_teaches_the_codes_and_a_first_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = ran(capsys, "consent", "--help").out
    assert "medpipe consent import" in text
    assert "medpipe withdraw" in text
    assert "training a generator is" in text
    for action in ("add", "import", "show", "verify"):
        assert ran(capsys, "consent", action, "--help").out.startswith(f"usage: medpipe consent {action} ")
