"""Covariates as the model may use them: continuous as float, categorical as str, unknown as null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd


def typed(table: pd.DataFrame, continuous: Sequence[str], categorical: Sequence[str]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the covariates of `table` with one type each, and what the record says of them.

    A continuous value that is no finite number becomes null and is counted as `unparsed`.
    """
    columns: dict[str, pd.Series[Any]] = {}
    said: list[dict[str, Any]] = []
    for name in continuous:
        numbers = pd.to_numeric(table[name], errors="coerce").astype("float64")
        numbers = numbers.where(numbers.abs() < float("inf"))
        columns[name] = numbers
        unparsed = int((numbers.isna() & table[name].notna()).sum())
        said.append({"name": name, "kind": "continuous", "missing": int(numbers.isna().sum()), "unparsed": unparsed})
    for name in categorical:
        words = table[name].map(_word, na_action="ignore").astype(object)
        words = words.where(words.notna(), None)
        columns[name] = words
        said.append({"name": name, "kind": "categorical", "values": sorted(words.dropna().unique()), "missing": int(words.isna().sum())})
    return pd.DataFrame(columns, index=table.index), said


def _word(value: Any) -> str:
    """Write a category as a word: 2.0, which is how pandas holds a 2 in a column with gaps, is "2"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
