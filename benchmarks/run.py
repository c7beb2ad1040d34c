"""Run the benchmarks of this folder and show each figure beside its reference, as a table and as JSON.

A benchmark is a module here with `rows() -> Iterable[Row]`; one with `LONG = True` takes minutes and runs with
`--long`. Nothing that is timed is asserted in tests: a busy machine is not a bug.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

import medpipe
from benchmarks.table import Row

HERE = Path(__file__).parent


def benchmarks(only: Sequence[str], long: bool) -> list[tuple[str, ModuleType]]:
    """Return the modules with `rows`, those named or all that are wanted."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__init__", "images", "run", "table"))
    unknown = set(only) - set(names)
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    modules = [(name, import_module(f"benchmarks.{name}")) for name in names if not only or name in only]
    return [(name, module) for name, module in modules if hasattr(module, "rows") and (only or long or not getattr(module, "LONG", False))]


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {"python": platform.python_version(), "system": platform.system(), "cores": os.cpu_count(), "medpipe": medpipe.__version__}


def main() -> int:
    """Measure, print, write `benchmarks/results/bench.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run (default: all quick ones)")
    parser.add_argument("--long", action="store_true", help="run those that take minutes, too")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "bench.json", help="where the figures are written")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    found: dict[str, list[Row]] = {}
    for name, module in benchmarks(arguments.names, arguments.long):
        console.print(f"{name} …", style="dim")
        found[name] = list(module.rows())
    table = Table("benchmark", "what", "value", "reference", "its value", "ratio", "wanted")
    for name, rows in found.items():
        for row in rows:
            value, reference = f"{row.value:.4g} {row.unit}", f"{row.reference_value:.4g} {row.unit}"
            table.add_row(name, row.what, value, row.reference, reference, f"{row.ratio:.3g}", row.goal)
    console.print(table)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(
        json.dumps({"machine": machine(), "rows": {n: [r.as_json() for r in rows] for n, rows in found.items()}}, indent=1)
    )
    console.print(f"written to {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
