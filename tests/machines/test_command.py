"""`python -m flows.refresh` as `medpipe run --prefect` starts it: exit status, last line, and nobody else asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders_flows import IMPOSSIBLE, TINY, blots
from builders_machines import audited, strangers, until

from medpipe import records

pytestmark = pytest.mark.machine


def command(folder: Path, workspace: str = "workspace", *flags: str, **sections: dict[str, Any]) -> list[str]:
    recipe = {**TINY, **{name: {**TINY.get(name, {}), **values} for name, values in sections.items()}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    source = folder / "blots.npz"
    if not source.exists():
        blots(source)
    asked = ["--recipe", "recipe.yaml", "--source", "blots.npz", "--out", workspace, *flags]
    return [sys.executable, "-m", "flows.refresh", *asked]


def run(folder: Path, asked: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(asked, cwd=folder, env=audited(folder), capture_output=True, text=True, timeout=280)


def test_wrong_input_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    done = run(tmp_path, command(tmp_path, "workspace", "--cohort.steps", "0"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("medpipe: the recipe is wrong: cohort.steps")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_makes_nothing_and_asks_no_other_machine(tmp_path: Path) -> None:
    done = run(tmp_path, command(tmp_path, "workspace", "--dry-run"))
    assert done.returncode == 0, done.stderr
    assert "deidentify makes the Collection: to do" in done.stderr
    assert (tmp_path / ".prefect" / "prefect.db").exists()
    assert not (tmp_path / "workspace").exists()
    assert strangers(tmp_path) == []


@pytest.mark.slow
def test_a_run_ends_with_the_path_of_its_release_and_asks_no_other_machine(tmp_path: Path) -> None:
    done = run(tmp_path, command(tmp_path, compute={"workers": 2}))
    assert done.returncode == 0, done.stderr
    release = records.load(tmp_path / done.stdout.splitlines()[-1], "Release")
    assert release.path.parent == tmp_path / "workspace" / "release"
    assert strangers(tmp_path) == []


@pytest.mark.slow
def test_a_gate_that_says_no_is_status_3_and_shows_the_verdicts(tmp_path: Path) -> None:
    done = run(tmp_path, command(tmp_path, gates=IMPOSSIBLE))
    assert (done.returncode, done.stdout) == (3, "")
    assert "FAILED" in done.stderr
    assert not list((tmp_path / "workspace").glob("release/*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("noun", ["checkpoint", "cohort"])
def test_a_run_killed_in_the_middle_goes_on_to_the_same_digest(tmp_path: Path, noun: str) -> None:
    longer = {"train": {"images": 4096, "state_images": 256}, "cohort": {"images": 640, "steps": 20}}
    straight = run(tmp_path, command(tmp_path, "straight", "--key", "pseudonym.key", "--signing-key", "signing.key", **longer))
    assert straight.returncode == 0, straight.stderr
    asked = command(tmp_path, "killed", "--key", "pseudonym.key", "--signing-key", "signing.key", **longer)
    child = subprocess.Popen(asked, cwd=tmp_path, env=audited(tmp_path), stderr=subprocess.DEVNULL, start_new_session=True)
    unfinished = f"killed/{noun}/*/making.json"
    until(f"the {noun} to be begun", lambda: any(tmp_path.glob(unfinished)) or child.poll() is not None, 200, every_s=0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert any(tmp_path.glob(unfinished)), "the run was over before it could be killed"
    again = run(tmp_path, asked)
    assert again.returncode == 0, again.stderr
    paths = [tmp_path / done.stdout.splitlines()[-1] for done in (straight, again)]
    assert records.load(paths[0]).content == records.load(paths[1]).content
