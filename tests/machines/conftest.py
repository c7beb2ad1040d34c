"""Real servers, workers and clusters as processes of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from builders_machines import free_port, process, until


@pytest.fixture(scope="session")
def dask_scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real `dask scheduler` with two `dask worker` processes."""
    folder = tmp_path_factory.mktemp("dask")
    address, environment = f"tcp://127.0.0.1:{free_port()}", {**os.environ, "OMP_NUM_THREADS": "1"}
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]
    worker = [*dask, "worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)]
    log = folder / "log"
    with process(scheduler, environment, folder, log), process(worker, environment, folder, log), process(worker, environment, folder, log):
        from distributed import Client

        until("the scheduler", lambda: b"Scheduler at" in log.read_bytes(), 60)
        with Client(address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
