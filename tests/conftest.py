"""What every test may ask for: `data_dir`, the folder of real images.

It lies where `MEDPIPE_DATA` says, else at `../shared/data` beside the repository; tests that need it are skipped, with
the reason, on a machine without it. Threads of numerical libraries are held to one per process: two cores shared by
several test processes are slower when each of them starts its own threads.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before a test imports NumPy, which reads them once

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images; the test is skipped where there is none."""
    folder = Path(os.environ.get("MEDPIPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "pneumoniamnist.npz").is_file():
        pytest.skip("no real images on this machine: set MEDPIPE_DATA to the folder that holds pneumoniamnist.npz")
    return folder
