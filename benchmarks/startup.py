"""How long a person waits before anything happens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.table import Row, best_seconds


def _python(code: str) -> float:
    return best_seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True), repeats=3)


def rows() -> Iterator[Row]:
    """The import, the help and the whole chain's imports beside an empty interpreter and torch alone."""
    empty = _python("pass")
    yield Row("import medpipe", _python("import medpipe"), "s", "an empty interpreter", empty)
    yield Row("medpipe run --help", _python("import medpipe.cli as c; c.parser()"), "s", "an empty interpreter", empty)
    yield Row("import the whole chain", _python("import medpipe.chain"), "s", "import torch", _python("import torch"), "below 2.5")
