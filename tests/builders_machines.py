"""Processes of this machine for tests that need real servers: on free ports, each ended when its tests are done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

LOOPBACK = {"'127.0.0.1'", "'localhost'", "'::1'", "b'127.0.0.1'", "b'localhost'", "'unix'", "None", "'0.0.0.0'", "''"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, found: Callable[[], bool], limit_s: float, every_s: float = 0.5) -> None:
    """Wait until `found()` is true; the test fails when that takes longer than `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not found():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit_s} s for {what}")
        time.sleep(every_s)


@contextmanager
def process(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child in its own group; on leaving it is asked to end and its group is killed."""
    with log.open("ab") as out:
        child = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True)
        try:
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(40)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def audited(folder: Path) -> dict[str, str]:
    """An environment whose Python processes write down the hosts they ask for, with Prefect's state in `folder`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    (folder / "audit").mkdir(exist_ok=True)
    environment.update(
        PYTHONPATH=str(Path(__file__).parent / "machines" / "audit"),
        MEDPIPE_AUDIT=str(folder / "audit"),
        PREFECT_HOME=str(folder / ".prefect"),
        OMP_NUM_THREADS="1",
    )
    return environment


def strangers(folder: Path) -> list[str]:
    """Every line of the audit that names a host other than this machine."""
    lines = [line for path in (folder / "audit").iterdir() for line in path.read_text().splitlines()]
    assert lines, "the audit hook saw nothing: it was not installed"
    return [line for line in lines if line.split(" ")[1] not in LOOPBACK]
