"""Errors on their way into Prefect, which stores and shows every message it is given.

A MedpipeError carries no patient's value and passes. Anything else may quote one (a file name, an element), so that only
its kind and the line of our code where it arose go on.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medpipe.cli_errors import explain
from medpipe.errors import MedpipeError

_OURS = Path(__file__).resolve().parent.parent / "medpipe"


class StageFailed(Exception):
    """A stage failed for a reason that is not ours to name: a full disk, a lost worker. It may be tried again."""


@contextmanager
def worded() -> Iterator[None]:
    """Let our errors pass and turn any other into a StageFailed that quotes nothing."""
    try:
        yield
    except (MedpipeError, TimeoutError):  # Prefect ends a task that is out of time by a TimeoutError
        raise
    except Exception as error:
        sentence, _ = explain(error)
        raise StageFailed(f"{sentence}{_place(error)}") from None


def _place(error: Exception) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(_OURS)]
    return f" [medpipe/{Path(ours[-1].filename).relative_to(_OURS)}:{ours[-1].lineno}]" if ours else ""


def may_retry(task: Any, run: Any, state: Any) -> bool:
    """Say whether running again could help: our own errors are final, foreign ones are not."""
    return not isinstance(state.result(raise_on_failure=False), MedpipeError)
