"""The gates' own test: each fault is what it says, strong faults are rejected, and an ideal cohort is not."""

from __future__ import annotations

import numpy as np
import pytest
from builders_gates import CLASSES, people

from medpipe.gates import features, fidelity, selftest, spectrum
from medpipe.gates.frozen import STATISTIC, Frozen, Part, freeze
from medpipe.settings import GatesSettings

SETTINGS = GatesSettings(resamples=20)


class Space:
    """Train and holdout of one population, embedded once; the holdout halved."""

    def __init__(self) -> None:
        images, labels = people(300, 1)
        self.weights = features.train(images, labels, len(CLASSES), budget=2000, seed=0)
        self.images, self.labels = people(240, 2)
        self.spoiled, judge = selftest.halves(self.labels, np.random.default_rng(0))
        train, held = self.part(images, labels), self.part(self.images[judge], self.labels[judge])
        self.frozen = freeze(train, held, len(self.spoiled), CLASSES, [], SETTINGS, selftest.RESAMPLES, 0)
        self.train = self.frozen.sample(train)

    def part(self, images: np.ndarray, labels: np.ndarray) -> Part:
        raw = features.raw(images, self.weights, 0) | {"spectrum": spectrum.radial_power(images)}
        return Part(raw | {STATISTIC + name: values for name, values in fidelity.statistics(images).items()}, labels)

    def rejected_by(self, fault: str) -> list[str]:
        images, labels = self.images[self.spoiled], self.labels[self.spoiled]
        if fault == selftest.COPIES:
            images, labels = (values[: len(self.spoiled)] for values in people(300, 1))
        images, labels = selftest.spoil(images, labels, fault, np.random.default_rng(1))
        return selftest.rejected_by(self.frozen, self.train, self.frozen.sample(self.part(images, labels)), len(CLASSES), SETTINGS, 0)


@pytest.fixture(scope="module")
def space() -> Space:
    return Space()


def test_the_ideal_cohort_is_accepted_and_every_required_fault_rejected(space: Space) -> None:
    assert space.rejected_by(selftest.IDEAL) == []
    rows = selftest.table({fault: space.rejected_by(fault) for fault, required in selftest.FAULTS.items() if required})
    verdict = selftest.assess(rows, 120)
    assert verdict is not None
    assert verdict.passed, verdict.meaning


@pytest.mark.parametrize("counts", [(57, 44, 22), (1, 60, 0), (50, 51, 3)])
def test_halves_have_the_same_classes_and_share_no_image(counts: tuple[int, ...]) -> None:
    strata = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], counts))
    for seed in range(20):
        spoiled, judge = selftest.halves(strata, np.random.default_rng(seed))
        assert sorted([*spoiled, *judge]) == list(range(len(strata)))
        assert len(spoiled) == len(strata) // 2
        assert abs(np.bincount(strata[spoiled], minlength=3) - np.bincount(strata[judge], minlength=3)).max() <= 1


def test_no_patient_is_in_both_halves_and_classes_are_shared_as_nearly_as_whole_patients_allow() -> None:
    draws = np.random.default_rng(1)
    sizes = draws.integers(1, 14, 40)
    patients, strata = np.repeat(np.arange(40), sizes), np.repeat(draws.integers(0, 3, 40), sizes)
    for seed in range(20):
        spoiled, judge = selftest.halves(strata, np.random.default_rng(seed), patients)
        assert sorted([*spoiled, *judge]) == list(range(len(strata)))
        assert not set(patients[spoiled]) & set(patients[judge])
        assert len(spoiled) <= len(judge)
        assert abs(np.bincount(strata[spoiled], minlength=3) - np.bincount(strata[judge], minlength=3)).max() <= 2


def test_halves_of_patients_with_images_of_several_classes_have_the_same_classes() -> None:
    patients = np.repeat(np.arange(30), 4)
    strata = np.random.default_rng(2).integers(0, 2, 120)
    spoiled, judge = selftest.halves(strata, np.random.default_rng(0), patients)
    assert not set(patients[spoiled]) & set(patients[judge])
    assert abs(np.bincount(strata[spoiled]) - np.bincount(strata[judge])).max() <= 4
    assert [len(half) for half in selftest.halves(strata[:0], np.random.default_rng(0))] == [0, 0]


def test_an_ideal_half_of_a_small_holdout_is_judged_and_not_called_bad_for_want_of_images(space: Space) -> None:
    images, labels = people(101, 5)
    for seed in range(5):
        spoiled, judge = selftest.halves(labels, np.random.default_rng(seed))
        train, held = space.part(*people(300, 1)), space.part(images[judge], labels[judge])
        frozen = freeze(train, held, len(spoiled), CLASSES, [], SETTINGS, selftest.RESAMPLES, 0)
        cohort = frozen.sample(space.part(images[spoiled], labels[spoiled]))
        assert frozen.baseline.size_for(cohort)[0] > 0


def _rejected(space: Space, labels: np.ndarray, seed: int, kept: slice = slice(None)) -> tuple[Frozen, list[str]]:
    """Judge a half of held-out images of the classes `labels` by the other half: return the yardstick, and the gates that reject it."""
    images, _ = people(len(labels), 5)
    spoiled, judge = selftest.halves(labels, np.random.default_rng(seed))
    train, held = space.part(*people(300, 1)), space.part(images[judge], labels[judge])
    train.strata[:] = np.resize([0, 0, 0, 1, 1, 1, 2, 3, -1], 300) if labels.max() >= 0 else -1
    frozen = freeze(train, held, len(spoiled), ["normal", "opacity", "rare", "rarer"], [], SETTINGS, selftest.RESAMPLES, 0)
    cohort = frozen.sample(space.part(images[spoiled][kept], labels[spoiled][kept]))
    return frozen, selftest.rejected_by(frozen, frozen.sample(train), cohort, 4, SETTINGS, 0)


