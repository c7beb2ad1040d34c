"""What the commands do when all is well: the chain, again without work, verb by verb, the plan, verify."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from builders_cli import Finished, medpipe, ran

from medpipe import recipe as recipes
from medpipe import records

NOUNS = ("collection", "dataset", "checkpoint", "cohort", "report", "release")


def content(path: Path) -> str:
    return records.load(path).content


def only(folder: Path) -> Path:
    """The one record in a noun's folder of a workspace."""
    (path,) = [path.parent for path in folder.glob("*/record.json") if not path.parent.is_symlink()]
    return path


def test_run_ends_with_the_release_on_stdout_and_its_verdicts_on_stderr(finished: Finished) -> None:
    done = finished.done
    assert done.out.splitlines() == [str(only(finished.workspace / "release"))]
    assert records.load(done.path, "Release", verify=True)
    assert "Verdicts" in done.err
    assert "passed" in done.err
    assert "report.html" in done.err
    assert (finished.workspace / "release" / "current").resolve() == done.path.resolve()


def test_the_keys_are_readable_by_their_owner_alone(finished: Finished) -> None:
    for name in ("pseudonym.key", "signing.key"):
        assert (finished.workspace / "private" / name).stat().st_mode & 0o777 == 0o600


def test_running_again_does_no_work_and_says_the_same(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.workspace.rglob("*") if path.is_file()}
    again = medpipe("run", "--recipe", finished.recipe, "--source", finished.source, "--out", finished.workspace)
    assert (again.status, again.out) == (0, finished.done.out)
    after = {path: path.stat().st_mtime_ns for path in finished.workspace.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} <= {path for path in after if path.name == ".lock"}


def _states(plan: str) -> list[str]:
    """Read the states of the stages from the table, of which a cell may take several lines."""
    return [state for line in plan.splitlines() if line.startswith("│") and (state := line.split("│")[3].strip())]


def test_the_plan_says_what_is_done_and_does_nothing(capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path) -> None:
    where: list[str | Path] = ["--recipe", finished.recipe, "--source", finished.source]
    done = ran(capsys, "run", *where, "--out", finished.workspace, "--dry-run", "--cohort.images", "64")
    assert (done.status, done.out) == (0, "")
    states = _states(done.err)
    assert states == ["done", "done", "done", "to do", "waits", "waits"]
    assert "64 images" in done.err
    assert len(list((finished.workspace / "cohort").glob("*/record.json"))) == 1

    fresh = ran(capsys, "run", *where, "--out", tmp_path / "new", "--dry-run")
    assert fresh.status == 0, fresh.err
    assert "GiB" in fresh.err
    assert not (tmp_path / "new").exists()
    states = _states(fresh.err)
    assert states == ["to do"] + ["waits"] * 5


def test_verb_by_verb_makes_the_same_contents_as_the_run(capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path) -> None:
    private = finished.workspace / "private"
    out = {noun: tmp_path / noun for noun in NOUNS}
    steps = [
        ("deidentify", finished.source, out["collection"], "--key", private / "pseudonym.key"),
        ("preprocess", out["collection"], out["dataset"]),
        ("train", out["dataset"], out["checkpoint"]),
        ("generate", out["checkpoint"], out["cohort"]),
        ("validate", out["cohort"], out["dataset"], out["report"], "--checkpoint", out["checkpoint"]),
        ("release", out["cohort"], out["report"], out["release"], "--key", private / "signing.key"),
    ]
    for noun, step in zip(NOUNS, steps, strict=True):
        done = ran(capsys, *step, "--recipe", finished.recipe)
        assert (done.status, done.path) == (0, out[noun]), done.err
        assert content(out[noun]) == content(only(finished.workspace / noun)), noun


def test_a_gate_that_says_no_is_status_3_and_leaves_the_last_good_release_in_place(
    capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path
) -> None:
    workspace = shutil.copytree(finished.workspace, tmp_path / "w", symlinks=True)
    current = os.readlink(workspace / "release" / "current")
    strict = [
        "--gates.frechet_ratio_max",
        "1",
        "--gates.precision_drop_max",
        "0",
        "--gates.recall_drop_max",
        "0",
        "--gates.kid_ratio_max",
        "1",
    ]
    done = ran(capsys, "run", "--recipe", finished.recipe, "--source", finished.source, "--out", workspace, *strict)
    assert (done.status, done.out) == (3, ""), done.err
    assert "FAILED" in done.err
    assert os.readlink(workspace / "release" / "current") == current
    assert len(list((workspace / "release").glob("*/record.json"))) == 2, "the release and the pointer to it"

    cohort, dataset = only(workspace / "cohort"), only(workspace / "dataset")
    judged = ran(capsys, "validate", cohort, dataset, tmp_path / "report", "--recipe", finished.recipe, *strict)
    assert (judged.status, judged.path) == (3, tmp_path / "report")
    assert records.load(tmp_path / "report", "Report").facts["passed"] is False
    refused = ran(capsys, "release", cohort, tmp_path / "report", tmp_path / "release", "--key", workspace / "private" / "signing.key")
    assert refused.status == 3
    assert not (tmp_path / "release" / records.RECORD).exists()


