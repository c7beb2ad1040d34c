"""`python -m deployments.ui`: a local Prefect server with a pool, a worker and every deployment, until Ctrl-C.

Nothing leaves the machine: the server is told so by `server.env`, and listens on 127.0.0.1 only. Its state lies in
`.prefect` of the working directory (or where PREFECT_HOME says), as that of `medpipe demo --prefect` does, so that runs
made there are seen here.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.environment import settle

HERE = Path(__file__).resolve().parent
POOL = "medpipe"
HOST = "127.0.0.1"
START_S, STOP_S = 180, 15
PREFECT = (sys.executable, "-m", "prefect")
SERVER = (sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "warning")
"""What `prefect server start --background` runs; in the foreground it would not take the loop of `tasks/server_loop.py`."""


class CannotStart(Exception):
    """The UI cannot be started or kept up; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything, print the address, and wait; 0 when stopped by a person, 1 when a part ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m deployments.ui", description="Start Prefect's UI with medpipe's flows.")
    parser.add_argument("--port", type=int, default=4200, help="port of the server (default 4200)")
    parser.add_argument("--runs", type=int, default=2, help="runs that the worker does at a time (default 2)")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        serve(asked.port, asked.runs)
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 0
    except CannotStart as error:
        print(f"medpipe: {error}", file=sys.stderr)
        return 1
    return 0


def serve(port: int, runs: int) -> None:
    """Run server and worker until one of them ends; raises CannotStart."""
    check_free(port)
    server_settings, client_settings = server_environment(port), client_environment(port)
    home, api = Path(client_settings["PREFECT_HOME"]), client_settings["PREFECT_API_URL"]
    keep_out_second_ui(Path(server_settings["PREFECT_SERVER_UI_STATIC_DIRECTORY"]))
    with ExitStack() as stack:
        print(f"starting the server (log: {home / 'server.log'})", flush=True)
        start = [*SERVER, "--host", HOST, "--port", str(port)]
        server = stack.enter_context(_child(start, server_settings, home / "server.log"))
        wait_for(server, lambda: _asked(f"{api}/health") == b"true", "server", home / "server.log")
        print("deploying the flows", flush=True)
        deploy(client_settings)
        worker_command = [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--limit", str(runs)]
        worker = stack.enter_context(_child(worker_command, client_settings, home / "worker.log"))
        online = f"{api}/work_pools/{POOL}/workers/filter"
        wait_for(worker, lambda: b"ONLINE" in _asked(online, b"{}"), "worker", home / "worker.log")
        print(f"\nPrefect with medpipe's flows: http://{HOST}:{port}/deployments\nCtrl-C stops it.", flush=True)
        _watch({"server": server, "worker": worker}, home)


def check_free(port: int) -> None:
    """Raise CannotStart where something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise CannotStart(f"port {port} is in use, perhaps by another 'make ui': stop that, or give another with --port") from None


def client_environment(port: int) -> dict[str, str]:
    """Return the environment of whatever talks to the server: this process's with medpipe's defaults below it."""
    environment = {**os.environ, "PREFECT_API_URL": f"http://{HOST}:{port}/api"}
    settle(environment)
    return environment


def server_environment(port: int) -> dict[str, str]:
    """Return the environment of the server: `server.env` over that of its clients."""
    environment = client_environment(port)
    environment["PREFECT_SERVER_UI_API_URL"] = environment.pop("PREFECT_API_URL")  # the page asks port 4200 otherwise
    environment["PREFECT_SERVER_UI_STATIC_DIRECTORY"] = str(Path(environment["PREFECT_HOME"]) / "pages")
    lines = [line for line in (HERE / "server.env").read_text().splitlines() if line and not line.startswith("#")]
    return environment | {name: value for name, _, value in (line.partition("=") for line in lines)}


def keep_out_second_ui(pages: Path) -> None:
    """Make the folder that the server lays its pages in, with a dangling link in the place of Prefect's second UI.

    The server then serves the first alone. No setting does that, and the second asks an analytics host from the browser.
    """
    pages.mkdir(parents=True, exist_ok=True)
    if not (pages / "v2").is_symlink():
        (pages / "v2").symlink_to("not-served")


def deploy(environment: dict[str, str]) -> None:
    """Create the pool and the zombie automation, and deploy `prefect.yaml`; raises CannotStart."""
    _step("the work pool and the automation", [sys.executable, "-m", "deployments.pool", POOL], environment)
    deploying = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(HERE / "prefect.yaml")]
    _step("the deployments", deploying, environment)


def wait_for(child: subprocess.Popen[bytes], ready: Callable[[], bool], what: str, log: Path) -> None:
    """Wait until `ready` says so; raises CannotStart when the child ends or takes too long."""
    deadline = time.monotonic() + START_S
    while not ready():
        if child.poll() is not None:
            raise CannotStart(f"the {what} ended while it started: {log} says why")
        if time.monotonic() > deadline:
            raise CannotStart(f"the {what} was not ready within {START_S} s: {log} says what it was doing")
        time.sleep(0.5)


def _asked(url: str, body: bytes | None = None) -> bytes:
    """The server's answer, asked for without any proxy; empty while there is none."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with direct.open(request, timeout=10) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError):
        return b""


def _step(what: str, command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CannotStart(f"{what} could not be made:\n{done.stdout}")


@contextmanager
def _child(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child in a process group of its own, so that Ctrl-C reaches it once, from here, in the right order."""
    with log.open("ab") as out:
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield child
        finally:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the child to end, then end what is left of its group: no run goes on without its worker."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _watch(children: dict[str, subprocess.Popen[bytes]], home: Path) -> None:
    while True:
        for name, child in children.items():
            if child.poll() is not None:
                raise CannotStart(f"the {name} ended by itself: {home / name}.log says why; start again")
        time.sleep(1)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
