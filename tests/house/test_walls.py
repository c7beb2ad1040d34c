"""The walls of the house: imports point one way, rooms stay small, and only one room may see a patient."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("medpipe", "tasks", "flows", "deployments")
CODE = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
FACE = {"__init__", "__main__", "chain", "plan", "cli", "verify"}
"""Modules of medpipe's root that may import any verb."""
VERBS = {
    "deid": "deidentify",
    "images": "preprocess",
    "diffusion": "train",
    "cohort": "generate",
    "gates": "validate",
    "release": "release",
}
ORCHESTRATORS = {"prefect", "prefect_dask", "dask", "distributed"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively: write the whole name"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    return parts[1] if len(parts) > 2 else None


every_file = pytest.mark.parametrize("path", CODE, ids=name)


@every_file
def test_imports_point_from_deployments_to_flows_to_tasks_to_medpipe(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    forbidden = set(LAYERS[LAYERS.index(layer) + 1 :])
    assert not {module for module in imports(path) if module.split(".")[0] in forbidden}


@pytest.mark.parametrize("path", [path for path in CODE if path.is_relative_to(ROOT / "medpipe")], ids=name)
def test_the_library_knows_no_orchestrator_and_reads_no_environment(path: Path) -> None:
    assert not {module for module in imports(path) if module.split(".")[0] in ORCHESTRATORS | {"logging"}}
    text = path.read_text()
    assert "os.environ" not in text, "settings come from the recipe"
    assert "getenv" not in text, "settings come from the recipe"


@every_file
def test_the_room_that_sees_patients_is_imported_by_the_face_and_the_sources_alone(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    allowed = parts[0] == "tasks" or (parts[0] == "medpipe" and (room(path) in ("deid", "sources") or path.stem in FACE))
    seen = {module for module in imports(path) if module.startswith("medpipe.deid")}
    assert allowed or not seen, f"{name(path)} imports {sorted(seen)}"


@pytest.mark.parametrize("path", [path for path in CODE if room(path) in VERBS], ids=name)
def test_no_room_imports_another_rooms_verb(path: Path) -> None:
    others = {f"medpipe.{place}.{verb}" for place, verb in VERBS.items() if place != room(path)}
    assert not imports(path) & others


@every_file
def test_a_file_is_small_enough_to_read(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 320 or path.name == "recipe.py", f"{lines} lines: look for the second idea in it"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@every_file
def test_a_function_is_small_enough_to_read(path: Path) -> None:
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions(path)}
    assert not {what: lines for what, lines in long.items() if lines > 75}


@every_file
def test_every_public_function_and_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, f"{name(path)} has no docstring"
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not silent


@every_file
def test_no_error_is_swallowed_and_no_work_is_left_for_later(path: Path) -> None:
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name(path)}:{node.lineno} catches everything"
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            assert not (broad and all(isinstance(line, ast.Pass) for line in node.body)), f"{name(path)}:{node.lineno}"
    assert not [word for word in ("TODO", "FIXME", "XXX", "raise NotImplementedError") if word in text]


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").rglob("*.py")), ids=name)
def test_tasks_hold_no_science(path: Path) -> None:
    assert not {module for module in imports(path) if module.split(".")[0] in ("torch", "zarr", "scipy", "sklearn", "pydicom")}


def test_no_file_is_called_after_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
    assert not [name(path) for path in CODE if path.stem in empty or path.stem.startswith(("process_", "handle_"))]


def test_importing_medpipe_is_quick_and_brings_neither_prefect_nor_torch() -> None:
    code = "import sys, medpipe; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = ORCHESTRATORS | {"torch", "monai", "pandas", "zarr", "pydicom", "great_expectations"}
    assert not heavy & {module.split(".")[0] for module in loaded}


def test_running_the_chain_in_process_never_imports_prefect() -> None:
    code = "import sys, medpipe.chain, medpipe.plan, medpipe.cli, medpipe.cli_show; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not ORCHESTRATORS & {module.split(".")[0] for module in loaded}
