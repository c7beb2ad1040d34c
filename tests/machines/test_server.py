"""The server that `make ui` starts, with the versions that are installed: it imports, a schedule produces runs, it asks nobody."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders_machines import audited, free_port, process, strangers, until

from deployments import ui

pytestmark = pytest.mark.machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    port, log = free_port(), folder / "log"
    settings = {**ui.server_environment(port), **audited(folder), "PREFECT_SERVER_UI_ENABLED": "false"}
    command = [*ui.SERVER, "--host", ui.HOST, "--port", str(port)]
    with process(command, settings, folder, log) as child:
        api = f"http://{ui.HOST}:{port}/api"
        until("the server", lambda: answers(f"{api}/health") or child.poll() is not None, 180)
        assert child.poll() is None, log.read_text()
        yield api


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_a_cron_schedule_produces_runs(address: str) -> None:
    """With fastapi 0.151 the server does not import; with SQLAlchemy 2.1 this makes no runs, and a log line is all it says."""

    def ask(path: str, **body: Any) -> Any:
        answer = httpx.post(f"{address}/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    flow = ask("flows/", name="empty")
    schedules = [{"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}]
    deployment = ask("deployments/", name="every-minute", flow_id=flow["id"], schedules=schedules)
    only = {"id": {"any_": [deployment["id"]]}}
    until("a scheduled run", lambda: bool(ask("flow_runs/filter", deployments=only)), 60)
    run = ask("flow_runs/filter", deployments=only)[0]
    assert (run["auto_scheduled"], run["state_type"]) == (True, "SCHEDULED")


def test_the_server_asks_no_other_machine(address: str, folder: Path) -> None:
    httpx.get(f"{address}/collections/views/aggregate-worker-metadata", timeout=60)
    assert strangers(folder) == []


def test_the_audit_sees_a_stranger(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.getaddrinfo('stranger.invalid', 443)\nexcept OSError: pass"
    with process([sys.executable, "-c", code], audited(tmp_path), tmp_path, tmp_path / "log") as child:
        child.wait(60)
    assert len(strangers(tmp_path)) == 1
