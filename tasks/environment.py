"""Prefect's surroundings: no telemetry, and its state beside the work. Prefect reads them when it is imported.

Nothing here imports Prefect. `deployments/server.env` says the same to a server that is started in another way.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

TELEMETRY_OFF = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # sens-o-matic.prefect.io, at start and every 600 s
    "DO_NOT_TRACK": "1",  # the client's own events
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages ask an analytics host even with analytics off
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "GX_ANALYTICS_ENABLED": "false",
}
COMPUTE = {"OMP_WAIT_POLICY": "passive"}  # a spinning thread halves training where cores are shared; read when torch is imported
LOCAL_SERVER = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 by default; 18 was measured on a busy machine
    "PREFECT_LOGGING_INTERNAL_LEVEL": "ERROR",
    "UVICORN_LOOP": "tasks.server_loop:loop",
}


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what is not set: no telemetry, patience with a local server and shared cores, state in `.prefect` of the working directory."""
    for name, value in {**TELEMETRY_OFF, **LOCAL_SERVER, **COMPUTE, "PREFECT_HOME": str(Path.cwd() / ".prefect")}.items():
        environment.setdefault(name, value)
