from __future__ import annotations

import os
import socket
import time

import pytest

from medpipe.errors import InputError
from medpipe.parallel import each
from medpipe.settings import ComputeSettings
from tasks.dask_client import LocalWorkers, workers


def square(number: int) -> int:
    return number * number


def surroundings(_: int) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def test_one_worker_is_the_caller_itself() -> None:
    with workers(ComputeSettings(workers=1)) as executor:
        assert executor is None


def test_local_workers_start_with_the_first_piece_of_work_and_a_stage_uses_those_of_its_chain() -> None:
    with workers(ComputeSettings(workers=2)) as executor:
        assert isinstance(executor, LocalWorkers)
        assert executor._executor is None
        with workers(ComputeSettings(workers=2)) as inner:
            assert inner is executor
            assert dict(each(inner, square, [1, 2, 3])) == {1: 1, 2: 4, 3: 9}
        found = [value for _, value in each(executor, surroundings, list(range(8)))]
        assert os.getpid() not in {pid for pid, _ in found}
        assert {threads for _, threads in found} == {"1"}
        with pytest.raises(TypeError):
            list(each(executor, square, ["text"]))  # type: ignore[list-item]


def test_a_scheduler_that_does_not_answer_is_an_input_error_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with (
        pytest.raises(InputError, match=rf"no Dask scheduler answers at tcp://127.0.0.1:{port}"),
        workers(ComputeSettings(scheduler=f"tcp://127.0.0.1:{port}")),
    ):
        pass
    assert time.monotonic() - began < 20
