"""The yardstick is fixed from the Dataset alone; outliers, conditions and figures that are too good are judged by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medpipe.gates import bands, conditions, fidelity_gate, outliers
from medpipe.gates.bands import Band
from medpipe.gates.features import SPACES
from medpipe.gates.fidelity import STATISTICS
from medpipe.gates.frozen import STATISTIC, Frozen, Part, freeze
from medpipe.gates.measures import BY_NAME, Sample
from medpipe.settings import GatesSettings

SETTINGS = GatesSettings(resamples=20)
AGE: list[dict[str, Any]] = [{"name": "age", "kind": "continuous"}, {"name": "sex", "kind": "categorical", "values": ["F", "M"]}]


def part(n: int, seed: int, patients: int | None = None) -> Part:
    """Draw features in which the class, the age and the sex show."""
    draws = np.random.default_rng(seed)
    strata, ages, sexes = draws.integers(0, 2, n), draws.normal(50, 10, n), draws.integers(0, 2, n)
    raw = {space: draws.normal(0, 1, (n, 6)) for space in ("learned", "texture", "pixels", "spectrum")}
    raw["learned"][:, 0] += 3 * strata
    raw["learned"][:, 1] += (ages - 50) / 5
    raw["pixels"][:, 0] += 3 * sexes
    raw |= {STATISTIC + name: draws.normal(0, 1, n) for name in ("mean", "spread", "detail")}
    index = pd.DataFrame({"age": ages, "sex": np.array(["F", "M"])[sexes]})
    index["patient"] = [f"P{k if patients is None else draws.integers(patients)}" for k in range(n)]
    return Part(raw, strata.astype(np.int64), index)


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return freeze(part(400, 1), part(200, 2), 200, ["a", "b"], AGE, SETTINGS, 20, 0)


@pytest.fixture(scope="module")
def train(frozen: Frozen) -> Sample:
    return frozen.sample(part(400, 1))


def test_the_yardstick_is_the_same_each_time_and_survives_being_stored(frozen: Frozen) -> None:
    again = freeze(part(400, 1), part(200, 2), 200, ["a", "b"], AGE, SETTINGS, 20, 0)
    weights = {"layer": np.ones(3)}
    assert again.digest(weights, SETTINGS) == frozen.digest(weights, SETTINGS)
    assert frozen.digest({"layer": np.zeros(3)}, SETTINGS) != frozen.digest(weights, SETTINGS)
    assert frozen.digest(weights, GatesSettings(frechet_ratio_max=2)) != frozen.digest(weights, SETTINGS)
    assert list(frozen.baseline.real) == [100, 50, 25]
    assert {probe.name for probe in frozen.probes} == {"class", "age", "sex"}


def test_a_bound_lets_an_ideal_cohort_pass_as_often_as_the_level_says() -> None:
    """Values of halves of a holdout of H, against middles of ideal cohorts of N: z of the difference has a standard deviation of 1."""
    draws, found = np.random.default_rng(0), []
    for _ in range(300):
        holdout, cohort = draws.normal(0, 1, 200), draws.normal(0, 1, 300)
        real = np.array([draws.permutation(holdout)[:100].mean() for _ in range(50)])
        made = np.median([draws.permutation(cohort)[:100].mean() for _ in range(50)])
        found.append(Band.of(real, 100, 200, 300, 0.01, 14).better(BY_NAME["frechet"], float(made)))
    assert 0.8 < np.std(found) < 1.25


def test_other_real_images_pass_and_each_fault_is_seen_by_its_gate(frozen: Frozen, train: Sample) -> None:
    def failed(sample: Sample) -> set[str]:
        made = fidelity_gate.figures(frozen.baseline, train, sample, 20, 0)
        near = outliers.distances(sample.features, train.features)[1]
        too_near = outliers.too_near(list(sample.features), near, frozen.arrays["near"], None)
        return {v.name for v in fidelity_gate.verdicts(frozen.baseline, made, sample, SETTINGS, too_near) if not v.passed}

    assert failed(frozen.sample(part(200, 3))) == set()
    power = part(200, 3)
    power.raw["spectrum"][:, 2] += 2.5
    assert failed(frozen.sample(power)) == {"frechet_spectrum"}
    twins = frozen.sample(part(200, 3)).take(np.repeat(np.arange(100), 2))
    assert "repeats" in failed(twins)
    assert "too_good" in failed(train.take(np.arange(200)))


def test_images_far_from_all_training_images_are_outliers_and_a_tenth_of_them_fails(frozen: Frozen, train: Sample) -> None:
    made = part(300, 3)
    made.raw["pixels"][:30] += 6
    far, _ = outliers.distances(frozen.sample(made).features, train.features)
    verdict, out = outliers.assess(far, frozen.arrays["far"], frozen.arrays["limits"], SETTINGS)
    assert not verdict.passed
    assert out[:30].all()
    assert out[30:].mean() < 0.03
    good, few = outliers.assess(far[30:], frozen.arrays["far"], frozen.arrays["limits"], SETTINGS)
    assert good.passed, str(good)
    assert few.mean() < 0.03


def test_outliers_are_not_certified_by_few_held_out_images_and_what_is_no_number_is_one() -> None:
    far = np.random.default_rng(0).random((60, 2))
    few = outliers.limits(far[:40], SETTINGS)
    verdict, _ = outliers.assess(far, far[:40], few, SETTINGS)
    assert not verdict.passed
    assert "Cannot be certified" in verdict.meaning
    far[0, 0] = np.nan
    assert outliers.assess(far, far[1:], outliers.limits(far[1:], SETTINGS), SETTINGS)[1][0]


def test_nearness_is_the_chance_to_lie_nearer_and_its_error_is_that_of_equal_samples() -> None:
    assert outliers.nearness(np.zeros(50), np.ones(60), None)[0] == 1
    assert outliers.nearness(np.ones(50), np.zeros(60), None)[0] == 0
    draws = np.random.default_rng(0)
    z = [outliers.nearness(draws.random(100), draws.random(80), None) for _ in range(300)]
    assert np.mean([chance for chance, _ in z]) == pytest.approx(0.5, abs=0.01)
    assert np.std([error for _, error in z]) == pytest.approx(1, abs=0.15)


def read(frozen: Frozen, made: Part, name: str, truth: np.ndarray | None = None) -> conditions.Reading:
    probe = next(probe for probe in frozen.probes if probe.name == name)
    truths = conditions.targets(made.strata, ["a", "b"], made.index, AGE)
    return conditions.read(probe, frozen.sample(made), truths[name][1] if truth is None else truth, SETTINGS, 14, 0)


@pytest.mark.parametrize("name", ["class", "age", "sex"])
def test_a_condition_that_images_show_is_found_and_one_that_was_mixed_up_is_not(frozen: Frozen, name: str) -> None:
    made = part(350, 3)
    good = read(frozen, made, name)
    assert good.assessed
    assert good.passed, (good.low, good.bound)
    truth = conditions.targets(made.strata, ["a", "b"], made.index, AGE)[name][1].copy()
    draws = np.random.default_rng(0)
    some = draws.permutation(350)[: 70 if name == "class" else 200]
    truth[some] = 1 - truth[some] if name != "age" else draws.permutation(truth[some])
    mixed = read(frozen, made, name, truth)
    assert not mixed.passed
    verdict = conditions.verdicts([mixed])[0]
    assert not verdict.passed
    assert verdict.name == ("condition_label" if name == "class" else "condition_covariates")


def test_a_covariate_that_real_images_do_not_show_is_not_assessed() -> None:
    train, held = part(300, 1), part(150, 2)
    for one in (train, held):
        assert one.index is not None
        one.index["age"] = np.random.default_rng(9).normal(0, 1, len(one.strata))
    frozen = freeze(train, held, 100, [], AGE[:1], SETTINGS, 20, 0)
    reading = read(frozen, part(150, 3), "age")
    assert not reading.assessed
    assert conditions.verdicts([reading]) == []


def test_draws_take_whole_patients_where_they_are_known() -> None:
    sample = Sample({"learned": np.zeros((60, 2))}, {}, np.zeros(60, dtype=np.int64), np.repeat(np.arange(6), 10))
    drawn = bands.draw(sample, {0: 1.0}, 30, np.random.default_rng(0))
    assert drawn.patients is not None
    assert len(np.unique(drawn.patients)) == 3


@pytest.mark.parametrize("grouped", [True, False])
def test_few_patients_with_many_images_each_make_no_honest_cohort_too_good(grouped: bool) -> None:
    def drawn(patients: int, each: int, seed: int) -> Sample:
        draws = np.random.default_rng(seed)
        spaces = {name: draws.normal(0, 1, (patients, 6)).repeat(each, 0) + draws.normal(0, 0.3, (patients * each, 6)) for name in SPACES}
        statistics = {name: draws.normal(0, 1, patients * each) for name in STATISTICS}
        of = np.arange(patients).repeat(each) if grouped else None
        return Sample(spaces, statistics, np.zeros(patients * each, dtype=np.int64), of)

    train, holdout, cohort = drawn(100, 12, 0), drawn(16, 20, 1), drawn(400, 1, 2)
    verdicts = fidelity_gate.assess(train, holdout, cohort, GatesSettings(resamples=30), 0)
    assert {verdict.name: verdict.passed for verdict in verdicts}["too_good"] is grouped, "as if each image were of another patient"


def test_a_cohort_with_few_images_of_a_class_is_drawn_smaller_and_one_with_hardly_any_is_not_certified(frozen: Frozen) -> None:
    made = frozen.sample(part(200, 3))
    rare = np.flatnonzero(made.strata == 1)
    everyone = np.flatnonzero(made.strata == 0)
    n, _ = frozen.baseline.size_for(made.take(np.concatenate([everyone, rare[:45]])))
    assert n == 50
    few = made.take(np.concatenate([everyone, rare[:3]]))
    verdicts = fidelity_gate.verdicts(frozen.baseline, {}, few, SETTINGS)
    assert not any(verdict.passed for verdict in verdicts)
    assert all("too few images of a class" in verdict.meaning for verdict in verdicts)
