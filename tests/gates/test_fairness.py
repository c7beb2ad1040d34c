"""Fairness: a cohort that is worse for one group is failed, one that is alike for all passes, and small groups are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders_gates import CLASSES, people
from scipy import ndimage

from medpipe.gates import fairness, features, fidelity
from medpipe.gates.fairness import Evidence, Group
from medpipe.gates.fidelity_gate import Sample
from medpipe.settings import GatesSettings

SETTINGS = GatesSettings(resamples=20)
COVARIATES = [{"name": "sex", "kind": "categorical", "values": ["F", "M"]}, {"name": "age", "kind": "continuous"}]
TRAIN, HOLDOUT, COHORT = 260, 200, 260


def table(labels: np.ndarray, seed: int, women: float = 0.5) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    sex = np.where(draws.random(len(labels)) < women, "F", "M")
    return pd.DataFrame({"label": [CLASSES[number] for number in labels], "sex": sex, "age": draws.uniform(30, 80, len(labels))})


class Hospital:
    """A Dataset of two splits, embedded once, and cohorts of other people of it."""

    def __init__(self) -> None:
        images, labels = people(TRAIN + HOLDOUT, 1)
        self.weights = features.train(images[:TRAIN], labels[:TRAIN], len(CLASSES), budget=1500, seed=0)
        raw = features.raw(images, self.weights, 0)
        self.directions = {name: features.Directions.fit(value[:TRAIN]) for name, value in raw.items()}
        self.index, self.labels = table(labels, 1), labels
        self.train = np.arange(len(labels)) < TRAIN
        whole = self.sample(images, labels)
        rows = np.arange(len(labels))
        self.samples = {"train": (whole.take(rows[:TRAIN]), rows[:TRAIN]), "holdout": (whole.take(rows[TRAIN:]), rows[TRAIN:])}

    def sample(self, images: np.ndarray, labels: np.ndarray) -> Sample:
        raw = features.raw(images, self.weights, 0)
        return Sample({name: self.directions[name](raw[name]) for name in raw}, fidelity.statistics(images), labels)

    def judged(
        self, images: np.ndarray, labels: np.ndarray, made: pd.DataFrame, synthetic: np.ndarray | None = None
    ) -> tuple[dict[str, bool], list[dict[str, object]]]:
        """Judge a cohort; `synthetic` are the probabilities of the synthetic arm, by default those of the real one."""
        groups = fairness.find(self.index, made, COVARIATES, CLASSES, self.train)
        tested = np.arange(TRAIN, TRAIN + HOLDOUT)
        truth = self.labels[tested]
        real = np.stack([1 - 0.8 * truth - 0.1, 0.8 * truth + 0.1], axis=1).astype(np.float32)
        evidence = Evidence(
            self.samples | {"cohort": (self.sample(images, labels), np.arange(len(labels)))},
            {"real": [real], "synthetic": [real if synthetic is None else synthetic]},
            tested,
            truth,
            np.zeros(len(labels), dtype=bool),
            fairness.expected(groups, self.train, self.labels, labels),
        )
        verdicts, rows = fairness.assess(groups, evidence, SETTINGS, 0)
        return {verdict.name: verdict.passed for verdict in verdicts}, rows


@pytest.fixture(scope="module")
def hospital() -> Hospital:
    return Hospital()


def test_a_cohort_alike_for_all_passes_and_every_group_has_its_figures(hospital: Hospital) -> None:
    images, labels = people(COHORT, 4)
    verdicts, rows = hospital.judged(images, labels, table(labels, 4))
    assert verdicts == {"fairness_likeness": True, "fairness_utility": True, "fairness_share": True}
    assessed = {row["group"] for row in rows if row["assessed"]}
    assert {*(f"class {name}" for name in CLASSES), "sex F", "sex M", "age 40 to 65", "age from 65"} <= assessed
    assert all(row["utility_gap"] == 0 for row in rows if row["assessed"] and row["utility_gap"] is not None)


def test_images_that_are_blurred_for_one_sex_only_fail(hospital: Hospital) -> None:
    images, labels = people(COHORT, 4)
    made = table(labels, 4)
    women = (made["sex"] == "F").to_numpy()
    images[women] = np.rint(ndimage.gaussian_filter(images[women].astype(float), (0, 0, 1.2, 1.2))).astype(np.uint8)
    verdicts, rows = hospital.judged(images, labels, made)
    assert not verdicts["fairness_likeness"]
    by_group = {row["group"]: row for row in rows}
    assert by_group["sex F"]["frechet_over_bound"] > 1 > by_group["sex M"]["frechet_over_bound"]  # type: ignore[operator]


def test_a_classifier_that_fails_one_group_only_fails(hospital: Hospital) -> None:
    images, labels = people(COHORT, 4)
    tested = np.arange(TRAIN, TRAIN + HOLDOUT)
    truth, women = hospital.labels[tested], (hospital.index["sex"][tested] == "F").to_numpy()
    predicted = np.where(women, 0.5, 0.8 * truth + 0.1)
    synthetic = np.stack([1 - predicted, predicted], axis=1).astype(np.float32)
    verdicts, _ = hospital.judged(images, labels, table(labels, 4), synthetic)
    assert not verdicts["fairness_utility"]
    assert verdicts["fairness_likeness"]


def test_a_sex_that_grew_rare_fails_and_a_balanced_class_mix_does_not(hospital: Hospital) -> None:
    images, labels = people(COHORT, 4)
    verdicts, _ = hospital.judged(images, labels, table(labels, 4, women=0.8))
    assert not verdicts["fairness_share"]
    rows = np.concatenate([np.flatnonzero(labels == 0)[:60], np.flatnonzero(labels == 1)[:100]])
    verdicts, _ = hospital.judged(images[rows], labels[rows], table(labels, 4).iloc[rows].reset_index(drop=True))
    assert verdicts["fairness_share"]


def test_small_groups_are_named_and_carry_no_figure(hospital: Hospital) -> None:
    images, labels = people(COHORT, 4)
    made = table(labels, 4)
    made["age"] = 70.0
    _, rows = hospital.judged(images, labels, made)
    small = {row["group"] for row in rows if not row["assessed"]}
    assert {"age below 40", "age 40 to 65"} <= small
    assert not any(", " in str(name) for name in small)


def test_missing_values_belong_to_no_group_and_bands_tell_no_value() -> None:
    real = pd.DataFrame({"label": ["a"] * 6, "dose": [1.234, 2.345, 3.456, 4.567, None, 5.678]})
    made = pd.DataFrame({"label": ["a"] * 2, "dose": [1.0, None]})
    groups = fairness.find(real, made, [{"name": "dose", "kind": "continuous"}], ["a"], np.ones(6, dtype=bool))
    assert sum(int(group.real.sum()) for group in groups) == 5
    assert sum(int(group.made.sum()) for group in groups) == 1
    assert not any(value in group.name for group in groups for value in ("234", "345", "456", "567", "678"))


def test_without_groups_there_is_no_verdict() -> None:
    assert fairness.find(pd.DataFrame({"label": [None]}), pd.DataFrame({"label": [None]}), [], [], np.ones(1, dtype=bool)) == []
    empty = Group("sex F", np.zeros(1, dtype=bool), np.zeros(1, dtype=bool))
    assert fairness.expected([empty], np.ones(1, dtype=bool), np.zeros(1, np.int64), np.zeros(1, np.int64)) == {"sex F": 0.0}
