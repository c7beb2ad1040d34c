"""The internal page: it finds the source of a copy, warns, is its owner's alone, and is refused where it could be shared."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pandas as pd
import pytest
from builders_gates import cohort, dataset, people

from medpipe import records
from medpipe.errors import InputError, RecordError
from medpipe.gates.neighbours import WARNING, neighbours
from medpipe.records import MadeFrom


def test_a_turned_copy_stands_beside_its_source_on_a_page_for_the_owner_alone(tmp_path: Path) -> None:
    (train, labels), (made, made_labels) = people(30, 1), people(12, 2)
    made[5] = train[17, :, ::-1]
    data = dataset(tmp_path / "dataset", {"train": (train, labels)}, ["clear", "shadow"])
    drawn = cohort(tmp_path / "cohort", made, made_labels, ["clear", "shadow"])
    with records.making(
        tmp_path / "report", MadeFrom("Report", {"cohort": drawn.content, "dataset": data.content}, {}, 0, "test")
    ) as making:
        images = {
            "row": range(12),
            "withheld": [row == 9 for row in range(12)],
            "reason": ["near_copy" if row == 9 else None for row in range(12)],
        }
        pd.DataFrame(images).to_parquet(making.path / "images.parquet")
        report = making.seal({"passed": False})
    out = neighbours(drawn.path, data.path, report.path, tmp_path / "look" / "page.html", count=3)
    text = out.read_text()
    assert WARNING in text
    assert re.findall(r"(S\d+), ([a-z ]+)<", text)[:2] == [("S000010", "near copy"), ("S000006", "not withheld")]
    assert re.findall(r"likeness ([\d.]+), row (\d+)", text)[3] == ("1.000", "17")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    for inside in (drawn.path / "page.html", report.path / "deep" / "page.html", tmp_path / "release" / "page.html", tmp_path / "page.txt"):
        with pytest.raises(InputError):
            neighbours(drawn.path, data.path, report.path, inside)
        assert not inside.exists()
    other = cohort(tmp_path / "other", made[::-1].copy(), made_labels, ["clear", "shadow"])
    with pytest.raises(RecordError, match="another Cohort"):
        neighbours(other.path, data.path, report.path, out)
