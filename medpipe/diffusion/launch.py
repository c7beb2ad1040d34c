"""Start the processes of a training by torchrun, show their progress, and tell what stopped them.

Every node starts its own, and they meet at the rendezvous. A process that dies takes the others down, and all start again
from the last state, at most `compute.restarts` times; an error of ours is final. They end with the process that started them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medpipe import errors, records
from medpipe.errors import MedpipeError
from medpipe.progress import Progress
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom

SPEC, ERROR, PROGRESS, LOG = "spec.json", "error.json", "progress.json", "processes.log"
EVERY_S = 0.2
END_S = 30
"""How long torchrun may take to end its processes."""
_SETTINGS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
"""A store of its own for every start: in a shared one a new process finds the address of the dead one, and is refused."""


@contextlib.contextmanager
def making(out: Path, wanted: MadeFrom, nodes: int) -> Iterator[None]:
    """Hold the record for this training: on several nodes the first to come holds it for all."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(records.making(out, wanted))
        except BlockingIOError:
            if nodes == 1:
                raise
        yield


def ranks(dataset: Path, out: Path, recipe: Recipe, progress: Progress) -> None:
    """Run this node's processes to their end: the Checkpoint is sealed in `out`.

    Raises the MedpipeError that one of them raised, or ChildProcessError when they died too often.
    """
    with tempfile.TemporaryDirectory(prefix="medpipe-train-") as name:
        scratch = Path(name)
        spec = {
            "dataset": str(dataset.absolute()),
            "out": str(out.absolute()),
            "recipe": recipe.model_dump(mode="json"),
            "parent": os.getpid(),
        }
        records.write_json(scratch / SPEC, spec)
        (out / records.STATE).mkdir(parents=True, exist_ok=True)
        with (out / records.STATE / LOG).open("ab") as log:
            torchrun = subprocess.Popen(
                _command(recipe, scratch, out), stdout=log, stderr=log, env=os.environ | _SETTINGS, start_new_session=True
            )
            try:
                _watch(torchrun, scratch, progress)
            finally:
                _end(torchrun)
        _raise(_read(scratch / ERROR), torchrun.returncode, recipe, out / records.STATE / LOG)


def _command(recipe: Recipe, scratch: Path, out: Path) -> list[str]:
    compute = recipe.compute
    if compute.nodes == 1:
        place = ["--standalone", "--local-addr=127.0.0.1"]
    else:
        identity = records.digest([str(compute.rendezvous), out.name])[:12]
        place = [f"--nnodes={compute.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={compute.rendezvous}", f"--rdzv-id={identity}"]
    processes = [f"--nproc-per-node={compute.processes}", f"--max-restarts={compute.restarts}", "--monitor-interval=0.2"]
    return [sys.executable, "-m", "torch.distributed.run", *place, *processes, "-m", "medpipe.diffusion.rank", str(scratch)]


def _watch(torchrun: subprocess.Popen[bytes], scratch: Path, progress: Progress) -> None:
    """Pass progress on until the processes end or one has raised an error of ours."""
    shown = None
    while torchrun.poll() is None:
        time.sleep(EVERY_S)
        if (told := _read(scratch / PROGRESS)) is not None and told != shown:
            progress(*told)
            shown = told
        error = _read(scratch / ERROR)
        if error is not None and error["ours"]:
            return


def _end(torchrun: subprocess.Popen[bytes]) -> None:
    if torchrun.poll() is None:
        torchrun.terminate()  # it ends its processes
        try:
            torchrun.wait(END_S)
        except subprocess.TimeoutExpired:
            torchrun.kill()  # its processes notice that they are alone
            torchrun.wait()


def _raise(error: dict[str, Any] | None, status: int, recipe: Recipe, log: Path) -> None:
    if error is not None and error["ours"]:
        kind = getattr(errors, error["kind"], MedpipeError)
        raise kind(error["message"])
    if status:
        what = f" (the last by {error['kind']})" if error is not None else ""
        raise ChildProcessError(
            f"the processes of training ended{what} and were started again {recipe.compute.restarts} times in vain: look at {log}, "
            "at memory (train.microbatch) and, on several nodes, at compute.rendezvous, then run the same command again to go on from there"
        )


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
