"""Great Expectations passes empty tables and nulls in ranges; what is built on it here does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medpipe.gates import expectations

FACTS: dict[str, Any] = {
    "images": 6,
    "classes": ["clear", "shadow"],
    "covariates": [{"name": "age", "kind": "continuous"}, {"name": "sex", "kind": "categorical", "values": ["F", "M"]}],
}


def table() -> pd.DataFrame:
    index = pd.DataFrame({"row": range(6), "id": [f"S{k + 1:06d}" for k in range(6)], "label": ["clear", "shadow"] * 3})
    return index.assign(age=[50.0] * 6, sex=["F", "M"] * 3)


def broken(index: pd.DataFrame) -> set[tuple[str, str | None]]:
    result = expectations.check(index, expectations.of_index(FACTS, {"age": (0, 100)}), "index")
    unmet = {(entry["expectation"], entry["column"]) for entry in result["results"] if not entry["success"]}
    assert result["success"] is (not unmet)
    return unmet


def test_a_good_table_meets_every_expectation() -> None:
    assert broken(table()) == set()


@pytest.mark.parametrize(
    ("column", "value", "unmet"),
    [
        ("label", None, ("ExpectColumnValuesToNotBeNull", "label")),
        ("label", "other", ("ExpectColumnValuesToBeInSet", "label")),
        ("sex", "Doe^Jane", ("ExpectColumnValuesToNotMatchRegexList", "sex")),
        ("age", np.nan, ("ExpectColumnValuesToNotBeNull", "age")),
        ("age", 200.0, ("ExpectColumnValuesToBeBetween", "age")),
        ("id", "S000001", ("ExpectColumnValuesToBeUnique", "id")),
        ("id", "patient 7", ("ExpectColumnValuesToMatchRegex", "id")),
    ],
)
def test_one_wrong_value_is_seen(column: str, value: object, unmet: tuple[str, str]) -> None:
    index = table()
    index.loc[3, column] = value
    assert unmet in broken(index)


def test_an_empty_table_and_a_missing_or_added_column_are_seen() -> None:
    assert ("ExpectTableRowCountToEqual", None) in broken(table().iloc[:0])
    assert ("ExpectTableColumnsToMatchSet", None) in broken(table().drop(columns="sex"))
    assert ("ExpectTableColumnsToMatchSet", None) in broken(table().assign(name="x"))


def test_a_metric_that_was_not_measured_is_seen_and_no_value_is_quoted() -> None:
    metrics = pd.DataFrame([{"name": "kid", "value": 1.0, "low": 0.0, "high": 2.0, "bound": 3.0, "n": 5, "passed": True}])
    assert expectations.check(metrics, expectations.of_metrics(["kid"]), "metrics")["success"]
    assert not expectations.check(metrics.assign(value=np.nan), expectations.of_metrics(["kid"]), "metrics")["success"]
    missing = expectations.check(metrics, expectations.of_metrics(["kid", "recall"]), "metrics")
    assert not missing["success"]
    assert "unexpected" not in str(missing)


def test_no_expectation_at_all_is_not_a_pass() -> None:
    assert not expectations.check(table(), [], "index")["success"]
