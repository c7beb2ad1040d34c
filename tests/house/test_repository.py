"""The repository: documents, constraints and targets agree with the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from medpipe import cli
from medpipe import recipe as recipes

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement(line: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", line)
    assert match, line
    return normal(match[0])


def test_every_direct_dependency_has_its_exact_tested_version() -> None:
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    have = {normal(name) for name in pinned}
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    assert not {requirement(line) for line in [*PROJECT["dependencies"], *extras]} - have


def test_the_constraints_leave_the_choice_of_torchs_build_to_the_machine() -> None:
    torch = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert torch
    assert "+" not in torch[1]


def commands() -> list[tuple[str, str]]:
    """Every `medpipe …` line in a code block of the documents, with line continuations joined."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", document.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.split(r" [#>]", line)[0].strip().removeprefix("$ ")
                if line.startswith("medpipe "):
                    found.append((document.name, line))
    return found


@pytest.mark.parametrize(("document", "line"), commands())
def test_a_command_in_the_documents_is_one_that_the_parser_takes(document: str, line: str) -> None:
    arguments = cli.parser().parse_args(shlex.split(line)[1:])
    if getattr(arguments, "recipe", None) and not str(arguments.recipe).endswith(".yaml"):
        assert arguments.recipe in recipes.names()


def test_the_documents_show_commands_at_all() -> None:
    assert {"README.md", "tutorial.md"} <= {document for document, _ in commands()}


def test_the_two_commands_stand_within_the_first_twenty_lines_of_the_readme() -> None:
    head = "\n".join((ROOT / "README.md").read_text().splitlines()[:20])
    assert "make demo" in head
    assert "make test" in head


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {target for document in DOCUMENTS for target in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE)}
    assert {"demo", "test", "test-all", "lint", "bench", "ui"} <= targets
    assert not used - targets


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in [*DOCUMENTS, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            if not (document.parent / target).exists():
                broken.append((document.name, target))
    assert not broken


def test_every_document_can_be_found_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert not [path.name for path in (ROOT / "docs").rglob("*.md") if path.name != "README.md" and f"({path.name})" not in index]


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_no_file_names_a_place_on_one_machine() -> None:
    machine = re.compile(r"(?<![\w.:/])/(?:work/(?:main|shared)|home/\w+|Users/\w+|tmp/team)/")
    hits = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        hits += [f"{path.relative_to(ROOT)}: {match[0]}" for match in machine.finditer(text) if path != Path(__file__)]
    assert not hits


def test_no_image_of_a_patient_and_no_large_file_is_in_the_repository() -> None:
    assert not [path for path in tracked() if path.suffix.lower() in (".dcm", ".ima", ".nii", ".gz", ".key", ".pem")]
    assert not [path for path in tracked() if path.stat().st_size > 2**20]


def test_recipes_for_the_named_uses_are_there() -> None:
    assert {"brain-tumor-mr", "demo", "pneumoniamnist"} <= set(recipes.names())