@pytest.mark.parametrize(("rare", "count"), [(-1, 3), (-1, 1), (2, 3), (2, 1), (3, 2)])
def test_a_few_images_without_a_class_or_of_a_rare_one_do_not_keep_an_ideal_half_from_being_judged(
    space: Space, rare: int, count: int
) -> None:
    labels = np.random.default_rng(2).permutation(np.repeat([0, 1, rare], (57, 44 - count, count)))
    for seed in range(3):
        frozen, gates = _rejected(space, labels, seed)
        assert selftest.UNCERTIFIABLE not in gates
        assert (rare in frozen.baseline.shares) == (rare >= 0)


def test_images_that_all_lack_a_class_are_compared_without_classes(space: Space) -> None:
    frozen, gates = _rejected(space, np.full(101, -1), 0)
    assert frozen.baseline.shares == {-1: 1.0}
    assert selftest.UNCERTIFIABLE not in gates


def test_a_cohort_that_lacks_most_of_a_frequent_class_cannot_be_certified(space: Space) -> None:
    _, gates = _rejected(space, np.repeat([0, 1], (51, 50)), 0, slice(0, 26))
    assert gates[0] == selftest.UNCERTIFIABLE
    assert not set(gates) & {"frechet", "kid", "precision"}


@pytest.mark.parametrize("fault", [name for name in selftest.FAULTS if "swapped" not in name and name != selftest.COPIES])
def test_each_fault_alters_the_images_or_their_number(fault: str) -> None:
    images, labels = people(60, 3)
    made, strata = selftest.spoil(images, labels, fault, np.random.default_rng(0))
    assert made.dtype == images.dtype
    assert len(made) == len(strata)
    assert made.shape != images.shape or (made != images).any()


def test_swapped_labels_leave_the_images_and_no_label_as_it_was() -> None:
    images, labels = people(30, 3)
    labels[0] = -1
    made, swapped = selftest.spoil(images, labels, "labels swapped", np.random.default_rng(0))
    assert (made == images).all()
    assert swapped[0] == -1
    assert (swapped[1:] != labels[1:]).all()
    _, some = selftest.spoil(images, labels, "20 % of labels swapped", np.random.default_rng(0))
    assert 0 < (some != labels).sum() < 15


def test_swapped_labels_and_training_images_are_seen_by_the_gates_that_are_there_for_them(space: Space) -> None:
    assert "condition_label" in space.rejected_by("20 % of labels swapped")
    assert space.rejected_by(selftest.COPIES) == ["too_good"]


def test_gates_that_let_a_required_fault_pass_fail_themselves() -> None:
    rows = selftest.table({"ideal": [], "blur 1 px": ["frechet"], "noise 6 %": [], "noise 2 %": []})
    verdict = selftest.assess(rows, 100)
    assert verdict is not None
    assert not verdict.passed
    assert verdict.value == 0.5
    assert "noise 6 %" in verdict.meaning


def test_a_gate_that_rejects_the_ideal_cohort_too_has_seen_nothing() -> None:
    rows = selftest.table({"ideal": ["frechet", "kid"], "blur 1 px": ["frechet", "kid"], "noise 6 %": ["kid", "mmd"]})
    verdict = selftest.assess(rows, 100)
    assert verdict is not None
    assert verdict.value == 0.5
    assert "blur 1 px" in verdict.meaning


def test_a_holdout_too_small_to_halve_is_not_tried_and_faults_of_classes_need_classes() -> None:
    assert selftest.applicable(2, 2 * selftest.HALF_MIN - 1) == []
    assert selftest.assess([], 0) is None
    without = selftest.applicable(0, 200)
    assert selftest.IDEAL in without
    assert not set(selftest.LABELLED) & set(without)


def test_volumes_and_sixteen_bits_are_spoiled_too() -> None:
    images = np.random.default_rng(0).integers(0, 65536, (8, 1, 6, 6, 6)).astype(np.uint16)
    for fault in selftest.FAULTS:
        made, _ = selftest.spoil(images, np.arange(8) % 2, fault, np.random.default_rng(0))
        assert made.dtype == np.uint16
        assert made.shape[1:] == images.shape[1:]


def test_a_few_odd_images_are_withheld_and_do_not_decide_what_the_rest_is_compared_by(space: Space) -> None:
    """They move a distance between distributions more than all others do; a tenth of them is too many, and then they count."""
    images, labels = space.images[space.spoiled].copy(), space.labels[space.spoiled]
    odd = np.random.default_rng(0).integers(0, 2, images.shape).astype(np.uint8) * 255
    found = {}
    for count in (1, 3, 16):
        made = np.concatenate([odd[:count], images[count:]])
        found[count] = selftest.rejected_by(
            space.frozen, space.train, space.frozen.sample(space.part(made, labels)), len(CLASSES), SETTINGS, 0
        )
    assert found[1] == found[3] == []
    assert {"outliers", "frechet_texture", "frechet_spectrum"} <= set(found[16])
