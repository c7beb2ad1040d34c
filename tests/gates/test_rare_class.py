"""A class of which only few real images are kept: which class, what is trained on, and how it is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders_gates import CLASSES, cohort, dataset, people

from medpipe.gates import rare_class, utility
from medpipe.gates.job import PLAN, Job, save
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe, build
from medpipe.settings import GatesSettings

GATES = {"rare_images": [10, 30, 10_000], "curve_images": 400, "curve_seeds": 1, "resamples": 20}


def test_the_rarest_class_that_can_be_tested_and_was_made() -> None:
    train, tested = np.repeat([0, 1, 2, -1], [50, 20, 5, 3]), np.repeat([0, 1, 2], [30, 15, 9])
    assert rare_class.rarest(train, tested, np.array([0, 1, 2]), 3) == 1, "class 2 has nine test images"
    assert rare_class.rarest(train, tested, np.array([0]), 3) == 0
    assert rare_class.rarest(train, tested, np.array([-1]), 3) is None


def test_sensitivity_is_read_where_nine_tenths_of_the_others_are_told_right() -> None:
    truth = np.repeat([0, 1], [100, 10])
    ladder = np.concatenate([np.linspace(0, 0.5, 100), np.linspace(0.4, 0.6, 10)])
    assert rare_class.sensitivity(ladder, truth) == pytest.approx(np.mean(np.linspace(0.4, 0.6, 10) > np.sort(ladder[:100])[-11]))
    assert np.isnan(rare_class.sensitivity(ladder[:100], truth[:100]))


@pytest.fixture
def work(tmp_path: Path) -> tuple[list[Job], Dataset, Recipe]:
    train, labels = people(160, 1)
    keep = np.flatnonzero((labels == 0) | (np.cumsum(labels) <= 40))
    data = Dataset.open(dataset(tmp_path / "dataset", {"train": (train[keep], labels[keep]), "test": people(60, 3)}, CLASSES).path)
    images, made = people(100, 4)
    recipe = build({"gates": GATES})
    rows = {"train": data.rows("train"), "tested": data.rows("test")}
    save(tmp_path, PLAN, rows)
    place = cohort(tmp_path / "cohort", images, made, CLASSES).path
    known = (labels[keep], people(60, 3)[1], made)
    return rare_class.jobs(place, data.record.path, tmp_path, recipe, known, 2), data, recipe


def test_both_arms_show_the_classes_equally_often_and_differ_in_the_synthetic_images(
    work: tuple[list[Job], Dataset, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Any, Any]] = {}
    jobs, data, _ = work
    assert {job.what for job in jobs} == {f"{arm}-1-{kept}" for arm in ("with", "without") for kept in (10, 30, 40)}

    def learned(images: Any, labels: Any, tested: Any, classes: int, **_: Any) -> Any:
        seen[job.what] = (images, labels)
        return np.full((len(tested), classes), 0.5, np.float32)

    monkeypatch.setattr(utility, "probabilities", learned)
    for job in jobs:
        rare_class.perform(job)
    real = {image.tobytes() for image in data.images(data.rows("train"))}
    for what, (images, labels) in seen.items():
        counts = np.bincount(labels)
        assert counts[0] == counts[1], "the classes are shown equally often"
        of_class = [image.tobytes() for image in images[labels == 1]]
        kept = {image for image in of_class if image in real}
        assert len(kept) == int(what.split("-")[2])
        assert (len(kept) < len(set(of_class))) is what.startswith("with-")
    assert {i.tobytes() for i in seen["without-1-10"][0]} < {i.tobytes() for i in seen["without-1-30"][0]}


def test_the_table_says_what_was_gained(work: tuple[list[Job], Dataset, Recipe]) -> None:
    jobs, _, recipe = work
    truth = people(60, 3)[1]
    for job in jobs:
        good = job.what.startswith("with-")
        score = np.where(truth == 1, 0.9, 0.1) if good else np.full(len(truth), 0.5)
        save(job.state, job.name, {"probabilities": np.stack([1 - score, score], axis=1).astype(np.float32)})
    table = rare_class.assess(jobs, truth, CLASSES, recipe.gates, 0)
    assert table is not None
    assert [row[0] for row in table["rows"]] == [10, 30, 40]
    assert table["rows"][0][1:4] == ["0.500 [0.500, 0.500]", "1.000 [1.000, 1.000]", "0.500 [0.500, 0.500]"]
    assert "shadow" in table["sentence"]


def test_without_being_asked_for_there_is_no_job_and_no_table(tmp_path: Path) -> None:
    known = (np.zeros(5, np.int64),) * 3
    assert rare_class.jobs(tmp_path, tmp_path, tmp_path, build({}), known, 2) == []
    assert rare_class.assess([], np.zeros(5, np.int64), CLASSES, GatesSettings(), 0) is None
