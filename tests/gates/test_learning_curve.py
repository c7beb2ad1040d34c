"""What the cohort adds to real images: nested training sets, paired intervals, and a verdict that sees harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders_gates import CLASSES, cohort, dataset, people

from medpipe.gates import bootstrap, learning_curve, utility
from medpipe.gates.arms import nested
from medpipe.gates.job import PLAN, numbers, save
from medpipe.gates.learning_curve import ARMS
from medpipe.images.dataset import Dataset
from medpipe.recipe import build
from medpipe.settings import GatesSettings

TRUTH = np.arange(200) % 2


def predicted(quality: float, seed: int) -> np.ndarray:
    """Probabilities of two classes that are the better the higher `quality`; 0 is chance."""
    score = 1 / (1 + np.exp(-quality * (2 * TRUTH - 1) - np.random.default_rng(seed).normal(0, 1, len(TRUTH))))
    return np.stack([1 - score, score], axis=1).astype(np.float32)


def test_every_beginning_of_a_nested_order_has_the_classes_in_their_shares() -> None:
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    rows = np.arange(100) + 1000
    order = nested(rows, labels, np.random.default_rng(0))
    assert sorted(order) == rows.tolist()
    for n in (20, 40, 100):
        counts = np.bincount(labels[order[:n] - 1000], minlength=3)
        assert np.abs(counts - n * np.array([0.8, 0.15, 0.05])).max() <= 1
    assert not np.array_equal(order, nested(rows, labels, np.random.default_rng(1)))


def test_sizes_are_shares_with_two_images_of_each_class_at_least() -> None:
    assert learning_curve.sizes([0.1, 0.3, 1.0], 1000, 2) == [100, 300, 1000]
    assert learning_curve.sizes([0.001, 1.0], 1000, 30) == [60, 1000]
    assert learning_curve.sizes([0.001, 1.0], 1000, 3) == [20, 1000]
    assert learning_curve.sizes([0.5], 2, 3) == [2]
    assert learning_curve.sizes([], 1000, 2) == []


def test_differences_are_paired() -> None:
    arms = {"a": [predicted(1, 1)], "same": [predicted(1, 1)], "better": [predicted(3, 2)]}
    values, drawn = bootstrap.paired(arms, TRUTH, utility.auc, 50, np.random.default_rng(0))
    same = bootstrap.difference("a", "same", values, drawn)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = bootstrap.difference("better", "a", values, drawn)
    assert 0 < better.low < better.value < better.high
    assert np.isnan(bootstrap.estimate(1.0, np.full(5, np.nan)).low)


@pytest.mark.parametrize(("both", "passed"), [(2.0, True), (1.0, True), (0.3, False)])
def test_a_cohort_that_harms_fails_and_the_curve_is_a_table_with_a_chart(both: float, passed: bool) -> None:
    found: learning_curve.Found = {
        n: {"real": [predicted(1, 1)], "synthetic": [predicted(0.8, 2)], "both": [predicted(both, 3)]} for n in (20, 200)
    }
    verdict, table = learning_curve.assess(found, TRUTH, GatesSettings(resamples=20), 0)
    assert verdict is not None
    assert table is not None
    assert verdict.passed is passed
    assert (verdict.n, verdict.baseline, verdict.bound) == (200, 0, -GatesSettings().utility_drop_max)
    assert [row[0] for row in table["rows"]] == table["chart"]["x"] == [20, 200]
    assert learning_curve.assess({}, TRUTH, GatesSettings(), 0) == (None, None)


def test_labels_that_are_swapped_make_a_cohort_that_harms(tmp_path: Path) -> None:
    parts = {name: people(n, seed) for name, n, seed in (("train", 150, 1), ("holdout", 60, 2), ("test", 200, 3))}
    data = Dataset.open(dataset(tmp_path / "dataset", parts, CLASSES).path)
    images, labels = people(150, 4)
    made = cohort(tmp_path / "cohort", images, 1 - labels, CLASSES)
    recipe = build({"gates": {"curve_shares": [1.0], "curve_images": 1500, "curve_seeds": 1, "resamples": 20}})
    rows = {"tested": data.rows("test"), "utility_real": data.rows("train"), "utility_synthetic": np.arange(150)}
    save(tmp_path / "state", PLAN, rows)
    work = learning_curve.jobs(made.path, data.record.path, tmp_path / "state", recipe, rows, 2)
    assert [job.what for job in work] == [f"{arm}-150" for arm in ARMS]
    for job in work:
        save(job.state, job.name, learning_curve.perform(job))
    tested = numbers(data.index["label"], CLASSES)[rows["tested"]]
    verdict, table = learning_curve.assess(learning_curve.gathered(work), tested, recipe.gates, 0)
    assert verdict is not None
    assert table is not None
    assert not verdict.passed
    assert table["chart"]["series"]["synthetic"][0] < 0.3 < 0.8 < table["chart"]["series"]["real"][0]
