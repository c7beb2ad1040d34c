"""`python -m deployments.ui` as a person starts it: a real server, every deployment, a real worker, a schedule."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from builders_flows import TINY, blots
from builders_machines import audited, free_port, process, strangers, until

from medpipe import recipe as recipes

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Ui:
    address: str
    folder: Path
    child: subprocess.Popen[bytes]

    def ask(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.address}/api/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def deployments(self) -> dict[str, dict[str, Any]]:
        flows = {flow["id"]: flow["name"] for flow in self.ask("flows/filter")}
        return {f"{flows[entry['flow_id']]}/{entry['name']}": entry for entry in self.ask("deployments/filter")}

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        return self.ask("flow_runs/filter", deployments={"id": {"any_": [deployment]}})


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    folder, port = tmp_path_factory.mktemp("ui"), free_port()
    command, log = [sys.executable, "-m", "deployments.ui", "--port", str(port)], folder / "log"
    with process(command, audited(folder), folder, log) as child:
        until("the address to be printed", lambda: b"Ctrl-C" in log.read_bytes() or child.poll() is not None, 240)
        assert child.poll() is None, log.read_text()
        yield Ui(f"http://127.0.0.1:{port}", folder, child)


def test_every_deployment_is_there_with_its_form_filled(ui: Ui, root: Path) -> None:
    entries = yaml.safe_load((root / "deployments" / "prefect.yaml").read_text())["deployments"]
    there = ui.deployments()
    assert len(there) == len(entries)
    assert "refresh-cohort/nightly" in there
    for name, deployment in there.items():
        assert deployment["description"]
        fields = deployment["parameter_openapi_schema"]["properties"]
        assert all(field["description"] for field in fields.values()), name
        if not name.startswith("withdraw"):  # it asks for a patient and a ledger, and makes nothing
            assert fields["recipe"]["description"]
            assert recipes.build(deployment["parameters"]["recipe"])
        assert deployment["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(ui.folder)}}]
    for name in recipes.names():
        assert recipes.build(there[f"refresh-cohort/{name}"]["parameters"]["recipe"]) == recipes.load(name)


def test_the_page_asks_the_server_that_it_came_from(ui: Ui) -> None:
    settings = httpx.get(f"{ui.address}/ui-settings", timeout=60).json()
    assert settings["api_url"] == f"{ui.address}/api"
    assert settings["available_uis"] == ["v1"], "the second UI asks an analytics host from the browser"
    assert b"<html" in httpx.get(ui.address, timeout=60).content


def test_the_automation_that_ends_zombies_is_there_once(ui: Ui) -> None:
    assert [automation["enabled"] for automation in ui.ask("automations/filter")] == [True]


def test_a_schedule_produces_a_run_that_the_worker_does(ui: Ui) -> None:
    """With SQLAlchemy 2.1 a schedule produces no runs, and says so in a log line only."""
    deployment = ui.deployments()["refresh-cohort/demo"]
    parameters = {"source": str(blots(ui.folder / "blots.npz")), "workspace": "workspace", "recipe": TINY, "dry_run": True}
    schedule = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True, "parameters": parameters}
    answer = httpx.post(f"{ui.address}/api/deployments/{deployment['id']}/schedules", json=[schedule], timeout=60)
    assert answer.status_code == 201, answer.text

    until("scheduled runs", lambda: any(run["auto_scheduled"] for run in ui.runs(deployment["id"])), 60)

    def first() -> dict[str, Any] | None:
        ended = [run for run in ui.runs(deployment["id"]) if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]
        return min(ended, key=lambda run: run["expected_start_time"], default=None)

    until("the worker to do one", lambda: first() is not None, 150, every_s=2)
    run = first()
    assert run is not None
    assert (run["auto_scheduled"], run["state_name"]) == (True, "Planned"), run["state"]
    [active] = httpx.get(f"{ui.address}/api/deployments/{deployment['id']}/schedules", timeout=60).json()
    httpx.delete(f"{ui.address}/api/deployments/{deployment['id']}/schedules/{active['id']}", timeout=60).raise_for_status()


def test_a_recipe_that_breaks_a_rule_across_fields_fails_at_start_and_says_which(ui: Ui) -> None:
    deployment = ui.deployments()["refresh-cohort/demo"]
    wrong = {**TINY, "cohort": {**TINY["cohort"], "sigma_min": 5, "sigma_start": 1}}
    parameters = {"source": "nowhere", "workspace": "workspace", "recipe": wrong}
    run = ui.ask(f"deployments/{deployment['id']}/create_flow_run", parameters=parameters)

    def ended() -> bool:
        [found] = ui.ask("flow_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
        run.update(found)
        return found["state_type"] in ("COMPLETED", "FAILED", "CRASHED")

    until("the run to end", ended, 120, every_s=2)
    assert run["state_type"] == "FAILED"
    assert "sigma_min must be below cohort.sigma_start" in run["state"]["message"]


def test_a_second_one_on_the_same_port_says_that_the_port_is_in_use(ui: Ui) -> None:
    port = ui.address.rpartition(":")[2]
    second = [sys.executable, "-m", "deployments.ui", "--port", port]
    done = subprocess.run(second, env=audited(ui.folder), cwd=ui.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"medpipe: port {port} is in use")
    assert done.stderr.count("\n") == 1


def test_nothing_but_this_machine_was_asked_and_an_interrupt_leaves_no_process(ui: Ui) -> None:
    httpx.get(f"{ui.address}/api/collections/views/aggregate-worker-metadata", timeout=60)
    assert strangers(ui.folder) == []
    ui.child.send_signal(signal.SIGINT)
    assert ui.child.wait(60) == 0
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and _belongs(Path("/proc") / pid, ui.folder)]
    assert left == []


def _belongs(process: Path, folder: Path) -> bool:
    try:
        return str(folder / ".prefect").encode() in (process / "environ").read_bytes()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return False
