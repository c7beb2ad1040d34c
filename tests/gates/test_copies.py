from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from builders_gates import Images, people
from scipy import stats

from medpipe.gates import alignment, copies, copy_gate
from medpipe.gates.alignment import Gallery
from medpipe.gates.copies import Scores
from medpipe.settings import GatesSettings

SETTINGS = GatesSettings()


@pytest.fixture(scope="module")
def train() -> Images:
    return people(150, 1)[0]


@pytest.fixture(scope="module")
def gallery(train: Images) -> Gallery:
    return Gallery.of(train)


@pytest.fixture(scope="module")
def real(gallery: Gallery) -> Scores:
    return alignment.scores(gallery, people(160, 2)[0])


@pytest.fixture(scope="module")
def planted(train: Images, gallery: Gallery) -> Mapping[str, tuple[Scores, np.ndarray]]:
    known = set(copies.canonical_digests(train))
    found = {}
    for family in copies.REQUIRED:
        made = copies.planted(train[:15], train[20:35], family, np.random.default_rng(0))
        same = np.array([digest in known for digest in copies.canonical_digests(made)])
        found[family] = (alignment.scores(gallery, made), same)
    return found


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7), (1, 4, 6, 6)])
def test_mirrored_and_quarter_turned_copies_have_the_digest_of_the_image(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    digest = copies.canonical_digests(image)
    for turned in (image[..., ::-1], image[..., ::-1, :], np.rot90(image, 1, (-2, -1)), np.rot90(image[..., ::-1], 3, (-2, -1))):
        assert copies.canonical_digests(np.ascontiguousarray(turned)) == digest
    other = image.copy()
    other[0, 0, 0, 0] ^= 1
    assert copies.canonical_digests(other) != digest
    assert copies.canonical_digests(image.transpose(0, 1, *range(2, image.ndim))) == digest


def test_no_more_real_images_lie_above_the_limits_than_the_stated_share() -> None:
    draws = np.random.default_rng(0)
    for share in (0.01, 0.05):
        real = draws.normal(0, 1, (1000, 3))
        limits = copies.thresholds(real, share)
        assert 0.5 * share <= copies.flagged(real, limits).mean() <= share
        assert copies.flagged(draws.normal(0, 1, (20_000, 3)), limits).mean() < 1.8 * share


def test_a_small_holdout_sets_limits_beyond_its_own_largest_score() -> None:
    draws = np.random.default_rng(0)
    rates = [copies.flagged(draws.normal(0, 1, (500, 3)), copies.thresholds(draws.normal(0, 1, (60, 3)), 0.01)).mean() for _ in range(60)]
    assert np.mean(rates) < 0.02


def test_a_score_that_is_not_a_number_is_flagged_and_so_is_every_score_under_no_limit() -> None:
    limits = np.array([1.0, 1.0, 1.0])
    assert copies.flagged(np.array([[0, 0, 0], [0, math.nan, 0], [2, 0, 0]]), limits).tolist() == [False, True, True]
    assert copies.flagged(np.zeros((2, 3)), np.full(3, math.nan)).all()


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (40, 40), (7, 40), (0, 0)])
def test_the_interval_of_a_share_is_that_of_clopper_and_pearson(hits: int, n: int) -> None:
    low, high = copies.clopper_pearson(hits, n)
    if n:
        interval = stats.binomtest(hits, n).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((interval.low, interval.high))
    else:
        assert (low, high) == (0, 1)


def test_planted_copies_are_found_and_other_patients_are_not(
    real: Scores, planted: Mapping[str, tuple[Scores, np.ndarray]], gallery: Gallery
) -> None:
    fresh = alignment.scores(gallery, people(250, 3)[0])
    found = copy_gate.assess(fresh, np.zeros(250, bool), real, planted, SETTINGS)
    assert {row["what"]: row["recall"] for row in found.detector if row["what"] in ("exact", "mirrored")} == {"exact": 1, "mirrored": 1}
    assert min(row["recall"] for row in found.detector) >= 0.85
    assert all(verdict.passed for verdict in found.verdicts), [str(verdict) for verdict in found.verdicts]
    assert found.withheld.mean() < 0.03


def test_mirrored_training_images_in_the_cohort_are_withheld_and_fail_it(
    train: Images, real: Scores, planted: Mapping[str, tuple[Scores, np.ndarray]], gallery: Gallery
) -> None:
    images = people(60, 3)[0]
    moved = copies.planted(train[50:60], train[:10], "shifted", np.random.default_rng(0))
    images[:10], images[10:13] = moved, train[50:53, :, :, ::-1]
    known = set(copies.canonical_digests(train))
    exact = np.array([digest in known for digest in copies.canonical_digests(images)])
    found = copy_gate.assess(alignment.scores(gallery, images), exact, real, planted, SETTINGS)
    assert found.withheld[:13].sum() >= 12
    assert found.reasons[10:13] == ["exact_copy"] * 3
    assert [verdict.name for verdict in found.verdicts if not verdict.passed] == ["copies_exact", "copies_near"]
    table = copy_gate.table(found, alignment.scores(gallery, images))
    assert set(table) == {"row", "withheld", "reason", *alignment.RULES}


def test_a_detector_that_misses_one_exact_copy_fails_the_run(real: Scores, planted: Mapping[str, tuple[Scores, np.ndarray]]) -> None:
    scores, same = planted["exact"]
    blind = {**planted, "exact": (np.concatenate([scores[:-1], real[:1]]), same)}
    verdict = copy_gate.assess(real, np.zeros(len(real), bool), real, blind, SETTINGS).verdicts[-1]
    assert (verdict.name, verdict.passed, verdict.value) == ("copy_detector_self_test", False, 0)
    without = {family: value for family, value in planted.items() if family != "turned"}
    assert not copy_gate.assess(real, np.zeros(len(real), bool), real, without, SETTINGS).verdicts[-1].passed


def test_a_holdout_that_is_too_small_certifies_nothing(real: Scores, planted: Mapping[str, tuple[Scores, np.ndarray]]) -> None:
    found = copy_gate.assess(real, np.zeros(len(real), bool), real[:30], planted, SETTINGS)
    near = found.verdicts[1]
    assert not near.passed
    assert math.isnan(near.value)
    assert "Cannot be certified" in near.meaning
    assert not found.withheld.any()


def test_volumes_and_colour_images_are_searched_too() -> None:
    for channels, depth in ((1, 10), (3, 0)):
        train, _ = people(25, 4, side=16, channels=channels, depth=depth)
        gallery = Gallery.of(train)
        made = copies.planted(train[:6], train[6:12], "shifted", np.random.default_rng(0))
        scores, fresh = (
            alignment.scores(gallery, made),
            alignment.scores(gallery, people(15, 5, side=16, channels=channels, depth=depth)[0]),
        )
        assert (scores[:, 0] > np.quantile(fresh[:, 0], 0.9)).mean() > 0.8


def test_flat_images_have_scores_and_break_nothing(gallery: Gallery) -> None:
    scores = alignment.scores(gallery, np.zeros((2, 1, 24, 24), np.uint8))
    assert scores.shape == (2, 3)
    assert np.isfinite(scores).all()
