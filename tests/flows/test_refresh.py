"""The whole chain through Prefect on a tiny source: what it makes, what it shows, and how it ends where a gate says no."""

from __future__ import annotations

import base64
import os
import re
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders_flows import IMPOSSIBLE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL
from prefect.states import State

from flows.refresh import refresh_cohort
from medpipe import records
from medpipe.errors import GateFailed, InputError
from medpipe.recipe import Recipe, build

pytestmark = pytest.mark.usefixtures("prefect_server")
STAGES = ["deidentify", "preprocess", "train", "generate", "validate", "release"]


@dataclass(frozen=True)
class Refreshed:
    workspace: Path
    state: State[Any]


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    tree = recipe.model_dump(mode="json")
    return build({**tree, **{name: {**tree[name], **values} for name, values in sections.items()}})


def children(state: State[Any]) -> list[FlowRun]:
    parent = FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent), sort=FlowRunSort.START_TIME_ASC)


def artifacts(state: State[Any]) -> dict[str, Any]:
    runs = [state.state_details.flow_run_id, *(run.id for run in children(state))]
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=runs)))
    return {artifact.key: artifact for artifact in found if artifact.key}


def files(workspace: Path) -> dict[Path, tuple[int, int]]:
    """Every file but the cache of the source's digests, which takes a file in when it is a few seconds old."""
    found = [path for path in workspace.rglob("*") if path.is_file() and path.suffix != ".digests"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


@pytest.fixture(scope="module")
def refreshed(arrays: Path, tiny: Recipe, tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Refreshed:
    workspace = tmp_path_factory.mktemp("chain") / "workspace"
    return Refreshed(workspace, refresh_cohort(arrays, workspace, tiny, return_state=True))


def test_the_chain_ends_in_a_release_made_by_one_subflow_per_stage(refreshed: Refreshed) -> None:
    assert refreshed.state.is_completed(), refreshed.state.message
    release = records.load(refreshed.state.result(), "Release", verify=True)
    assert release.path.parent == refreshed.workspace / "release"
    assert (refreshed.workspace / "release" / "current").resolve() == release.path.resolve()
    assert [run.name for run in children(refreshed.state)] == [f"{name} tiny" for name in STAGES]


def test_a_person_sees_the_plan_the_splits_the_pictures_and_the_verdicts(refreshed: Refreshed) -> None:
    shown = artifacts(refreshed.state)
    assert {"plan", "collection", "splits", "checkpoint", "verdicts", "report", "sample-grid", "release"} <= set(shown)
    picture = shown["sample-grid"].data.partition("data:image/png;base64,")[2].removesuffix(")")
    assert base64.b64decode(picture)[:4] == b"\x89PNG"
    assert len(picture) < 130_000
    assert shown["verdicts"].data.count('"Gate"') >= 5
    assert "Not assessed" in shown["report"].data
    assert '"train"' in shown["splits"].data
    assert any(artifact.type == "progress" and artifact.data == 100 for artifact in shown.values())


def test_a_refresh_with_nothing_new_finds_the_release_and_touches_nothing(refreshed: Refreshed, arrays: Path, tiny: Recipe) -> None:
    before = files(refreshed.workspace)
    again = refresh_cohort(arrays, refreshed.workspace, tiny)
    assert again == refreshed.state.result()
    assert files(refreshed.workspace) == before


def test_a_gate_that_says_no_ends_the_run_as_gate_failed_and_releases_nothing(refreshed: Refreshed, arrays: Path, tiny: Recipe) -> None:
    released = files(refreshed.workspace / "release")
    strict = changed(tiny, gates=IMPOSSIBLE)
    state = refresh_cohort(arrays, refreshed.workspace, strict, return_state=True)
    assert state.is_failed()
    assert state.name == "GateFailed"
    failure = state.result(raise_on_failure=False)
    assert isinstance(failure, GateFailed)
    assert failure.report is not None
    failed = records.load(failure.report, "Report").facts["failed"]
    assert failed
    assert state.message is not None
    assert any(name in state.message for name in failed)
    assert re.search(r"\d", state.message)
    assert re.search(r"at (most|least) \d", state.message)
    assert files(refreshed.workspace / "release") == released
    assert [run.state_name for run in children(state)] == ["Completed"] * 5 + ["GateFailed"]
    shown = artifacts(state)
    assert shown["report"].data.index(failed[0]) < shown["report"].data.index("## Passed")
    assert "FAILED" in shown["verdicts"].data


def test_a_dry_run_shows_the_plan_and_makes_nothing(arrays: Path, tiny: Recipe, tmp_path: Path) -> None:
    state = refresh_cohort(arrays, tmp_path / "workspace", tiny, dry_run=True, return_state=True)
    assert state.name == "Planned"
    assert [row["Stage"] for row in _rows(artifacts(state)["plan"])] == STAGES
    assert not files(tmp_path)


@pytest.mark.parametrize("make", [lambda folder: folder / "absent", lambda folder: _text(folder / "notes.npz")])
def test_a_source_that_cannot_be_used_ends_the_run_in_one_sentence(tiny: Recipe, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    state = refresh_cohort(make(tmp_path), tmp_path / "workspace", tiny, return_state=True)
    assert state.name == "InputError"
    assert isinstance(state.result(raise_on_failure=False), InputError)
    assert state.message is not None
    assert "source" in state.message
    assert "\n" not in state.message
    assert not list(tmp_path.rglob("record.json"))


def test_prefect_was_given_no_key_and_no_pixel(refreshed: Refreshed) -> None:
    keys = [path for path in (refreshed.workspace / "private").iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys if path.suffix == ".key"} == {0o600}
    url = PREFECT_SERVER_DATABASE_CONNECTION_URL.value()
    assert url is not None
    with sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///")) as database:
        stored = "\n".join(database.iterdump())
    for path in keys:
        secret = path.read_bytes()
        forms = [secret.hex(), base64.b64encode(secret).decode(), *secret.decode(errors="ignore").splitlines()]
        assert not [form for form in forms if len(form) > 24 and form in stored and "PRIVATE KEY" not in form]
    assert f"{os.sep}images.zarr{os.sep}" not in stored


def _rows(artifact: Any) -> list[dict[str, Any]]:
    import json

    return json.loads(artifact.data)


def _text(path: Path) -> Path:
    path.write_text("not an archive")
    return path
