"""How a flow ends: a path, or a Failed state named after the error with its one sentence. No wall of traceback."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from prefect.states import Failed

from medpipe.cli_errors import explain
from medpipe.errors import MedpipeError
from tasks.words import StageFailed

P = ParamSpec("P")
R = TypeVar("R")


def spoken(body: Callable[P, R]) -> Callable[P, R]:
    """Let `body` end as `Failed(name="GateFailed", message=...)` where it would raise; a flow that calls it still sees the error."""

    @wraps(body)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return body(*args, **kwargs)
        except Exception as error:
            name = type(error).__name__ if isinstance(error, MedpipeError) else "Failed"
            return cast(R, Failed(name=name, message=sentence(error), data=error))

    told.__annotations__ = inspect.get_annotations(body, eval_str=True)  # Prefect would look their names up in this module
    told.__signature__ = inspect.signature(body, eval_str=True)  # type: ignore[attr-defined]
    return told


def sentence(error: BaseException) -> str:
    """What a person reads of an error."""
    return str(error) if isinstance(error, (MedpipeError, StageFailed)) else explain(error)[0]
