from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from builders_gates import Images, people
from scipy import ndimage, stats

from medpipe.gates import alignment, copies, copy_gate, detail, registration
from medpipe.gates.alignment import MEASURES, Measures
from medpipe.gates.copy_rule import CopyRule
from medpipe.gates.detail import Seen
from medpipe.gates.gallery import Gallery, bank, shortlist
from medpipe.gates.geometry import grey, sampled, unit, within
from medpipe.settings import GatesSettings

SETTINGS = GatesSettings()


@pytest.fixture(scope="module")
def train() -> Images:
    return people(150, 1)[0]


@pytest.fixture(scope="module")
def gallery(train: Images) -> Gallery:
    return Gallery.of(train)


@pytest.fixture(scope="module")
def real(gallery: Gallery) -> Measures:
    return alignment.measures(gallery, people(110, 2)[0])


@pytest.fixture(scope="module")
def rule(train: Images, gallery: Gallery) -> CopyRule:
    draws = np.random.default_rng(1)
    partners = np.roll(np.arange(150), 40)[:100]
    copied = alignment.measures(gallery, copies.practised(train[:100], train[partners], draws), partners)
    strange = alignment.measures(gallery, copies.strange(train[:20], draws))
    return CopyRule.fit(copied, np.concatenate([alignment.measures(gallery, train[50:], np.arange(50, 150)), strange]))


Planted = Mapping[str, tuple[Measures, np.ndarray]]


@pytest.fixture(scope="module")
def planted(train: Images, gallery: Gallery) -> Planted:
    known = set(copies.canonical_digests(train))
    found = {}
    for family in copies.REQUIRED:
        made = copies.planted(train[:15], people(15, 9)[0], family, np.random.default_rng(0))
        same = np.array([digest in known for digest in copies.canonical_digests(made)])
        found[family] = (alignment.measures(gallery, made), same)
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


def test_planted_copies_are_found_and_other_patients_are_not(real: Measures, planted: Planted, rule: CopyRule, gallery: Gallery) -> None:
    fresh = alignment.measures(gallery, people(300, 3)[0])
    found = copy_gate.assess(fresh, np.zeros(300, bool), real, planted, rule, SETTINGS)
    assert {row["what"]: row["recall"] for row in found.detector if row["what"] in ("exact", "mirrored")} == {"exact": 1, "mirrored": 1}
    assert min(row["recall"] for row in found.detector if row["required"]) >= 0.85
    assert all(verdict.passed for verdict in found.verdicts), [str(verdict) for verdict in found.verdicts]
    assert found.withheld.mean() < 0.05


def test_mirrored_training_images_in_the_cohort_are_withheld_and_fail_it(
    train: Images, real: Measures, planted: Planted, rule: CopyRule, gallery: Gallery
) -> None:
    images = people(60, 3)[0]
    moved = copies.planted(train[50:60], train[:10], "shifted", np.random.default_rng(0))
    images[:10], images[10:13] = moved, train[50:53, :, :, ::-1]
    known = set(copies.canonical_digests(train))
    exact = np.array([digest in known for digest in copies.canonical_digests(images)])
    measures = alignment.measures(gallery, images)
    found = copy_gate.assess(measures, exact, real, planted, rule, SETTINGS)
    assert found.withheld[:13].sum() >= 12
    assert found.reasons[10:13] == ["exact_copy"] * 3
    assert [verdict.name for verdict in found.verdicts if not verdict.passed] == ["copies_exact", "copies_near"]
    assert set(copy_gate.table(found, measures)) == {"row", "withheld", "reason", *copy_gate.RULES, *copy_gate.SHOWN}


