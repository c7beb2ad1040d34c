"""How a command fails: one sentence on stderr, the right exit status, no traceback, no record that looks finished."""

from __future__ import annotations

import errno
import shutil
import subprocess
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from builders_cli import Done, Finished, images, medpipe, ran

from medpipe import cli_errors, records
from medpipe.errors import GateFailed, InputError, PrivacyError, RecordError


def assert_one_sentence(done: Done, status: int) -> None:
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert (done.status, len(lines)) == (status, 1), done.err
    assert lines[0].startswith("medpipe")
    assert done.out == ""


def assert_nothing_looks_finished(workspace: Path) -> None:
    """Every record under `workspace` is whole, and no release is there."""
    for path in workspace.rglob(records.RECORD):
        records.load(path.parent, verify=True)
    assert not list(workspace.glob("release/*/record.json"))
    assert not (workspace / "release" / "current").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--train.images", "0"], "train.images"),
        (["--train.imags", "5"], "did you mean --train.images"),
        (["--cohort.sampler", "eular"], "cohort.sampler"),
        (["--images.size", "30", "--model.patch", "4"], "multiple of 4"),
        (["--recipe", "no-such-recipe"], "there is no recipe 'no-such-recipe'"),
        (["--seed", "x"], "seed"),
    ],
)
def test_a_wrong_setting_is_status_2(capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path, flags: list[str], says: str) -> None:
    run: list[str | Path] = ["run", "--recipe", tiny / "tiny.yaml", "--source", tiny / "images.npz", "--out", tmp_path / "w"]
    done = ran(capsys, *run, *flags)
    assert_one_sentence(done, 2)
    assert says in done.err
    assert not (tmp_path / "w").exists()


def test_a_recipe_file_with_a_wrong_key_is_status_2_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train:\n  imags: 5\n")
    done = medpipe("run", "--recipe", tmp_path / "r.yaml", "--source", tmp_path, "--out", tmp_path / "w")
    assert_one_sentence(done, 2)
    assert "train.imags is not a setting" in done.err


def spoilt_arrays(folder: Path, kind: str) -> Path:
    """Write an .npz that cannot be used, or no file at all."""
    path = folder / "images.npz"
    pixels, labels = images(60)
    if kind == "text":
        path.write_text("not an archive")
    elif kind == "truncated":
        np.savez(path, images=pixels, labels=labels)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "no images in it":
        np.savez(path, labels=labels)
    elif kind == "other count of labels":
        np.savez(path, images=pixels, labels=labels[:-1])
    elif kind == "NaN":
        np.savez(path, images=np.where(pixels > 100, np.nan, pixels.astype(np.float32)), labels=labels)
    elif kind == "an object array, which only pickle reads":
        np.savez(path, images=np.array([{"a": 1}], dtype=object), labels=labels[:1])
    return path


KINDS = ("absent", "text", "truncated", "no images in it", "other count of labels", "NaN", "an object array, which only pickle reads")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_arrays_is_status_2(capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path, kind: str) -> None:
    source = spoilt_arrays(tmp_path, kind)
    done = ran(capsys, "run", "--recipe", tiny / "tiny.yaml", "--source", source, "--out", tmp_path / "w")
    assert_one_sentence(done, 2)
    assert_nothing_looks_finished(tmp_path / "w")


@pytest.mark.parametrize("content", ["nothing", "a text file", "a file cut short"])
def test_a_folder_without_images_is_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if content == "a text file":
        (source / "SMITH^JOHN.txt").write_text("not an image")
    elif content == "a file cut short":
        (source / "SMITH^JOHN.dcm").write_bytes(bytes(128) + b"DICM\x02\x00\x00\x00UL")
    done = ran(capsys, "run", "--recipe", _dicom_recipe(tmp_path), "--source", source, "--out", tmp_path / "w")
    assert_one_sentence(done, 2)
    assert "SMITH" not in done.err
    assert_nothing_looks_finished(tmp_path / "w")


def _dicom_recipe(folder: Path) -> Path:
    path = folder / "dicom.yaml"
    path.write_text("name: dicom\ncompute:\n  workers: 1\n")
    return path


