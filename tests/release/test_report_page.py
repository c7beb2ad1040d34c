from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medpipe import preview, store
from medpipe.gates.table import table
from medpipe.gates.verdict import judge
from medpipe.release import charts, report_page
from medpipe.release.card import shortfall

ALLOWED_ADDRESSES = ("data:image/png;base64,", "#")


class Addresses(HTMLParser):
    """Collects everything in a page that a browser might fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"):
                self.found.append(value or "")
            assert not name.startswith("on"), f"{tag} has a handler {name}"


@pytest.fixture
def drawn(cohort, tmp_path: Path):
    return cohort(tmp_path / "cohort")


def text_of(report, drawn, folder: Path, **changes):
    made = report(folder, drawn, **changes)
    return json.loads((made.path / "report.json").read_text())


def test_the_page_asks_nothing_of_a_network(drawn, report, tmp_path) -> None:
    page = report_page.render(text_of(report, drawn, tmp_path / "report"), drawn.path)
    parser = Addresses()
    parser.feed(page)
    assert parser.found
    assert all(address.startswith(ALLOWED_ADDRESSES) for address in parser.found)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video"} & set(parser.tags)
    assert re.findall(r"url\((?!#)|@import|https?:", page) == []
    assert "default-src 'none'" in page


def test_the_page_says_the_same_twice(drawn, report, tmp_path) -> None:
    text = text_of(report, drawn, tmp_path / "report")
    assert report_page.render(text, drawn.path) == report_page.render(text, drawn.path)


@pytest.mark.parametrize(("failed", "said"), [((), "All 6 gates passed"), (("recall",), "1 of 6 gates failed: do not release")])
def test_the_overall_verdict_is_clear(drawn, report, tmp_path, failed, said) -> None:
    page = report_page.render(text_of(report, drawn, tmp_path / "report", failed=failed), drawn.path)
    assert said in page
    assert page.count(">failed</span>") + page.count("✕</span> failed") == len(failed)


def test_a_report_without_verdicts_never_looks_passed(drawn, report, tmp_path) -> None:
    page = report_page.render(text_of(report, drawn, tmp_path / "report", verdicts=[]), drawn.path)
    assert "do not release" in page
    assert "No gate has judged" in page


def test_suppressed_cells_are_shown_as_such_and_give_no_total(drawn, report, tmp_path) -> None:
    rows = [{"label": "NORMAL", "real": None, "synthetic": 12}, {"label": "PNEUMONIA", "real": 3494, "synthetic": 12}]
    page = report_page.render(text_of(report, drawn, tmp_path / "report", composition=rows), drawn.path)
    assert "&lt;11" in page
    assert "Real shares are left out" in page
    assert 'class="hidden"' in page


def test_text_of_the_data_cannot_become_markup(cohort, report, tmp_path) -> None:
    drawn = cohort(tmp_path / "cohort", classes=("<script>alert(1)</script>", "B&B"))
    page = report_page.render(text_of(report, drawn, tmp_path / "report"), drawn.path)
    assert "<script" not in page
    assert "B&amp;B" in page


def test_values_that_could_not_be_measured_are_shown_as_a_dash(drawn, report, tmp_path) -> None:
    text = text_of(report, drawn, tmp_path / "report")
    text["verdicts"][0].update(value=None, low=None, high=None, passed=False)
    text["passed"] = False
    assert "could not be measured, and must be at most 0" in report_page.render(text, drawn.path)
    assert charts.number(float("nan")) == "–"


def test_a_gate_that_its_interval_failed_says_so() -> None:
    verdict = judge(
        "near",
        "privacy",
        0.025,
        (0.01, 0.045),
        bound=0.03,
        direction="at most",
        baseline=0.01,
        n=100,
        meaning="",
        on="interval",
    )
    assert not verdict.passed
    assert shortfall(verdict.as_json()) == "is 0.025 with a 95 % interval that reaches 0.045, and must be at most 0.03"


def test_withheld_images_are_not_on_the_page(drawn, report, tmp_path) -> None:
    text = text_of(report, drawn, tmp_path / "report")
    page = report_page.render(text, drawn.path, withheld=(0, 1))
    assert "S000001" not in page
    assert "S000002" not in page
    assert "S000003" in page
    assert "2 of the 24 images" in page


@pytest.mark.parametrize(("shape", "dtype"), [((1, 16, 16), "uint8"), ((3, 16, 16), "uint8"), ((1, 6, 12, 12), "uint16")])
@pytest.mark.parametrize("classes", [("A", "B", "C"), ()])
def test_a_sample_grid_has_a_row_per_class(cohort, tmp_path, shape, dtype, classes) -> None:
    drawn = cohort(tmp_path / "cohort", shape=shape, dtype=dtype, classes=classes)
    picture = Image.open(io.BytesIO(preview.sample_grid(drawn.path, per_class=4)))
    assert picture.width >= 4 * 64
    assert len(preview.sample_rows(drawn.path, 4)) == max(1, len(classes))


def test_a_volume_shows_its_middle_slice_and_16_bits_become_8() -> None:
    volume = np.zeros((1, 1, 5, 4, 4), dtype=np.uint16)
    volume[0, 0, 2] = 65535
    assert (preview.pictures(volume) == 255).all()


def test_a_release_shows_only_pixels_of_its_own_arrays(workspace: Path) -> None:
    (page,) = (workspace / "release").glob("*/*/report.html")
    released = {preview.strip(image[None]) for image in store.read(page.parent)}
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    assert shown
    from base64 import b64decode

    assert all(b64decode(tile) in released for tile in shown)


def drawn_by_browser(page: Path, folder: Path, width: int = 1280, height: int = 900) -> tuple[Path, str, list[str]]:
    """Open `page` in chromium without a network; return its picture, its console and every address that the page asked for."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    folder.mkdir()
    picture, log = folder / "page.png", folder / "net.json"
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    command = [
        browser,
        *flags.split(),
        "--disable-sync",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    command += [
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}",
        f"--screenshot={picture}",
        f"--log-net-log={log}",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, timeout=120, text=True)
    assert picture.exists(), done.stderr[-2000:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    events = json.loads(log.read_text())["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {}) and "url" in event["params"]]
    return picture, console, [entry["url"] for entry in asked if entry["initiator"] != "not an origin"]


@pytest.mark.machine
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (500, 900)])
def test_a_browser_draws_the_page_and_asks_for_nothing_else(workspace: Path, tmp_path: Path, width: int, height: int) -> None:
    (page,) = (workspace / "release").glob("*/*/report.html")
    picture, console, asked = drawn_by_browser(page, tmp_path / "browser", width, height)
    assert console == "", "the page's own policy blocked something, or it is broken"
    assert asked == []
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape[:2] == (height, width)
    assert pixels.std() > 10


