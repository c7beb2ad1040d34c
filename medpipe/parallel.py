"""Work over an executor, in windows: a million shards need no graph of a million nodes.

`None` runs in the caller; a `ProcessPoolExecutor` or a Dask client's `get_executor()` runs elsewhere. The functions
given must be importable and their arguments small: paths and numbers, never pixels.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WINDOW = 64


def each(
    executor: Executor | None, function: Callable[[Item], Result], items: Sequence[Item], window: int = WINDOW
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) as they finish; at most `window` are under way. The first error is raised."""
    if executor is None:
        for item in items:
            yield item, function(item)
        return
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            for item in waiting:
                running[executor.submit(function, item)] = item
                if len(running) >= window:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


@contextmanager
def processes(workers: int) -> Iterator[Executor | None]:
    """Give an executor of `workers` fresh processes, or None (the caller itself) for one."""
    if workers <= 1:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker) as executor:
        yield executor


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a worker outlives a killed parent otherwise, waiting for work forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
