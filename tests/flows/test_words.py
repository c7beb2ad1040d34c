from __future__ import annotations

import errno
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.states import State

from flows.outcome import spoken
from medpipe.errors import InputError
from tasks.stages import stage
from tasks.words import StageFailed, worded


def test_our_error_passes_and_another_goes_on_without_what_it_quotes() -> None:
    with pytest.raises(InputError, match="the folder is empty"), worded():
        raise InputError("the folder is empty: give another")
    with pytest.raises(StageFailed) as caught, worded():
        raise ValueError("DOE^JANE")
    assert "DOE" not in str(caught.value)
    assert "ValueError" in str(caught.value)
    with pytest.raises(StageFailed, match="the disk is full") as caught, worded():
        raise OSError(errno.ENOSPC, "No space left on device", "/exports/DOE^JANE.dcm")
    assert "DOE" not in str(caught.value)


def test_an_error_of_our_code_is_placed_by_file_and_line() -> None:
    from medpipe.records import canonical

    with pytest.raises(StageFailed, match=r"\[medpipe/records.py:\d+\]"), worded():
        canonical(float("nan"))


@pytest.mark.usefixtures("prefect_server")
def test_our_errors_are_final_and_others_are_tried_again() -> None:
    calls: list[str] = []

    @spoken
    def chain(error: str) -> Path:
        return attempt.with_options(retry_delay_seconds=0)(error)

    @stage("attempt", timeout_h=1)
    def attempt(error: str) -> Path:
        calls.append(error)
        with worded():
            raise InputError("nothing there: give a folder") if error == "ours" else ConnectionError("host DOE^JANE")

    run = flow(chain, name="attempts")
    ours: State[Path] = run("ours", return_state=True)
    assert (ours.name, ours.message, calls) == ("InputError", "nothing there: give a folder", ["ours"])
    other: State[Path] = run("other", return_state=True)
    assert other.is_failed()
    assert other.message is not None
    assert "ConnectionError" in other.message
    assert "DOE" not in other.message
    assert calls == ["ours", "other", "other", "other"]


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_calls_a_failed_stage_sees_its_error() -> None:
    @flow(name="inner")
    @spoken
    def inner() -> None:
        raise InputError("the table has no column 'age': name another")

    @flow(name="outer")
    @spoken
    def outer() -> None:
        inner()

    state: State[None] = outer(return_state=True)
    assert (state.name, state.message) == ("InputError", "the table has no column 'age': name another")
    assert isinstance(state.result(raise_on_failure=False), InputError)


@pytest.mark.usefixtures("prefect_server")
def test_a_task_out_of_time_is_stopped() -> None:
    @task(timeout_seconds=0.5, name="slow")
    def slow() -> None:
        with worded():
            while True:
                pass

    @flow(name="waits", log_prints=False)
    @spoken
    def waits() -> None:
        slow()

    state: State[None] = waits(return_state=True)
    assert state.is_failed()
