"""Data Docs of the expectations: pages that Great Expectations' own renderers write, made to stand alone.

As Great Expectations builds them, pages fetch styles, fonts and scripts from six hosts and carry the time and random ids. Here only the
rendered sections are taken, from results that hold no value of a row, and put in a page that fetches nothing and is the same
each time, so that it is part of what a Report's digest covers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from medpipe import records
from medpipe.gates.expectations import quiet

FOLDER = "data_docs"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem; vertical-align: top; }
th, td { border-bottom: 1px solid #8884; }
.badge { background: #8883; border-radius: .3rem; padding: 0 .3rem; } .text-success { color: #1a7f37; } .text-danger { color: #cf222e; }
.fa-check-circle::before { content: "\\2713  met"; } .fa-times::before, .fa-exclamation-triangle::before { content: "\\2715  not met"; }
i { font-style: normal; white-space: nowrap; } h5 { font-size: 1.2rem; margin: 1.5rem 0 .3rem; } [hidden] { display: none; }
"""
TABLES = {"index": "The table of synthetic subjects", "metrics": "The table of measurements"}
EXPLAINED = (
    "What Great Expectations was asked of this table, and whether it is met. Only yes or no was asked for: values of rows are in no "
    "result. Anything but a plain yes counts as not met."
)


def write(report: Path, checked: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `data_docs/` in the folder `report`: a page for each table of `checked` (see `expectations.check`), and `index.html`."""
    links = []
    for name, result in checked.items():
        records.write_bytes(report / FOLDER / f"{name}_table.html", page(name, result).encode())
        met = sum(entry["success"] for entry in result["results"])
        links.append(f'<li><a href="{name}_table.html">{escape(_title(name))}</a>: {met} of {len(result["results"])} expectations met</li>')
    records.write_bytes(report / FOLDER / "index.html", _page("Data Docs", f"<ul>{''.join(links)}</ul>").encode())


def page(name: str, result: Mapping[str, Any]) -> str:
    """Render what `expectations.check` found of the table `name` as one self-contained page."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # third-party deprecations inside the library
        from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
        from great_expectations.render.renderer import ValidationResultsPageRenderer
        from great_expectations.render.view import DefaultJinjaSectionView

        entries = [
            ExpectationValidationResult(
                success=entry["success"],
                expectation_config=ExpectationConfiguration(
                    type=_snake(entry["expectation"]),
                    kwargs=dict(entry["settings"]) | ({"column": entry["column"]} if entry["column"] else {}),
                ),
                result={},
                exception_info={"raised_exception": False, "exception_traceback": None, "exception_message": None},
            )
            for entry in result["results"]
        ]
        met = sum(entry["success"] for entry in result["results"])
        whole = ExpectationSuiteValidationResult(
            success=bool(result["success"]),
            results=entries,
            suite_name=name,
            statistics={
                "evaluated_expectations": len(entries),
                "successful_expectations": met,
                "unsuccessful_expectations": len(entries) - met,
                "success_percent": 100 * met / max(1, len(entries)),
            },
            meta={"run_id": {"run_name": name, "run_time": None}},
        )
        sections = ValidationResultsPageRenderer().render(whole).sections[1:]  # the first holds time and run
        view = DefaultJinjaSectionView()
        drawn = [
            view.render({"section": section.to_json_dict(), "section_loop": {"index": k}}) for k, section in enumerate(sections, start=1)
        ]
    state = "every expectation is met" if result["success"] else "NOT every expectation is met"
    body = f"<p>{met} of {len(entries)}: {state}.</p><p>{EXPLAINED}</p>" + "\n".join(_alone(section) for section in drawn)
    return _page(_title(name), body + '<p><a href="index.html">All tables</a></p>')


def _alone(section: str) -> str:
    """Take out of a rendered section whatever a browser would fetch or run, and the blank lines of its template."""
    section = re.sub(r"<(script|style|iframe|object)\b.*?</\1>", "", section, flags=re.S | re.I)
    section = re.sub(r"<(link|img|meta|base)\b[^>]*>", "", section, flags=re.I)
    section = re.sub(r"\s(on\w+|src|href)\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s>]+)(?=[^<>]*>)", "", section, flags=re.I)
    return re.sub(r"\s*\n\s*", "\n", section)


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _title(name: str) -> str:
    return TABLES.get(name, name)


def _snake(kind: str) -> str:
    """Turn the name of an expectation's class into that of its type."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
