"""Fairness: a cohort that is worse for one group is failed, one that is alike for all passes, and small groups are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders_gates import CLASSES, people
from scipy import ndimage

from medpipe.gates import asked, bias, fairness, features, fidelity, fidelity_gate
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


def test_every_figure_of_a_group_lies_in_its_interval(hospital: Hospital) -> None:
    images, labels = people(COHORT, 4)
    _, rows = hospital.judged(images, labels, table(labels, 4))
    for row in (row for row in rows if row["assessed"]):
        for name in ("share", "copies", "auc_real", "auc_synthetic", "frechet_over_bound"):
            if row[name] is not None:
                low, high = row[f"{name}_interval"]  # type: ignore[misc]
                assert low <= row[name] + 1e-9, name  # type: ignore[operator]
                assert row[name] - 1e-9 <= high, name  # type: ignore[operator]
    assert any(row["auc_real"] is not None for row in rows if row["assessed"])


def test_a_cohort_that_was_to_be_balanced_is_judged_by_that(hospital: Hospital) -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 600)
    sex = np.where(draws.random(600) < np.where(labels == 0, 0.2, 0.6), "F", "M")
    real = pd.DataFrame({"label": [CLASSES[k] for k in labels], "sex": sex})
    train, made_labels = np.arange(600) < 500, np.repeat([0, 1], 100)
    balance = asked.Balance.of(real["sex"], ["F", "M", "X"], labels, train)
    assert balance.cells == ((0, "F"), (0, "M"), (1, "F"), (1, "M")), "nobody has X"
    shares = balance.shares(np.array([0.75, 0.25]))
    assert shares.tolist() == [0.375, 0.375, 0.125, 0.125]

    def shares_of(women: int) -> tuple[float, bool]:
        made = pd.DataFrame({"label": [CLASSES[k] for k in made_labels], "sex": (["F"] * women + ["M"] * (100 - women)) * 2})
        groups = fairness.find(real, made, COVARIATES[:1], CLASSES, train)
        wanted = fairness.expected(groups, train, labels, made_labels, balance.parts)
        have, held = balance.counts(made_labels, made["sex"]), balance.counts(labels[500:], real["sex"].iloc[500:])
        counts = balance.counts(labels[:500], real["sex"].iloc[:500])
        verdict = fidelity_gate.composition(have, counts, held, "balanced", SETTINGS, balance.shares(np.array([0.5, 0.5])))
        assert verdict is not None
        return wanted["sex F"], verdict.passed

    assert shares_of(50) == (pytest.approx(0.5), True)
    assert shares_of(10) == (pytest.approx(0.5), False)


def test_prevalence_and_bias_are_shown_by_covariate_and_no_small_count_is_told(hospital: Hospital) -> None:
    draws = np.random.default_rng(0)
    labels = np.repeat([0, 1], [400, 200])
    women = draws.random(600) < np.where(labels == 1, 0.75, 0.25)
    real = pd.DataFrame({"label": [CLASSES[k] for k in labels], "sex": np.where(women, "F", "M")})
    train, tested = np.arange(600) % 3 > 0, np.flatnonzero(np.arange(600) % 3 == 0)
    made = real.iloc[:300].assign(sex=["F", "M"] * 150)
    truth = labels[tested]
    good = np.where(truth == 1, 0.9, 0.1)
    unfair = np.where(women[tested], 0.5, good)  # tells nothing of women
    arms = {name: [np.stack([1 - score, score], axis=1).astype(np.float32)] for name, score in (("real", good), ("synthetic", unfair))}
    evidence = Evidence({}, arms, tested, truth, np.zeros(300, dtype=bool), {})

    def tables(index: pd.DataFrame) -> list[dict[str, Any]]:
        groups = [group for group in fairness.find(index, made, COVARIATES[:1], CLASSES, train) if ", " not in group.name]
        return bias.Figures(groups, train, labels, labels[:300], CLASSES, evidence).tables(SETTINGS, 0)

    prevalence, gaps = tables(real)
    shadow = {row[0]: row for row in prevalence["rows"] if row[1] == "shadow"}
    of_women = float(str(shadow["sex F"][2]).rstrip("%")) / 100
    assert of_women == pytest.approx(labels[train & women].mean(), abs=0.001)
    assert shadow["sex F"][3].startswith("0.0%"), "the first 300 are of class clear"
    (row,) = gaps["rows"]
    assert row[0] == "sex"
    assert row[5].startswith("0.000"), "the model of patients is alike for both"
    assert row[6].startswith("0.500"), "the other tells nothing of women"
    assert row[2] == "0.0 points"
    assert "sex" in row[-1]
    few = real.assign(sex=np.where((labels == 1) & (np.cumsum(women & train) > 90), "M", real["sex"]))
    rare = int(((few["sex"] == "F") & (labels == 1) & train).sum())
    few.loc[(few["sex"] == "F") & (labels == 1) & train & (np.cumsum((few["sex"] == "F") & (labels == 1) & train) > 5), "sex"] = "M"
    assert rare > 5
    hidden, _ = tables(few)
    assert [row[2] for row in hidden["rows"] if row[0] == "sex F"] == [None, None], "five women of a class are not told"


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
