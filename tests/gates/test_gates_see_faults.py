"""Each known fault is failed by the gate that is there for it, and good images pass all of them."""

from __future__ import annotations

import numpy as np
import pytest
from builders_gates import CLASSES, Images, Labels, people, spoiled

from medpipe.gates import features, fidelity, fidelity_gate, utility, utility_gate
from medpipe.gates.fidelity_gate import Sample
from medpipe.settings import GatesSettings

SETTINGS = GatesSettings(resamples=20, utility_seeds=1)


class Space:
    """The feature spaces of a small training split, learned once."""

    def __init__(self) -> None:
        images, labels = people(300, 1)
        self.weights = features.train(images, labels, 2, budget=3000, seed=0)
        self.directions = {name: features.Directions.fit(found) for name, found in features.raw(images, self.weights, 0).items()}
        self.train, self.holdout = self.sample(images, labels), self.sample(*people(150, 2))

    def sample(self, images: Images, labels: Labels) -> Sample:
        raw = features.raw(images, self.weights, 0)
        return Sample({name: self.directions[name](raw[name]) for name in features.SPACES}, fidelity.statistics(images), labels)

    def failed(self, images: Images, labels: Labels) -> set[str]:
        verdicts = fidelity_gate.assess(self.train, self.holdout, self.sample(images, labels), SETTINGS, 0)
        return {verdict.name for verdict in verdicts if not verdict.passed}


@pytest.fixture(scope="module")
def space() -> Space:
    return Space()


@pytest.mark.parametrize(
    ("fault", "gates"),
    [
        ("good", set()),
        ("collapsed", {"frechet", "frechet_texture", "frechet_pixels", "recall"}),
        ("blurred", {"frechet_texture", "intensity_detail"}),
        ("grainy", {"frechet_texture", "intensity_detail"}),
        ("regraded", {"intensity"}),
        ("mirrored", {"frechet_pixels"}),
        ("some upside down", {"frechet_pixels"}),
    ],
)
def test_a_fault_is_failed_by_the_gates_that_are_there_for_it(space: Space, fault: str, gates: set[str]) -> None:
    images, labels = people(150, 3)
    failed = space.failed(*spoiled(fault, images, labels, np.random.default_rng(0)))
    assert gates <= failed
    assert gates or not failed


def test_a_cohort_with_other_class_shares_is_compared_at_the_shares_of_the_holdout(space: Space) -> None:
    images, labels = people(400, 4)
    rare = np.flatnonzero(labels == 1)[:60]
    rows = np.concatenate([np.flatnonzero(labels == 0), rare])
    assert space.failed(images[rows], labels[rows]) == set()


def test_a_small_holdout_certifies_nothing(space: Space) -> None:
    few = space.holdout.take(np.arange(40))
    verdicts = fidelity_gate.assess(space.train, few, space.holdout, SETTINGS, 0)
    assert not any(verdict.passed for verdict in verdicts)
    assert all("Cannot be certified" in verdict.meaning for verdict in verdicts)


def test_features_that_are_not_numbers_fail(space: Space) -> None:
    broken = Sample(
        {name: np.full_like(value, np.nan) for name, value in space.holdout.features.items()},
        space.holdout.statistics,
        space.holdout.strata,
    )
    with np.errstate(invalid="ignore"):
        verdicts = fidelity_gate.assess(space.train, space.holdout, broken, SETTINGS, 0)
    assert {"frechet", "frechet_texture", "frechet_pixels", "kid", "precision", "recall"} <= {v.name for v in verdicts if not v.passed}


def test_the_feature_network_is_the_same_each_time_and_its_features_do_not_collapse(space: Space) -> None:
    images, labels = people(60, 1)
    first, second = (features.train(images, labels, 2, budget=300, seed=3) for _ in range(2))
    assert all(bool((first[name] == second[name]).all()) for name in first)
    values = np.linalg.eigvalsh(np.cov(space.train.features["learned"], rowvar=False))
    assert values.sum() ** 2 / (values**2).sum() > 5  # directions in use, after scaling


@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 40, 24), (1, 8, 16, 16)])
def test_features_of_any_shape_of_image_are_numbers(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, *shape)).astype(np.uint8)
    weights = features.train(images, np.full(24, -1), 0, budget=48, seed=0)
    raw = features.raw(images, weights, 0)
    assert set(raw) == set(features.SPACES)
    assert all(np.isfinite(features.Directions.fit(value)(value)).all() for value in raw.values())


def test_missing_and_rare_classes_are_failed_and_a_balanced_wish_is_not() -> None:
    train, held = np.array([740, 260]), np.array([74, 26])
    cases = [([740, 260], "as_trained", True), ([1000, 0], "as_trained", False), ([970, 30], "as_trained", False)]
    cases += [([500, 500], "balanced", True), ([740, 260], "balanced", False), ([500, 500], "as_trained", False)]
    for have, asked, passed in cases:
        verdict = fidelity_gate.composition(np.array(have), train, held, asked, SETTINGS)
        assert verdict is not None
        assert verdict.passed is passed, (have, asked)
    assert fidelity_gate.composition(np.array([], int), np.array([], int), np.array([], int), "as_trained", SETTINGS) is None


def test_only_utility_sees_every_label_swapped_and_it_passes_good_images() -> None:
    train, labels = people(300, 1)
    tested, truth = people(200, 5)
    fresh, own = people(300, 6)

    def arm(images: Images, of: Labels, name: str) -> list[np.ndarray]:
        return [utility.probabilities(images, of, tested, len(CLASSES), budget=1500, seed=0, names=(name, "0"))]

    real = arm(train, labels, "real")
    good = utility_gate.assess(real, arm(fresh, own, "synthetic"), truth, SETTINGS, 0)
    swapped = utility_gate.assess(real, arm(fresh, 1 - own, "synthetic"), truth, SETTINGS, 0)
    assert good.passed, str(good)
    assert not swapped.passed
    assert swapped.value < 0.3
    assert not utility_gate.assess([], [], truth, SETTINGS, 0).passed


def test_the_auc_is_the_chance_that_a_case_outranks_a_control() -> None:
    from sklearn.metrics import roc_auc_score

    draws = np.random.default_rng(0)
    truth, scores = draws.integers(0, 3, 100), draws.random((100, 3))
    expected = np.mean([roc_auc_score(truth == number, scores[:, number]) for number in range(3)])
    assert utility.auc(scores, truth) == pytest.approx(expected)
    assert np.isnan(utility.auc(scores, np.zeros(100, int)[:100] + 7))
