"""A table of figures that belong together: what a Report shows beside its verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(title: str, sentence: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> dict[str, Any]:
    """Return a table for `report.json` and `report.html`.

    `sentence` says in plain words what the figures mean. The first column names the row; None stands for a figure that is
    not published or not known. Raises ValueError for a row of another length than `columns`.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"rows of the table {title!r} must have {len(columns)} cells each")
    cells = [[None if cell is None or cell != cell else cell for cell in row] for row in rows]
    return {"title": title, "sentence": sentence, "columns": list(columns), "rows": cells}
