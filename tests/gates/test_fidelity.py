from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from medpipe.gates import diversity, features, fidelity, spectrum
from medpipe.gates.fidelity import Distances


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
    precision, recall = fidelity.precision_recall(Distances.of(real, fresh))
    assert precision > 0.8
    assert recall > 0.8
    far = fresh.copy()
    far[:100] += 20
    assert fidelity.precision_recall(Distances.of(real, far))[0] == pytest.approx(precision / 2, abs=0.08)
    collapsed = np.repeat(fresh[:5], 40, axis=0)
    assert fidelity.precision_recall(Distances.of(real, collapsed))[1] < 0.1


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


def test_density_and_coverage_of_six_points_on_a_line_are_those_counted_by_hand() -> None:
    real, made = np.array([[0.0], [1.0], [2.0], [10.0]]), np.array([[0.5], [1.5], [30.0]])
    # with k = 1 the balls reach 1, 1, 1 and 8; 0.5 lies in those of 0 and 1, 1.5 in those of 1 and 2 (and 8.5 from 10), 30 in none
    density, coverage = fidelity.density_coverage(Distances.of(real, made), k=1)
    assert density == pytest.approx((2 + 2 + 0) / 3)
    assert coverage == pytest.approx(3 / 4)


def test_the_gaussian_mmd_of_four_points_is_the_formula_by_hand() -> None:
    real, made = np.array([[0.0], [2.0]]), np.array([[0.0], [2.0]])
    near = math.exp(-0.5)  # both pairs lie one median (2) apart
    assert fidelity.mmd(Distances.of(real, made)) == pytest.approx(near + near - 2 * (2 + 2 * near) / 4)


def test_mmd_is_zero_on_average_for_one_population_and_grows_with_the_gap() -> None:
    draws = np.random.default_rng(0)
    same = [fidelity.mmd(Distances.of(draws.normal(0, 1, (40, 4)), draws.normal(0, 1, (40, 4)))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(len(same))
    apart = [fidelity.mmd(Distances.of(draws.normal(0, 1, (100, 4)), draws.normal(gap, 1, (100, 4)))) for gap in (0.3, 0.6, 1.2)]
    assert apart == sorted(apart)


def test_the_distance_at_infinity_is_nearer_the_truth_than_that_of_the_sample() -> None:
    draws = np.random.default_rng(0)
    whole, shifted = (np.zeros(8), np.eye(8)), draws.normal(0, 1, (300, 8)) + np.eye(8)[0]  # truth: 1
    found = np.mean([fidelity.frechet_at_infinity(whole, shifted, np.random.default_rng(k)) for k in range(5)])
    unrelated = draws.normal(0, 1, (300, 8))
    none = np.mean([fidelity.frechet_at_infinity(whole, unrelated, np.random.default_rng(k)) for k in range(5)])
    assert found == pytest.approx(1, abs=0.35)
    assert abs(none) < fidelity.frechet(whole, fidelity.moments(unrelated))
    assert math.isnan(fidelity.frechet_at_infinity(whole, unrelated[:20], draws))


def test_the_vendi_score_counts_different_images() -> None:
    basis = np.eye(6)
    assert diversity.vendi(basis) == pytest.approx(6)
    assert diversity.vendi(np.repeat(basis[:1], 10, axis=0)) == pytest.approx(1)
    assert diversity.vendi(np.repeat(basis[:2], 5, axis=0)) == pytest.approx(2)
    assert diversity.vendi(np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )
    assert math.isnan(diversity.vendi(basis * math.nan))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 24), (1, 12, 16, 16), (1, 6, 6)])
def test_equal_images_are_wholly_similar_and_others_are_less(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)
    same, other = diversity.similarity(images, images), diversity.similarity(images, images[::-1].copy())
    assert same == pytest.approx(1, abs=1e-4)
    assert (other < 0.6).all()


def test_structural_similarity_is_that_of_another_implementation() -> None:
    from monai.metrics.regression import compute_ms_ssim
    from scipy.ndimage import gaussian_filter

    draws = np.random.default_rng(0)
    smooth = gaussian_filter(draws.normal(0, 1, (6, 1, 44, 44)), (0, 0, 2, 2))
    images = np.rint(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    one, other = (torch.from_numpy(part.astype(np.float32) / 255) for part in (images[:3], images[3:]))
    weights = np.array(diversity.SCALES[:3]) / sum(diversity.SCALES[:3])
    expected = compute_ms_ssim(one, other, spatial_dims=2, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5), weights=weights.tolist())
    assert diversity.scales(44) == 3
    assert diversity.similarity(images[:3], images[3:]) == pytest.approx(expected.flatten().numpy(), abs=2e-4)


