"""A small phantom hospital, written once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe.sources import phantom

PATIENTS = 6


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital of 6 patients, seed 0; patient 1 is the canary. Read only."""
    return phantom.write(tmp_path_factory.mktemp("phantom") / "hospital", patients=PATIENTS)
