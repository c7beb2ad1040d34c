"""What the Prefect UI shows before a run: every field has its sentence and a proper widget, none the raw-JSON editor."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments import presets, ui
from medpipe import recipe as recipes
from tasks.environment import TELEMETRY_OFF

SIMPLE = {"string", "integer", "number", "boolean"}


def deployed(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "deployments" / "prefect.yaml").read_text())


def flow_of(entrypoint: str) -> Any:
    module, _, name = entrypoint.rpartition(".")
    return getattr(importlib.import_module(module), name)


def fields(schema: dict[str, Any], definitions: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema["properties"].items():
        yield f"{place}{name}", field
        if "$ref" in field:
            yield from fields(definitions[field["$ref"].rpartition("/")[2]], definitions, f"{place}{name}.")


def widget(field: dict[str, Any], definitions: dict[str, Any]) -> bool:
    if "$ref" in field:
        return bool(definitions[field["$ref"].rpartition("/")[2]].get("properties"))
    if "anyOf" in field:
        kinds = [choice for choice in field["anyOf"] if choice.get("type") != "null"]
        return len(kinds) == 1 and widget(kinds[0], definitions)
    if field.get("type") == "array":
        return field["items"].get("type") in SIMPLE
    return field.get("type") in SIMPLE


@pytest.mark.parametrize("flow", ["demo", "refresh", "deidentify", "preprocess", "train", "generate", "validate", "release"])
def test_every_field_of_a_flows_form_has_a_description_and_a_widget(flow: str) -> None:
    parameters = flow_of(f"flows.{flow}.{'refresh_cohort' if flow == 'refresh' else flow}").parameters.model_dump()
    shown = list(fields(parameters, parameters["definitions"]))
    assert len(shown) > 60
    without_sentence = [place for place, field in shown if not field.get("description") and "$ref" not in field]
    assert without_sentence == []
    assert [place for place, field in shown if not widget(field, parameters["definitions"])] == []


def test_every_flow_is_deployed_with_a_description_and_tags_and_one_run_at_a_time(root: Path) -> None:
    entries = deployed(root)["deployments"]
    files = {path.stem for path in (root / "flows").glob("*.py")} - {"__init__", "outcome"}
    assert {entry["entrypoint"].split(".")[1] for entry in entries} == files
    for entry in entries:
        assert entry["description"]
        assert "medpipe" in entry["tags"]
        assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW" if "schedules" in entry else "ENQUEUE"}
        assert entry["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        assert set(entry["parameters"]) <= set(flow_of(entry["entrypoint"]).parameters.model_dump()["properties"])


def test_each_recipe_has_a_deployment_whose_form_is_filled_with_that_recipe(root: Path) -> None:
    entries = [entry for entry in deployed(root)["deployments"] if entry["entrypoint"] == "flows.refresh.refresh_cohort"]
    filled = {entry["name"]: entry["parameters"]["recipe"] for entry in entries}
    assert set(recipes.names()) <= set(filled)
    for name, settings in presets.recipes().items():
        assert filled[name] == f"{{{{ recipes.{name} }}}}"
        assert recipes.build(settings) == recipes.load(name)


def test_no_schedule_is_on_before_a_person_gave_it_a_source(root: Path) -> None:
    scheduled = [schedule for entry in deployed(root)["deployments"] for schedule in entry.get("schedules", [])]
    assert [schedule["active"] for schedule in scheduled] == [False]


def test_the_committed_deployments_name_no_place_of_a_machine(root: Path) -> None:
    for path in (root / "deployments").iterdir():
        if path.is_file():
            assert not {"/home/", "/root/", "/work/", "/Users/"} & {part for part in path.read_text().split('"') if part.startswith("/")}


def test_a_server_started_by_hand_has_the_settings_of_one_started_by_the_ui() -> None:
    environment = ui.server_environment(4200)
    assert {name: environment[name] for name in TELEMETRY_OFF} == TELEMETRY_OFF
    assert environment["HTTPS_PROXY"] == "http://127.0.0.1:9"
    assert "127.0.0.1" in environment["NO_PROXY"]