def test_a_detector_that_misses_one_exact_copy_fails_the_run(real: Measures, planted: Planted, rule: CopyRule) -> None:
    measures, same = planted["exact"]
    blind = {**planted, "exact": (np.concatenate([measures[:-1], real[:1]]), same)}
    verdict = copy_gate.assess(real, np.zeros(len(real), bool), real, blind, rule, SETTINGS).verdicts[-1]
    assert (verdict.name, verdict.passed, verdict.value) == ("copy_detector_self_test", False, 0)
    without = {family: value for family, value in planted.items() if family != "turned"}
    assert not copy_gate.assess(real, np.zeros(len(real), bool), real, without, rule, SETTINGS).verdicts[-1].passed


def test_a_holdout_that_is_too_small_certifies_nothing(real: Measures, planted: Planted, rule: CopyRule) -> None:
    found = copy_gate.assess(real, np.zeros(len(real), bool), real[:30], planted, rule, SETTINGS)
    near = found.verdicts[1]
    assert not near.passed
    assert math.isnan(near.value)
    assert "Cannot be certified" in near.meaning
    assert not found.withheld.any()
    assert found.false_alarms["rows"] == []


def test_false_alarms_are_counted_on_images_that_set_no_limit(real: Measures, planted: Planted, rule: CopyRule) -> None:
    copied, _ = planted["exact"]
    held = np.concatenate([copied[:1], real])  # a copy in the holdout: limits that it sets itself would let it pass
    (row,) = copy_gate.assess(real, np.zeros(len(real), bool), held, planted, rule, SETTINGS).false_alarms["rows"]
    assert row[1] >= 1 / len(held)
    assert row[2] <= row[1] <= row[3]


def test_an_image_that_cannot_be_measured_has_no_likelihood(real: Measures, rule: CopyRule) -> None:
    broken = real[:2].copy()
    broken[0, 3] = math.nan
    assert np.isnan(rule(broken)).tolist() == [True, False]
    assert rule(real[:0]).shape == (0,)


def test_false_alarms_are_counted_by_limits_of_other_patients(real: Measures, planted: Planted, rule: CopyRule) -> None:
    alike = np.argsort(copy_gate.scored(real, rule)[:, 0])[::-1]  # the most copy-like five of one patient: they may not set their own limit
    people = np.arange(len(real)) + 100
    people[alike[:5]] = 0
    held = real.copy()
    held[alike[:5]] = planted["exact"][0][:5]
    assessed = [copy_gate.assess(real, np.zeros(len(real), bool), held, planted, rule, SETTINGS, of) for of in (people, None)]
    (by_patient,), (by_image,) = (found.false_alarms["rows"] for found in assessed)
    assert by_patient[1] * len(real) >= 5 > by_image[1] * len(real)


def test_volumes_and_colour_images_are_searched_too() -> None:
    for channels, depth in ((1, 10), (3, 0)):
        train, _ = people(25, 4, side=16, channels=channels, depth=depth)
        gallery = Gallery.of(train)
        fresh = alignment.measures(gallery, people(8, 5, side=16, channels=channels, depth=depth)[0])
        assert fresh.shape == (8, len(MEASURES))
        assert np.isfinite(fresh).all()
        for family, measure in (("shifted", "aligned_correlation"), ("half", "patch")):
            made = copies.planted(train[:5], people(5, 6, side=16, channels=channels, depth=depth)[0], family, np.random.default_rng(0))
            found, place = alignment.measures(gallery, made), MEASURES.index(measure)
            assert (found[:, place] > np.quantile(fresh[:, place], 0.8)).mean() >= 0.8, family


