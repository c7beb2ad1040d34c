"""Data Docs stand alone: they fetch nothing, run nothing, quote no row, and are the same each time."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medpipe.gates import data_docs, expectations

FACTS = {"images": 4, "classes": ["clear", "shadow"], "covariates": [{"name": "sex", "kind": "categorical", "values": ["F", "M"]}]}


class Fetched(HTMLParser):
    """Collect whatever a browser would fetch, run or send."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "embed", "form", "base", "video", "audio", "source"):
            self.found.append(tag)
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name.startswith("on") or name in ("src", "srcset", "action")]
        self.found += [f"{tag} {value}" for name, value in attrs if name == "href" and not re.fullmatch(r"[a-z_]+\.html", value or "")]
        self.found += [f"{tag} {value}" for name, value in attrs if name == "style" and "url(" in (value or "")]


@pytest.fixture(scope="module")
def checked() -> dict[str, Any]:
    table = pd.DataFrame({"row": range(4), "id": [f"S{k + 1:06d}" for k in range(4)], "label": ["clear", "shadow"] * 2, "sex": "F"})
    table.loc[2, "sex"] = "Doe^Jane"
    metrics = pd.DataFrame([{"name": "kid", "value": 1.2345, "low": 0.0, "high": 2.0, "bound": 3.0, "n": 5, "passed": True}])
    return {
        "index": expectations.check(table, expectations.of_index(FACTS, {}), "index"),
        "metrics": expectations.check(metrics, expectations.of_metrics(["kid"]), "metrics"),
    }


@pytest.fixture(scope="module")
def folder(checked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    data_docs.write(out, checked)
    return out / data_docs.FOLDER


def test_no_page_fetches_or_runs_anything(folder: Path) -> None:
    pages = sorted(path.name for path in folder.iterdir())
    assert pages == ["index.html", "index_table.html", "metrics_table.html"]
    for path in folder.iterdir():
        text = path.read_text()
        parser = Fetched()
        parser.feed(text)
        assert parser.found == []
        assert not re.search(r"https?://|@import|url\(", text)
        assert "default-src 'none'" in text


def test_pages_say_what_was_asked_and_what_was_not_met_but_quote_no_row(folder: Path) -> None:
    index, metrics = ((folder / f"{name}_table.html").read_text() for name in ("index", "metrics"))
    assert "NOT every expectation is met" in index
    assert "must belong to this set" in index
    assert index.count("fa-times") >= 2
    assert "every expectation is met" in metrics
    assert "fa-times text-danger" not in metrics
    assert "Doe" not in index + metrics
    assert "S000003" not in index
    assert "1.2345" not in metrics


def test_the_same_results_give_the_same_bytes(folder: Path, checked: dict[str, Any], tmp_path: Path) -> None:
    data_docs.write(tmp_path, checked)
    for path in folder.iterdir():
        assert (tmp_path / data_docs.FOLDER / path.name).read_bytes() == path.read_bytes()


def test_what_great_expectations_would_add_is_taken_out() -> None:
    bad = (
        '<p onclick="go()">a</p><script src="https://x/y.js">1</script><a href="https://x">b</a><img src="//x/y.png"><LINK rel=x href=y>'
        "<b style='color: red'>c = href</b>"
    )
    assert data_docs._alone(bad) == "<p>a</p><a>b</a><b style='color: red'>c = href</b>"
