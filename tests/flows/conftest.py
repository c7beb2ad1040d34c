"""One Prefect server for all flow tests of a run, and a source and recipe on which the whole chain takes seconds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="medpipe-prefect-")  # before Prefect is imported

import pytest
from builders_flows import TINY, blots

import tasks as tasks  # sets Prefect's surroundings
from medpipe.recipe import Recipe, build


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """The one `prefect_test_harness` of the run: a server takes longer to start than most flows to run."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe whose gates let everything pass and whose chain takes seconds."""
    return build(TINY)


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file in MedMNIST's form."""
    return blots(tmp_path_factory.mktemp("arrays") / "blots.npz")