@pytest.mark.parametrize("degrees", [20.0, -33.0, 45.0, 90.0, 110.0, 180.0])
def test_copies_that_were_turned_far_are_found(degrees: float, train: Images, gallery: Gallery, real: Measures, rule: CopyRule) -> None:
    draws = np.random.default_rng(3)
    turned = ndimage.rotate(train[:12] / 255, degrees, axes=(-2, -1), reshape=False, order=1, mode="nearest")
    made = np.rint(np.clip(turned + draws.normal(0, 0.02, turned.shape), 0, 1) * 255).astype(np.uint8)
    index, *_ = shortlist(gallery, grey(made), torch.full((12,), -1), 8)
    assert (index == torch.arange(12)[:, None]).any(1).sum() >= 11
    limits = copy_gate.limits_on(copy_gate.scored(real, rule), 0.01)
    assert copies.flagged(copy_gate.scored(alignment.measures(gallery, made), rule), limits).sum() >= 10


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_lies_outside_of_an_enlarged_copy_does_not_lead_its_registration_astray(dimensions: int) -> None:
    images = people(8, 5, side=36 if dimensions == 2 else 24, depth=24 if dimensions == 3 else 0)[0]
    copied, known = grey(copies.planted(images, images, "cropped", np.random.default_rng(0))), grey(images)
    every, still = torch.arange(8), torch.eye(dimensions, dimensions + 1)
    pairs = registration.Pairs(every, every, (1.3 * still).repeat(8, 1, 1), torch.ones(8, dimensions))
    laid = registration.laid(pairs, registration.smooth(copied), registration.smooth(known), registration.window(dimensions))
    assert ((laid.warp - 1.25 * still).abs().amax((1, 2)) * max(known.shape[2:]) / 2).median() < 0.35


def test_only_what_both_show_counts_unless_that_is_little() -> None:
    line = torch.linspace(-1, 1, 21)[:, None] * torch.tensor([[1.0, 0.0]])
    inside, half, little = within(torch.stack([line * 0.9, line + 0.5, line + 1.6]), (10, 10))
    assert inside.all()
    assert half.tolist() == [float(place <= 0.9) for place in (line[:, 0] + 0.5).tolist()]
    assert little.all()
    counts = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]])
    vectors = unit(torch.tensor([[1.0, 2, 3, 99], [1, 2, 3, 4]]), counts)
    assert torch.allclose(vectors[0], torch.tensor([-(0.5**0.5), 0, 0.5**0.5, 0]), atol=1e-6)
    assert torch.allclose(vectors[1], unit(torch.tensor([1.0, 2, 3, 4])))


