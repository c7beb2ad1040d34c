"""A tiny source and a finished workspace, made by the real command line in its own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders_cli import TINY, Finished, images, medpipe


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny.yaml` and `images.npz`, whose rows stand for 400 patients."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    pixels, labels = images(400)
    np.savez(folder / "images.npz", images=pixels, labels=labels)
    return folder


@pytest.fixture(scope="session")
def finished(tiny: Path) -> Finished:
    """The whole chain, run once."""
    done = medpipe("run", "--recipe", tiny / "tiny.yaml", "--source", tiny / "images.npz", "--out", tiny / "workspace")
    assert done.status == 0, done.err
    return Finished(tiny / "workspace", done, tiny / "tiny.yaml", tiny / "images.npz")