def test_verify_follows_the_chain_and_names_what_is_altered(capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path) -> None:
    whole = ran(capsys, "verify", finished.workspace / "release" / "current")
    assert whole.status == 0, whole.err
    assert all(noun in whole.err for noun in ("Collection", "Dataset", "Checkpoint", "Cohort", "Report", "Release", "Release folder"))

    workspace = shutil.copytree(finished.workspace, tmp_path / "w", symlinks=True)
    weights = only(workspace / "checkpoint") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    broken = ran(capsys, "verify", only(workspace / "release"))
    assert (broken.status, broken.out) == (2, "")
    assert "weights.safetensors has other content" in broken.err
    shutil.rmtree(only(workspace / "collection"))
    assert "not here" in ran(capsys, "verify", only(workspace / "dataset")).err


def test_a_release_that_left_its_workspace_is_verified_alone(
    capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path
) -> None:
    (folder,) = [path.parent for path in only(finished.workspace / "release").glob("*/SHA256SUMS")]
    copy = shutil.copytree(folder, tmp_path / folder.name)
    assert ran(capsys, "verify", copy).status == 0
    (copy / "README.md").write_text("diagnose with it")
    altered = ran(capsys, "verify", copy)
    assert altered.status == 2
    assert "README.md has other content" in altered.err


def test_verify_refuses_a_folder_that_is_neither(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = ran(capsys, "verify", tmp_path)
    assert done.status == 2
    assert "neither a record nor a release" in done.err


def test_recipe_prints_what_run_would_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = ran(capsys, "recipe", "--train.images", "4711", "--seed", "3", "--cohort.steps", "7")
    (tmp_path / "r.yaml").write_text(done.out)
    recipe = recipes.load(tmp_path / "r.yaml")
    assert (recipe.train.images, recipe.seed, recipe.cohort.steps) == (4711, 3, 7)
    assert yaml.safe_load(done.out)["train"]["images"] == 4711


def test_recipe_list_names_every_recipe_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "recipe", "--list").out.split() == recipes.names()


def test_a_killed_run_goes_on_and_makes_the_same_contents(finished: Finished, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    shutil.copytree(finished.workspace / "private", workspace / "private")
    command: list[str | Path] = ["run", "--recipe", finished.recipe, "--source", finished.source, "--out", workspace]
    for noun in ("checkpoint", "cohort"):
        process = subprocess.Popen([sys.executable, "-m", "medpipe.cli", *map(str, command)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not list(workspace.glob(f"{noun}/*/making.json")) and process.poll() is None:
            assert time.monotonic() < deadline, "the stage was not reached"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = medpipe(*command)
    assert done.status == 0, done.err
    for noun in NOUNS:
        assert content(only(workspace / noun)) == content(only(finished.workspace / noun)), noun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_with_one_sentence_that_says_how_to_go_on(finished: Finished, tmp_path: Path, number: signal.Signals) -> None:
    where = ["run", "--recipe", str(finished.recipe), "--source", str(finished.source), "--out", str(tmp_path / "w")]
    command = [sys.executable, "-m", "medpipe.cli", *where, "--compute.workers", "2"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would the child
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("w/checkpoint/*/making.json")) and process.poll() is None:
            assert time.monotonic() < deadline, "the stage was not reached"
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert err.strip().splitlines() == ["medpipe: stopped; run the same command again to go on from there"]


def test_two_workers_make_the_same_as_none(finished: Finished, tmp_path: Path) -> None:
    (checkpoint,) = (finished.workspace / "checkpoint").iterdir()
    done = medpipe("generate", checkpoint, tmp_path / "out", "--recipe", finished.recipe, "--compute.workers", "2")
    assert done.status == 0, done.err
    assert content(tmp_path / "out") == content(only(finished.workspace / "cohort"))


def test_a_scheduler_without_prefect_is_refused(capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path) -> None:
    where: list[str | Path] = ["--recipe", finished.recipe, "--source", finished.source, "--out", tmp_path / "w"]
    done = ran(capsys, "run", *where, "--compute.scheduler", "tcp://127.0.0.1:8786")
    assert done.status == 2
    assert "--prefect" in done.err


def test_no_record_holds_a_time_or_a_place_of_this_machine(finished: Finished) -> None:
    for path in finished.workspace.rglob("record.json"):
        text = json.loads(path.read_text())
        assert str(finished.workspace.parent) not in json.dumps(text["facts"]) + json.dumps(text["made_from"])


def test_phantom_writes_the_hospital(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = ran(capsys, "phantom", tmp_path / "hospital", "--patients", "3", "--seed", "5")
    assert (done.status, done.path) == (0, tmp_path / "hospital"), done.err
    assert list((tmp_path / "hospital").rglob("*.dcm"))


@pytest.mark.parametrize("flags", [["--patients", "0"], ["--patients", "many"], ["--seed", "-1"]])
def test_phantom_refuses_a_number_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str]) -> None:
    assert ran(capsys, "phantom", tmp_path / "hospital", *flags).status == 2
    assert not (tmp_path / "hospital").exists()
