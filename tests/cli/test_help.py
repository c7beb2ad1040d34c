"""The help teaches: the chain, a first command, and every setting in its group."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from medpipe import cli
from medpipe.recipe import SECTIONS

COMMANDS = (
    "demo",
    "run",
    "phantom",
    "deidentify",
    "preprocess",
    "train",
    "generate",
    "validate",
    "release",
    "verify",
    "consent",
    "withdraw",
    "recipe",
)


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_top_shows_the_chain_every_command_a_first_one_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys)
    assert "deidentify──▶ Collection ──preprocess──▶ Dataset ──train──▶ Checkpoint" in text
    assert all(f"\n    {command} " in text or f"\n    {command}\n" in text for command in COMMANDS)
    assert "medpipe demo" in text
    assert "3 a gate said no" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits_a_wide_terminal(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = helped(capsys, command)
    assert text.startswith(f"usage: medpipe {command} ")
    assert max(map(len, text.splitlines())) <= 130
    assert "==SUPPRESS==" not in text


def test_run_groups_every_section_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "run")
    assert all(f"\n{section}: " in text for section in SECTIONS)
    assert "--prefect" in text
    assert "--dry-run" in text


@pytest.mark.parametrize(
    ("command", "shows", "hides"), [("train", "train", "gates"), ("generate", "cohort", "source"), ("release", "release", "model")]
)
def test_a_verb_shows_the_settings_that_it_reads_and_no_others(
    capsys: pytest.CaptureFixture[str], command: str, shows: str, hides: str
) -> None:
    text = helped(capsys, command)
    assert f"\n{shows}: " in text
    assert f"--{hides}." not in text


def test_help_comes_without_waiting_for_torch() -> None:
    begun = time.monotonic()
    code = "import sys; from medpipe.cli import parser; parser().format_help(); print('torch' in sys.modules, 'prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert time.monotonic() - begun < 30  # a hang, not a benchmark


def test_no_command_is_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