def test_a_missing_key_on_the_second_run_is_status_2(finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    workspace = shutil.copytree(finished.workspace, tmp_path / "w", symlinks=True)
    (workspace / "private" / "pseudonym.key").unlink()
    done = ran(capsys, "run", "--recipe", finished.recipe, "--source", finished.source, "--out", workspace)
    assert_one_sentence(done, 2)
    assert "pseudonym.key is missing" in done.err
    assert not (workspace / "private" / "pseudonym.key").exists(), "a new key would be a second identity for everyone"


@pytest.mark.parametrize("below", ["", "w", "w/deeper"])
def test_a_workspace_that_is_a_file_or_below_one_is_status_2(capsys: pytest.CaptureFixture[str], tiny: Path, below: str) -> None:
    out = tiny / "tiny.yaml" / below
    done = ran(capsys, "run", "--recipe", tiny / "tiny.yaml", "--source", tiny / "images.npz", "--out", out)
    assert_one_sentence(done, 2)
    assert "is a file" in done.err


def test_an_altered_record_is_status_2(finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (checkpoint,) = (finished.workspace / "checkpoint").iterdir()
    copy = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    done = ran(capsys, "generate", copy, tmp_path / "out", "--recipe", finished.recipe)
    assert_one_sentence(done, 2)
    assert "altered" in done.err
    assert not (tmp_path / "out").exists()


def test_a_record_of_another_kind_and_a_folder_in_use_are_status_2(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (dataset,) = (finished.workspace / "dataset").iterdir()
    (cohort,) = (finished.workspace / "cohort").iterdir()
    assert_one_sentence(ran(capsys, "generate", dataset, tmp_path / "out", "--recipe", finished.recipe), 2)
    assert_one_sentence(ran(capsys, "train", dataset, cohort, "--recipe", finished.recipe), 2)
    assert_one_sentence(ran(capsys, "train", tmp_path / "nowhere", tmp_path / "out", "--recipe", finished.recipe), 2)


def test_two_runs_of_one_record_at_a_time_is_status_1(finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (dataset,) = (finished.workspace / "dataset").iterdir()
    from medpipe.diffusion import train
    from medpipe.recipe import load

    wanted = train.made_from(dataset, load(finished.recipe))
    with records.making(tmp_path / "out", wanted):
        done = ran(capsys, "train", dataset, tmp_path / "out", "--recipe", finished.recipe)
    assert_one_sentence(done, 1)
    assert "another process" in done.err


def mounted(folder: Path, options: str) -> list[str]:
    """A command in front that mounts a small disk on `folder`, seen by that command alone; skips where that cannot be."""
    inside = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"', str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a test mount a disk (needs unshare and mount)")
    return inside


def test_a_read_only_workspace_is_status_1(tiny: Path, tmp_path: Path) -> None:
    inside = mounted(tmp_path, "ro")
    done = medpipe("run", "--recipe", tiny / "tiny.yaml", "--source", tiny / "images.npz", "--out", tmp_path / "w", inside=inside)
    assert_one_sentence(done, 1)
    assert "read-only" in done.err


@pytest.mark.parametrize("size", ["64k", pytest.param("700k", marks=pytest.mark.slow), pytest.param("2m", marks=pytest.mark.slow)])
def test_a_full_disk_is_status_1(tiny: Path, tmp_path: Path, size: str) -> None:
    inside = mounted(tmp_path, f"size={size}")
    done = medpipe("run", "--recipe", tiny / "tiny.yaml", "--source", tiny / "images.npz", "--out", tmp_path / "w", inside=inside)
    assert_one_sentence(done, 1)
    assert "disk is full" in done.err


SECRET = "SMITH^JOHN"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (InputError("the table lacks a column"), 2, "the table lacks a column"),
        (RecordError("was altered"), 2, "was altered"),
        (GateFailed("gate 'copies' says no"), 3, "gate 'copies' says no"),
        (PrivacyError("stopped"), 1, "stopped"),
        (OSError(errno.ENOSPC, "No space left", f"/in/{SECRET}.dcm"), 1, "disk is full"),
        (OSError(errno.EROFS, "Read-only", f"/in/{SECRET}.dcm"), 1, "read-only"),
        (PermissionError(errno.EACCES, "denied", f"/in/{SECRET}.dcm"), 1, "not permitted"),
        (RuntimeError(f"[enforce fail] {SECRET} . No space left on device"), 1, "disk is full"),
        (BrokenProcessPool(f"{SECRET}"), 1, "worker process died"),
        (MemoryError(SECRET), 1, "memory ran out"),
        (ValueError(f"cannot convert {SECRET}"), 1, "failed unexpectedly (ValueError)"),
        (OSError(errno.EINVAL, SECRET), 1, "failed unexpectedly (OSError EINVAL)"),
    ],
)
def test_every_kind_of_error_has_its_sentence_and_shows_no_patient(
    capsys: pytest.CaptureFixture[str], error: Exception, status: int, says: str
) -> None:
    def fail() -> int:
        raise error

    assert cli_errors.guarded(fail) == status
    shown = capsys.readouterr()
    assert says in shown.err
    assert SECRET not in shown.err
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1


def test_a_full_disk_behind_another_error_is_still_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as cause:
            raise RuntimeError("cannot write the array") from cause

    assert cli_errors.guarded(fail) == 1
    assert "disk is full" in capsys.readouterr().err


def test_ctrl_c_is_status_130_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    assert cli_errors.guarded(stopped) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_debug_shows_the_traceback_to_who_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ValueError("details")

    assert cli_errors.guarded(fail, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err
