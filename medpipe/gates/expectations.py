"""Expectations on tables, told to Great Expectations; what they decide is ours, and it fails closed.

Great Expectations 1.24 has no telemetry client; analytics are switched off in the context's configuration all the same.
It passes empty tables, tables of nulls and single nulls in ranges, so every column is also expected to be there and not
null, and the rows are counted. Results are asked for as booleans only: its longer forms quote the rows that failed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

IDENTIFIERS = (
    r"\d{4}-\d{2}-\d{2}",  # a date
    r"(19|20)\d{6}",  # a DICOM date
    r"\b1\.2\.\d+(\.\d+){3,}",  # a DICOM UID
    r"[\w.+-]+@[\w-]+\.\w+",  # an address
    r"\w+\^\w+",  # a DICOM person name
)


@dataclass(frozen=True)
class Expected:
    """One expectation: Great Expectations' class name, the column it is about (None: the table), and its settings."""

    kind: str
    column: str | None = None
    settings: Mapping[str, Any] | None = None


def of_index(index_facts: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> list[Expected]:
    """Return what a cohort's index must be: `index_facts` as the Cohort's record has them, `ranges` of real covariates."""
    covariates = {item["name"]: item for item in index_facts.get("covariates", [])}
    columns = ["row", "id", "label", *covariates]
    wanted = [
        Expected("ExpectTableRowCountToEqual", None, {"value": int(index_facts["images"])}),
        Expected("ExpectTableColumnsToMatchSet", None, {"column_set": columns, "exact_match": True}),
        Expected("ExpectColumnValuesToNotBeNull", "row"),
        Expected("ExpectColumnValuesToBeUnique", "row"),
        Expected("ExpectColumnValuesToBeBetween", "row", {"min_value": 0, "max_value": int(index_facts["images"]) - 1}),
        Expected("ExpectColumnValuesToNotBeNull", "id"),
        Expected("ExpectColumnValuesToBeUnique", "id"),
        Expected("ExpectColumnValuesToMatchRegex", "id", {"regex": r"^S\d{6,}$"}),
    ]
    if index_facts.get("classes"):
        wanted += _categories("label", list(index_facts["classes"]))
    for name, item in covariates.items():
        if item["kind"] == "categorical":
            wanted += _categories(name, list(item["values"]))
        elif name in ranges:
            low, high = ranges[name]
            wanted += [
                Expected("ExpectColumnValuesToNotBeNull", name),
                Expected("ExpectColumnValuesToBeBetween", name, {"min_value": low, "max_value": high}),
            ]
    return wanted


def _categories(column: str, values: list[str]) -> list[Expected]:
    return [
        Expected("ExpectColumnValuesToNotBeNull", column),
        Expected("ExpectColumnValuesToBeInSet", column, {"value_set": values}),
        Expected("ExpectColumnValuesToNotMatchRegexList", column, {"regex_list": list(IDENTIFIERS)}),
    ]


def of_metrics(gates: Sequence[str]) -> list[Expected]:
    """Return what the table of metrics must be: each gate once, and measured. Whether it passed is judged by nobody else."""
    measured = ("value", "low", "high", "bound")
    return [
        Expected("ExpectTableRowCountToEqual", None, {"value": len(gates)}),
        Expected("ExpectColumnValuesToBeUnique", "name"),
        Expected("ExpectColumnDistinctValuesToEqualSet", "name", {"value_set": sorted(gates)}),
        *(Expected("ExpectColumnValuesToNotBeNull", column) for column in ("name", *measured, "n", "passed")),
        Expected("ExpectColumnValuesToBeBetween", "n", {"min_value": 1}),
    ]


def check(table: pd.DataFrame, wanted: Sequence[Expected], name: str) -> dict[str, Any]:
    """Check `table`; return {"suite", "success", "results": [{"expectation", "column", "settings", "success"}]}.

    Anything but a plain True from Great Expectations, an error of its own included, counts as not met.
    """
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # third-party deprecations inside the library
        import great_expectations as gx  # 6 to 25 seconds: only where it is needed

        batch, classes = _batch(table, name), gx.expectations
        results = []
        for expected in wanted:
            settings = dict(expected.settings or {}) | ({"column": expected.column} if expected.column else {})
            outcome = batch.validate(getattr(classes, expected.kind)(**settings), result_format="BOOLEAN_ONLY")
            raised = any(info.get("raised_exception") for info in _exceptions(outcome.exception_info))
            results.append(
                {
                    "expectation": expected.kind,
                    "column": expected.column,
                    "settings": dict(expected.settings or {}),
                    "success": outcome.success is True and not raised,
                }
            )
    return {"suite": name, "success": bool(results) and all(result["success"] for result in results), "results": results}


def _batch(table: pd.DataFrame, name: str) -> Any:
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars={"globally": False},
    )
    context = gx.get_context(project_config=config, mode="ephemeral")
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name=name)
    return asset.add_batch_definition_whole_dataframe(name).get_batch(batch_parameters={"dataframe": table})


def _exceptions(info: Any) -> list[Mapping[str, Any]]:
    """Return the exception entries of a result: one mapping, or one per metric that raised."""
    if not isinstance(info, Mapping):
        return []
    return [info] if "raised_exception" in info else [entry for entry in info.values() if isinstance(entry, Mapping)]


class quiet:
    """Hold back the library's log lines, which quote table contents, while it runs."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("great_expectations")
        self.level = self.logger.level
        self.logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
