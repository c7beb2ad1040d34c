"""Progress artifacts: a bar in the Prefect UI for each kind of work that a stage reports."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from medpipe.progress import Progress

EVERY_S = 3.0
"""Shortest time between two updates of a bar: each is a request to the server."""


@dataclass
class _Bar:
    artifact: UUID
    shown_at: float
    shown: int
    done: int
    total: int


@contextmanager
def progress_artifacts(stage: str) -> Iterator[Progress]:
    """Give a `Progress` that draws bars on the run's page; a server that does not answer never stops the work."""
    bars: dict[str, _Bar] = {}
    logger = get_run_logger()

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        bar = bars.get(what)
        if bar is not None:
            bar.done, bar.total = done, total
            if now - bar.shown_at < EVERY_S and done < total:
                return
        try:
            if bar is None:
                key, text = _key(stage, what), _text(what, done, total)
                artifact = create_progress_artifact(_percent(done, total), key=key, description=text)
                assert isinstance(artifact, UUID)
                bars[what] = _Bar(artifact, now, done, done, total)
            elif bar.shown != done:
                update_progress_artifact(bar.artifact, _percent(done, total), description=_text(what, done, total))
                bar.shown_at, bar.shown = now, done
        except (httpx.HTTPError, PrefectException) as error:
            logger.warning("the progress of %s is not shown (%s)", stage, type(error).__name__)

    yield show


def _percent(done: int, total: int) -> float:
    return 100.0 * min(done, total) / max(total, 1)


def _text(what: str, done: int, total: int) -> str:
    return f"{what}: {done:,} of {total:,}"


def _key(stage: str, what: str) -> str:
    """Prefect's keys are small letters, digits and dashes; one key is a history across runs."""
    words = what if what.startswith(stage) else f"{stage} {what}"
    return re.sub(r"[^a-z0-9]+", "-", f"{words} progress".lower()).strip("-")