def test_information_is_that_of_the_part_that_counts_alone() -> None:
    shape, draws = (30, 30), torch.Generator().manual_seed(0)
    count = detail.density(shape)
    query, known = torch.randn(2, 1, 4, count, count, generator=draws)
    known[..., : count // 2] += 2 * query[..., : count // 2]
    counts = torch.zeros(1, count, count)
    counts[..., : count // 2] = 1
    window = (count, count // 2)
    whole = detail.nats(Seen(query.flatten(2), known.flatten(2), counts.flatten(1)), shape, (count, count))
    left = detail.nats(Seen(query.flatten(2), known.flatten(2), torch.ones(1, count * count)), shape, window)[..., :1]
    assert torch.allclose(whole, left, rtol=1e-4)


def test_images_that_show_no_patient_are_no_copies(train: Images, gallery: Gallery, real: Measures, rule: CopyRule) -> None:
    draws = np.random.default_rng(7)
    white = draws.integers(0, 256, (20, 1, 24, 24)).astype(np.uint8)
    smooth = ndimage.gaussian_filter(draws.normal(size=(20, 1, 24, 24)), (0, 0, 1.5, 1.5))
    limits = copy_gate.limits_on(copy_gate.scored(real, rule), 0.01)
    for images in (white, np.rint((smooth / abs(smooth).max() + 1) * 127).astype(np.uint8), copies.strange(train[:20], draws)):
        assert copies.flagged(copy_gate.scored(alignment.measures(gallery, images), rule), limits).mean() <= 0.2


def test_a_quarter_turn_is_tried_on_square_images_only() -> None:
    square, oblong = (bank(2, square)[0] for square in (True, False))
    assert (square[:, 0, 0].abs() < 0.1).any()
    assert (oblong[:, 0, 0].abs() > 0.6).all()
    assert bank(3, True)[0].shape[1:] == (3, 4)


def test_a_bent_copy_is_straightened(train: Images, gallery: Gallery) -> None:
    images = grey(copies.planted(train[:8], train[:8], "strongly_warped", np.random.default_rng(0)))
    known, every = registration.smooth(images), torch.arange(8)
    smooth = registration.smooth(gallery.shown(every))
    pairs = registration.Pairs(every, every, torch.eye(2, 3).repeat(8, 1, 1), torch.ones(8, 2))
    laid = registration.laid(pairs, known, smooth, registration.window(2))
    straight = registration.bent(laid, known, smooth)
    at = registration.window(2)

    def alike(found: registration.Pairs) -> torch.Tensor:
        one, two = (unit(sampled(part, where)[:, 0]) for part, where in ((known[1], found.places(at)), (smooth[1], at.expand(8, -1, -1))))
        return (one * two).sum(1)

    assert (alike(straight) > alike(laid)).all()
    assert (1 - alike(straight)).mean() < 0.5 * (1 - alike(laid)).mean()


def test_noise_is_seen_in_fine_bands_only_and_a_half_in_its_window_only(train: Images) -> None:
    images = grey(train[:10])
    shape = images.shape[2:]
    whole, halves = detail.windows(shape)[0], detail.windows(shape)[2:]
    at = detail.lattice(shape).expand(10, -1, -1)

    def read(stored: torch.Tensor) -> torch.Tensor:
        return sampled(detail.bands(stored), at)

    noisy = read(grey(copies.planted(train[:10], train[:10], "heavy_grain", np.random.default_rng(0))))
    everywhere = torch.ones(10, at.shape[1])
    found = detail.correlations(Seen(noisy, read(images), everywhere), shape, whole)[0][..., 0].mean(0)
    assert found[0] > 0.98
    assert found[0] > found[1] > found[3]
    half = read(grey(copies.planted(train[:10], people(10, 9)[0], "half", np.random.default_rng(0))))
    seen = Seen(half, read(images), everywhere)
    all_of_it = detail.nats(seen, shape, whole).sum(1)[:, 0]
    left = torch.stack([detail.nats(seen, shape, size).sum(1).amax(1) for size in halves])
    assert (left.amax(0) > all_of_it).all()


def test_a_region_of_a_training_image_in_another_image_has_its_votes(train: Images, gallery: Gallery) -> None:
    made = grey(copies.planted(train[:10], people(10, 9)[0], "half", np.random.default_rng(0)))
    ranking = gallery.patches.rank(made, gallery.groups, torch.full((10,), -1), 6, 6)
    assert (ranking.single == torch.arange(10)[:, None]).any(1).float().mean() >= 0.9


def test_flat_images_have_measures_and_break_nothing(gallery: Gallery) -> None:
    measures = alignment.measures(gallery, np.zeros((2, 1, 24, 24), np.uint8))
    assert measures.shape == (2, len(MEASURES))
    assert np.isfinite(measures).all()
    assert alignment.measures(gallery, np.zeros((0, 1, 24, 24), np.uint8)).shape == (0, len(MEASURES))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 10, 26, 26)])
def test_every_family_alters_its_images_as_drawn(shape: tuple[int, ...]) -> None:
    draws = np.random.default_rng(0)
    images, others = draws.integers(0, 256, (2, 4, *shape)).astype(np.uint8)
    for family in copies.FAMILIES:
        made = copies.planted(images, others, family, np.random.default_rng(1))
        assert made.dtype == np.uint8
        assert made.shape == images.shape
        assert (family == "exact") == bool((made == images).all())
        assert (made == copies.planted(images, others, family, np.random.default_rng(1))).all()
    assert (copies.practised(images, others, np.random.default_rng(2)) == copies.practised(images, others, np.random.default_rng(2))).all()
    assert (copies.strange(images, np.random.default_rng(2)) == copies.strange(images, np.random.default_rng(2))).all()
    assert copies.strange(images, draws).shape == images.shape
    with pytest.raises(ValueError, match="no family of copies 'swirled'"):
        copies.planted(images, others, "swirled", draws)
