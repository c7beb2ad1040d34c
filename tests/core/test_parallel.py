"""Work over an executor: windows, errors, and workers that end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from medpipe import parallel
from medpipe.errors import GateFailed, InputError


def square(number: int) -> int:
    return number * number


def fail_on_three(number: int) -> int:
    if number == 3:
        raise InputError("item 3 cannot be used")
    return number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    raise GateFailed("gate 'copies' says no", Path("report"))


@pytest.fixture(scope="module", params=["the caller", "threads", "processes"])
def executor(request: pytest.FixtureRequest) -> object:
    if request.param == "the caller":
        yield None
    elif request.param == "threads":
        with ThreadPoolExecutor(3) as threads:
            yield threads
    else:
        with parallel.processes(2) as workers:
            yield workers


def test_every_item_is_done_once(executor: Executor | None) -> None:
    assert sorted(parallel.each(executor, square, range(40), window=4)) == [(n, n * n) for n in range(40)]


def test_no_items_are_no_work(executor: Executor | None) -> None:
    assert list(parallel.each(executor, square, [])) == []


def test_an_error_of_one_item_reaches_the_caller(executor: Executor | None) -> None:
    with pytest.raises(InputError, match="item 3"):
        list(parallel.each(executor, fail_on_three, range(10), window=2))


def test_a_failed_gate_carries_its_report_across_processes(executor: Executor | None) -> None:
    with pytest.raises(GateFailed) as failure:
        list(parallel.each(executor, refuse, [1]))
    assert failure.value.report == Path("report")


def test_at_most_a_window_is_under_way() -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    class Counting(ThreadPoolExecutor):
        def submit(self, function, /, *arguments, **named):  # type: ignore[no-untyped-def]
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            future = super().submit(function, *arguments, **named)
            future.add_done_callback(lambda _: leave())
            return future

    def leave() -> None:
        nonlocal under_way
        with lock:
            under_way -= 1

    with Counting(2) as executor:
        assert len(list(parallel.each(executor, square, range(100), window=5))) == 100
    assert 1 < most <= 5


def test_items_not_yet_begun_are_dropped_when_the_reader_stops() -> None:
    begun: list[int] = []

    def note(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    with ThreadPoolExecutor(1) as executor:
        for _ in parallel.each(executor, note, range(1000), window=8):
            break
    assert len(begun) < 10


def test_one_worker_is_the_caller() -> None:
    with parallel.processes(1) as executor:
        assert executor is None


def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    with parallel.processes(2) as executor, pytest.raises(BrokenExecutor):
        list(parallel.each(executor, die, [1]))


PARENT = """
import os, sys, time
from medpipe import parallel
if __name__ == "__main__":
    with parallel.processes(2) as executor:
        workers = {pid for _, pid in parallel.each(executor, PAUSE, [0.3] * 4)}
        print(*workers, flush=True)
        time.sleep(60)
"""


def pause(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    imported = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_parallel import pause\n"
    script.write_text(imported + PARENT.replace("PAUSE", "pause"))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers
        parent.kill()
    deadline = time.monotonic() + 20
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists() and _state(pid) != "Z"]:
        assert time.monotonic() < deadline, f"workers {alive} outlived their parent"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
