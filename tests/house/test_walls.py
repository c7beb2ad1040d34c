"""The walls of the house: imports point one way, rooms stay small, and only one room may see a patient."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("medpipe", "tasks", "flows", "deployments")
CODE = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
FACE = {"__init__", "__main__", "chain", "comparison", "plan", "cli", "cli_consent", "cli_verbs", "verify"}
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


@cache
def text(path: Path) -> str:
    return path.read_text()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path))


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in the file, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively: write the whole name"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def room(path: Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    return parts[1] if len(parts) > 2 else None


def importers(of: Iterable[str], among: Iterable[Path]) -> dict[str, list[str]]:
    """The files of `among` that import one of these modules or something in it."""
    wanted = set(of)
    found = {name(path): sorted(m for m in imports(path) if any(m == w or m.startswith(f"{w}.") for w in wanted)) for path in among}
    return {path: modules for path, modules in found.items() if modules}


LIBRARY = [path for path in CODE if layer(path) == "medpipe"]


def test_imports_point_from_deployments_to_flows_to_tasks_to_medpipe() -> None:
    for number, inner in enumerate(LAYERS):
        assert not importers(LAYERS[number + 1 :], [path for path in CODE if layer(path) == inner])


def test_the_library_knows_no_orchestrator_reads_no_environment_and_sets_up_no_logs() -> None:
    assert not importers(ORCHESTRATORS, LIBRARY)
    for word in ("os.environ[", "os.environ.get", "getenv", "basicConfig", "addHandler"):
        assert not [name(path) for path in LIBRARY if word in text(path)], f"{word}: settings come from the recipe, logs are the program's"


def test_the_room_that_sees_patients_is_imported_by_the_face_the_sources_and_the_tasks_alone() -> None:
    allowed = {"deid", "sources"}
    others = [path for path in CODE if not (layer(path) == "tasks" or room(path) in allowed or (room(path) is None and path.stem in FACE))]
    assert not importers(["medpipe.deid"], others)


def test_no_room_imports_another_rooms_verb() -> None:
    for own in VERBS:
        verbs = [f"medpipe.{place}.{verb}" for place, verb in VERBS.items() if place != own]
        assert not importers(verbs, [path for path in LIBRARY if room(path) == own])


def test_tasks_hold_no_science() -> None:
    science = ("torch", "zarr", "scipy", "sklearn", "pydicom")
    assert not importers(science, [path for path in CODE if layer(path) == "tasks"])


def test_files_are_small_enough_to_read() -> None:
    lines = {name(path): len(text(path).splitlines()) for path in CODE}
    assert not {path: count for path, count in lines.items() if count > 320}, "look for the second idea in it"


def test_functions_are_small_enough_to_read() -> None:
    lines = {
        f"{name(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in CODE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {function: count for function, count in lines.items() if count > 75}


def test_every_module_and_public_name_says_what_it_is_for() -> None:
    silent = [name(path) for path in CODE if tree(path).body and not ast.get_docstring(tree(path))]
    silent += [
        f"{name(path)}:{node.name}"
        for path in CODE
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not silent


def test_no_error_is_swallowed() -> None:
    handlers = [(path, node) for path in CODE for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler)]
    everything = [name(path) for path, node in handlers if node.type is None]
    broad = [
        name(path)
        for path, node in handlers
        if isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException") and isinstance(node.body[0], ast.Pass)
    ]
    assert not everything + broad


def test_no_work_is_left_for_later() -> None:
    words = ("TODO", "FIXME", "XXX", "raise NotImplementedError")
    assert not [(name(path), word) for path in CODE for word in words if word in text(path)]


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
