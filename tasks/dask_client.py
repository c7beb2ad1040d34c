"""The one door to Dask: an executor from `recipe.compute`, for every stage that runs inside it.

The library takes any `concurrent.futures.Executor`; here it becomes a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import medpipe
from medpipe.errors import InputError
from medpipe.settings import ComputeSettings

Result = TypeVar("Result")
ANSWER_S = 5
_open: ContextVar[tuple[ComputeSettings, Executor | None] | None] = ContextVar("open_executor", default=None)


@contextmanager
def workers(compute: ComputeSettings) -> Iterator[Executor | None]:
    """Give the executor of `compute`: a scheduler's workers, local worker processes, or None (the caller) for one worker.

    Inside another `workers` with the same settings it is the same executor, so that a chain starts one cluster. Local
    workers start with the first piece of work. Raises InputError when the scheduler does not answer, has no worker, or
    its workers have another medpipe.
    """
    already = _open.get()
    if already is not None and already[0] == compute:
        yield already[1]
        return
    with ExitStack() as stack:
        executor: Executor | None
        if compute.scheduler is not None:
            executor = stack.enter_context(_remote(compute.scheduler))
        else:
            executor = stack.enter_context(LocalWorkers(compute.workers)) if compute.workers > 1 else None
        token = _open.set((compute, executor))
        try:
            yield executor
        finally:
            _open.reset(token)


class LocalWorkers(Executor):
    """Local Dask workers, one thread each, that start with the first piece of work: a refresh with nothing new starts none."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = ExitStack()
        self._executor: Executor | None = None

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        if self._executor is None:
            self._executor = self._stack.enter_context(_local(self._count))
        return self._executor.submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._stack.close()


@contextmanager
def _local(count: int) -> Iterator[Executor]:
    from distributed import Client, LocalCluster

    settings = {"n_workers": count, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1", "dashboard_address": None}
    quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # its metrics would lie on port 8787 of every interface
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with LocalCluster(**settings, scheduler_kwargs=quiet, env=one_thread) as cluster, Client(cluster, set_as_default=False) as client:
        yield client.get_executor(pure=False)


@contextmanager
def _remote(address: str) -> Iterator[Executor]:
    from distributed import Client

    try:
        client = Client(address, timeout=ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise InputError(
            f"no Dask scheduler answers at {address} (compute.scheduler): start one with 'dask scheduler', or leave it empty"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWER_S)
        except TimeoutError:
            raise InputError(f"the Dask scheduler at {address} has no worker: start one with 'dask worker {address}'") from None
        versions = set(client.run(_version).values())
        if versions != {medpipe.__version__}:
            found = ", ".join(sorted(versions))
            raise InputError(f"the workers at {address} run medpipe {found}, and this is {medpipe.__version__}: install the same version")
        yield client.get_executor(pure=False)


def _version() -> str:
    return medpipe.__version__
