"""The phantom hospital comes out clean: its canary is nowhere, and every line of its burned-in text is covered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medpipe import recipe
from medpipe.deid.burned_in import Search, covering
from medpipe.deid.deidentify import deidentify
from medpipe.sources import phantom
from medpipe.sources.phantom_images import burned_in_boxes, render
from medpipe.sources.phantom_people import CANARY
from medpipe.sources.phantom_plan import plan


def test_the_phantom_hospital_becomes_a_collection_without_its_canary(tmp_path: Path) -> None:
    phantom.write(tmp_path / "in", patients=4)
    record = deidentify(tmp_path / "in", tmp_path / "out", recipe.load("demo"), key_file=tmp_path / "key" / "k.key")
    for path in (tmp_path / "out").rglob("*"):
        assert CANARY.lower() not in str(path).lower()
        assert not path.is_file() or CANARY.encode().lower() not in path.read_bytes().lower()
    assert record.facts["patients"] == 4
    assert record.facts["masks"]
    assert record.facts["frames_blacked_out"] > 0
    table = pd.read_parquet(tmp_path / "out" / "index.parquet")
    images = table[table["modality"] != "SEG"]
    assert set(images["label"].dropna()) <= {"normal", "mass", "effusion"}
    assert images["age"].between(18, 90).all()
    assert images["site"].nunique() == images["scanner"].nunique() == 2
    masks = table[table["modality"] == "SEG"]
    assert {name for names in masks["references"] for name in names} <= set(table["instance"])
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["actions"]["removed, private"] > 0


@pytest.mark.slow
def test_every_line_of_the_phantoms_burned_in_text_is_covered_and_clean_images_are_left_alone() -> None:
    lines, clean, touched = 0, 0, 0
    for patient in plan(60):
        for image in (image for study in patient.studies for image in study.images):
            stored, _ = render(image)
            grey = (stored.astype(float) * 255 / (2**image.scanner.bits - 1)).astype(np.uint8)
            found = Search().frame(grey, grey)
            covered = np.zeros(grey.shape, bool)
            for line in found:
                covered[covering(line, grey.shape)] = True
            for top, left, bottom, right in burned_in_boxes(image):
                lines += 1
                assert covered[top:bottom, left:right].mean() > 0.95
            clean, touched = clean + (not image.burned_in), touched + (not image.burned_in and bool(found))
    assert lines >= 40
    assert touched <= 0.03 * clean
