from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpipe.gates import fidelity


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    mean, spread = np.array([1.0, 0.0]), np.array([4.0, 9.0])
    a, b = (np.zeros(2), np.eye(2)), (mean, np.diag(spread))
    assert fidelity.frechet(a, b) == pytest.approx(1 + ((np.sqrt(spread) - 1) ** 2).sum())  # Σ (σ - 1)² on the diagonal
    assert fidelity.frechet(b, b) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_the_same_both_ways_and_under_a_rotation() -> None:
    draws = np.random.default_rng(0)
    x, y = draws.normal(0, 1, (200, 5)), draws.normal(0.3, 1.5, (150, 5)) @ draws.normal(0, 1, (5, 5))
    turn, _ = np.linalg.qr(draws.normal(0, 1, (5, 5)))
    there = fidelity.frechet(fidelity.moments(x), fidelity.moments(y))
    assert fidelity.frechet(fidelity.moments(y), fidelity.moments(x)) == pytest.approx(there)
    assert fidelity.frechet(fidelity.moments(x @ turn), fidelity.moments(y @ turn)) == pytest.approx(there)


def test_weighted_moments_are_those_of_repeated_images() -> None:
    x = np.random.default_rng(0).normal(0, 1, (30, 3))
    weights = np.array([2.0] * 10 + [1.0] * 20)
    mean, _ = fidelity.moments(x, weights)
    assert mean == pytest.approx(np.concatenate([x[:10], x]).mean(0))
    assert fidelity.moments(x)[1] == pytest.approx(np.cov(x, rowvar=False))


def test_the_kernel_distance_is_zero_on_average_for_one_population_and_grows_with_the_gap() -> None:
    draws = np.random.default_rng(0)
    same = [fidelity.kid(draws.normal(0, 1, (60, 8)), draws.normal(0, 1, (60, 8))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(len(same))
    apart = [fidelity.kid(draws.normal(0, 1, (200, 8)), draws.normal(gap, 1, (200, 8))) for gap in (0.2, 0.5, 1.0)]
    assert apart == sorted(apart)


def test_precision_falls_for_images_from_elsewhere_and_recall_for_a_collapsed_cohort() -> None:
    draws = np.random.default_rng(0)
    real, fresh = draws.normal(0, 1, (200, 4)), draws.normal(0, 1, (200, 4))
    precision, recall = fidelity.precision_recall(real, fresh)
    assert precision > 0.8
    assert recall > 0.8
    far = fresh.copy()
    far[:100] += 20
    assert fidelity.precision_recall(real, far)[0] == pytest.approx(precision / 2, abs=0.08)
    collapsed = np.repeat(fresh[:5], 40, axis=0)
    assert fidelity.precision_recall(real, collapsed)[1] < 0.1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_the_gap_between_distributions_is_the_largest_over_all_values(a: list[int], b: list[int]) -> None:
    gaps = [abs(sum(x <= value for x in a) / len(a) - sum(x <= value for x in b) / len(b)) for value in range(21)]
    assert fidelity.ks(np.array(a, float), np.array(b, float)) == pytest.approx(max(gaps))


def test_detail_sees_blur_and_brightness_does_not() -> None:
    from scipy.ndimage import gaussian_filter

    images = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16)).astype(np.uint8)
    soft = gaussian_filter(images.astype(float), (0, 0, 1, 1)).astype(np.uint8)
    sharp, blurred = fidelity.statistics(images), fidelity.statistics(soft)
    assert (blurred["detail"] < 0.5 * sharp["detail"]).all()
    assert blurred["mean"] == pytest.approx(sharp["mean"], abs=0.03)
    assert {name: value.shape for name, value in fidelity.statistics(np.zeros((3, 1, 4, 8, 8), np.uint16)).items()} == dict.fromkeys(
        fidelity.STATISTICS, (3,)
    )


def test_resampled_values_that_are_not_numbers_stay_so() -> None:
    assert all(math.isnan(value) for value in fidelity.spread([1.0, math.nan]))
    assert all(math.isnan(value) for value in fidelity.spread([]))
