from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A pseudonym key in its file."""
    path = tmp_path / "private" / "p.key"
    path.parent.mkdir(mode=0o700)
    path.write_text("3c" * 32)
    path.chmod(0o600)
    return path