def test_pairs_are_of_one_class_and_no_image_is_in_two() -> None:
    strata = np.array([0, 0, 0, 1, 1, 1, 1, -1])
    pairs = diversity.pairs(strata, 10, np.random.default_rng(0))
    assert (strata[pairs[:, 0]] == strata[pairs[:, 1]]).all()
    assert len(np.unique(pairs)) == pairs.size == 6


def test_a_wave_has_its_power_in_the_ring_of_its_frequency() -> None:
    x = np.arange(32)
    for cycles, ring in ((4, 4), (8, 8), (12, 12)):  # of 32 pixels; 16 rings up to 16 cycles
        wave = np.rint(127 + 100 * np.cos(2 * np.pi * cycles * x / 32))[None, None, None].repeat(32, axis=2).astype(np.uint8)
        assert abs(int(spectrum.radial_power(wave)[0].argmax()) - ring) <= 1
    assert spectrum.radial_power(np.zeros((2, 1, 4, 6, 6), np.uint16)).shape == (2, spectrum.BINS)


@pytest.mark.parametrize(("shape", "sigma"), [((5, 2, 24, 17), 1.3), ((2, 1, 9, 12, 12), 4.0), ((3, 1, 7, 5), 2.5)])
def test_blur_is_that_of_a_gaussian_with_mirrored_edges(shape: tuple[int, ...], sigma: float) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.gaussian_filter(
        images.double().numpy(), (0, 0, *(sigma,) * (len(shape) - 2)), mode="reflect", radius=math.ceil(3 * sigma)
    )
    assert np.allclose(features.blurred(images, sigma).numpy(), wanted, atol=1e-5)
    assert torch.allclose(features.blurred(images.flip(-1), sigma), features.blurred(images, sigma).flip(-1), atol=1e-5)


def test_noise_raises_and_blur_lowers_high_frequencies_only() -> None:
    from scipy.ndimage import gaussian_filter

    draws = np.random.default_rng(0)
    images = np.rint(255 * np.clip(gaussian_filter(draws.random((20, 1, 32, 32)), (0, 0, 1, 1)), 0, 1)).astype(np.uint8)
    plain = spectrum.radial_power(images).mean(0)
    grainy = spectrum.radial_power(np.clip(images + draws.normal(0, 5, images.shape), 0, 255).astype(np.uint8)).mean(0)
    soft = spectrum.radial_power(gaussian_filter(images, (0, 0, 0.7, 0.7))).mean(0)
    assert grainy[-1] > plain[-1] + 0.5
    assert soft[-4] < plain[-4] - 0.3
    assert abs(grainy[1] - plain[1]) < 0.1
    assert abs(soft[1] - plain[1]) < 0.15


@pytest.mark.parametrize(("dimensions", "side", "fewer"), [(2, 64, 48), (2, 28, 16), (3, 30, 20), (2, 128, 64)])
def test_an_image_that_is_moved_by_a_pixel_of_the_smaller_one_is_shrunk_to_the_moved_smaller_one(
    dimensions: int, side: int, fewer: int
) -> None:
    """Averages of blocks of uneven overlap differ by 2 to 6 % of the variance: a pattern that a moved copy does not share."""
    images = features.blurred(torch.randn(4, 1, *[side] * dimensions, generator=torch.Generator().manual_seed(0)), 1.2)
    waves = torch.fft.fftfreq(side) * side
    moved = torch.fft.ifft(torch.fft.fft(images) * torch.exp(-2j * torch.pi * waves / fewer)).real
    inner = (..., *[slice(3, -3)] * dimensions)
    found, wanted = features.shrunk(moved, fewer)[inner], torch.roll(features.shrunk(images, fewer), 1, -1)[inner]
    assert float(((found - wanted) ** 2).mean() / wanted.var()) < 2e-3
    assert features.shrunk(images, side) is images
    assert features.shrunk(images[..., : side // 2], fewer).shape[2:] == (*[fewer] * (dimensions - 1), round(fewer / 2))