@pytest.mark.machine
def test_the_browser_check_would_see_a_request(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><img src="http://somewhere.invalid/a.png">')
    assert drawn_by_browser(page, tmp_path / "browser")[2] == ["http://somewhere.invalid/a.png"]


@pytest.mark.machine
@pytest.mark.parametrize("width", [1280, 500])
def test_a_table_of_sentences_is_no_wider_than_the_page(drawn, report, tmp_path: Path, width: int) -> None:
    columns = ("measure", "n", "synthetic", "95 % interval", "other real images", "95 % of these", "what it says")
    row = ["frechet", 52, 9.61, "8.94 to 11.21", 9.54, "9.54 to 13.61", "Distance between the synthetic and the training images. " * 3]
    pair = [0.0123, 0.9876]
    group = {"group": "scanner scanner-yxpj, sex F", "synthetic": 349, "share": 0.665, "expected_share": 0.557, "copies": 0.011}
    group |= {"frechet_over_bound": 0.527, "auc_real": 0.786, "auc_synthetic": 0.773}
    group |= {f"{name}_interval": pair for name in ("share", "frechet_over_bound", "auc_real", "auc_synthetic", "copies")}
    tables = [table("Likeness", "A sentence.", columns, [row] * 3)]
    text = text_of(report, drawn, tmp_path / "report") | {"tables": tables, "fairness": [group] * 3}
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report_page.render(text, drawn.path))
    asked = (
        "<script>console.log('wider by ' + (document.documentElement.scrollWidth - innerWidth) + ' px');"
        "const groups = document.querySelector('.groups');"
        "console.log('groups cut: ' + (groups.offsetWidth > groups.parentElement.offsetWidth))"
        "</script></body>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", asked))
    _, console, _ = drawn_by_browser(tmp_path / "page.html", tmp_path / "browser", width)
    assert "wider by 0 px" in console, console
    assert width < 600 or "groups cut: false" in console, console


def test_a_table_with_a_chart_is_drawn_with_its_figures(drawn, report, tmp_path) -> None:
    text = text_of(report, drawn, tmp_path / "report")
    curve = {"x": [30, 300], "series": {"real": [0.7, 0.9], "real + <cohort>": [0.8, 0.95]}, "x_name": "real images", "y_name": "AUC"}
    one = table("Curve", "A sentence.", ("images", "AUC"), [[30, "0.700 [0.6, 0.8]"], [300, None]])
    page = report_page.render({**text, "tables": [one | {"chart": curve}, {**one, "title": "Plain"}]}, drawn.path)
    assert "AUC over real images: real ends at 0.9, real + &lt;cohort&gt; ends at 0.95" in page
    assert page.count("0.700 [0.6, 0.8]") == 2
    assert "<cohort>" not in page
    assert charts.lines([1], {"none": [float("nan")]}, "x", "y") == ""
