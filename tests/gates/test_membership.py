"""Membership: that the attacks find what is there, claim nothing that is not, and judge the model that made the cohort."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders_diffusion import small
from builders_gates import CLASSES, dataset
from sklearn.metrics import roc_auc_score

from medpipe.cohort.generate import generate
from medpipe.diffusion.train import train
from medpipe.errors import InputError
from medpipe.gates import attack, membership, membership_gate
from medpipe.gates.validate import made_from, validate
from medpipe.images.dataset import Dataset
from medpipe.records import Record

GATES = {"resamples": 20, "feature_images": 256, "utility_images": 256, "utility_seeds": 1, "curve_shares": []}
MANY = {"images": 6_400, "batch": 32, "learning_rate": 0.003, "state_images": 6_400, "preview_images": 0}
ONCE = {"images": 64, "batch": 32, "state_images": 64, "preview_images": 0}


def test_the_strength_of_an_attack_is_its_auc_and_the_share_found_at_few_false_alarms() -> None:
    draws = np.random.default_rng(0)
    members, others = draws.normal(1, 1, 300).round(1), draws.normal(0, 1, 200).round(1)  # with ties
    found = attack.strength(members, others)
    assert found.auc == pytest.approx(roc_auc_score([1] * 300 + [0] * 200, np.concatenate([members, others])))
    assert found.low < found.auc < found.high
    at_one, at_tenth = found.at
    assert at_tenth is None, "200 others cannot show 0.1 %"
    assert at_one is not None
    limit = np.sort(others)[-3]
    assert at_one[0] == pytest.approx((members > limit).mean())
    assert at_one[1] < at_one[0] < at_one[2]
    assert attack.strength(members, others[:60]).at == (None, None)
    assert np.isnan(attack.strength(members[:0], others).auc)
    assert np.isnan(attack.strength(np.array([np.nan, 1.0]), others).auc)


def test_the_interval_holds_the_truth_and_chance_is_what_ignorance_reaches() -> None:
    draws = np.random.default_rng(1)
    truth = 0.76025  # of two normal distributions one standard deviation apart: Φ(1/√2)
    held, lucky = 0, 0
    for _ in range(200):
        found = attack.strength(draws.normal(1, 1, 120), draws.normal(0, 1, 60))
        held += found.low <= truth <= found.high
        lucky += attack.strength(draws.normal(0, 1, 120), draws.normal(0, 1, 60)).auc > attack.chance(120, 60)
    assert 0.9 <= held / 200 <= 0.99
    assert 0.005 <= lucky / 200 <= 0.05


def test_what_makes_an_image_easy_is_not_taken_for_membership() -> None:
    draws = np.random.default_rng(2)
    members = np.arange(400) < 250
    hardness = draws.normal(0, 1, (400, 3))
    scores = (hardness @ [2.0, -1.0, 0.5] + 0.4 * members + draws.normal(0, 0.15, 400))[:, None]
    fold = attack.folds(members, draws)
    relative = attack.calibrated(scores, hardness, members, fold)
    assert roc_auc_score(members, scores[:, 0]) < 0.65
    assert roc_auc_score(members, relative[:, 0]) > 0.95
    logit = attack.combined(np.concatenate([scores, relative, hardness], 1), members, fold)
    assert roc_auc_score(members, logit) > 0.9


def test_an_attacker_who_has_nothing_is_at_chance_on_what_he_did_not_learn_from() -> None:
    found = []
    for number in range(20):
        draws = np.random.default_rng(number)
        members = np.arange(410) < 350
        logit = attack.combined(draws.normal(0, 1, (410, 14)), members, attack.folds(members, draws))
        found.append(roc_auc_score(members, logit))
    assert abs(np.mean(found) - 0.5) < 0.03
    assert max(found) < attack.chance(350, 60) + 0.1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Record:
    draws = np.random.default_rng(0)

    def people(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = draws.integers(0, 2, n)
        images = 0.25 + 0.5 * labels.reshape(-1, 1, 1, 1) + draws.normal(0, 0.1, (n, 1, 8, 8))
        return np.rint(images.clip(0, 1) * 255).astype(np.uint8), labels

    parts = {name: people(n) for name, n in (("train", 64), ("validation", 16), ("holdout", 64), ("test", 40))}
    return dataset(tmp_path_factory.mktemp("members") / "dataset", parts, CLASSES)


@pytest.fixture(scope="module")
def trained(source: Record, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    folder = tmp_path_factory.mktemp("models")
    return {name: train(source.path, folder / name, small(train=how)) for name, how in (("many", MANY), ("once", ONCE))}


def judged(model: Record, source: Record) -> membership_gate.Found:
    data, attacked = Dataset.open(source.path), membership.Attacked(model.path)
    rows = membership.chosen(data.rows("train"), data.rows("holdout"), 512, 0)
    scores = [attacked.scores(*attacked.seen(data, chosen), chosen.tolist(), 0) for chosen in rows.values()]
    hard = [np.zeros((len(part), 1)) for part in scores]
    return membership_gate.assess(membership_gate.MODEL, membership_gate.Evidence(membership.SCORES, *scores, *hard), {}, 0.1, 0)


def test_a_model_that_saw_few_images_many_times_is_failed_and_one_that_saw_them_once_is_not(
    trained: dict[str, Record], source: Record
) -> None:
    (many,), (once,) = judged(trained["many"], source).verdicts, judged(trained["once"], source).verdicts
    assert not many.passed
    assert many.value > once.value + 0.1
    assert once.passed
    assert once.value < once.bound


def test_the_scores_of_an_image_do_not_depend_on_its_company(trained: dict[str, Record], source: Record) -> None:
    data, attacked = Dataset.open(source.path), membership.Attacked(trained["once"].path)
    rows = data.rows("train")[:5]
    images, asked = attacked.seen(data, rows)
    whole = attacked.scores(images, asked, rows.tolist(), 0)
    alone = np.concatenate([attacked.scores(images[k : k + 1], asked[k : k + 1], [int(rows[k])], 0) for k in range(5)])
    assert np.allclose(whole, alone, atol=1e-4)
    assert not np.allclose(whole, attacked.scores(images, asked, rows.tolist(), 1), atol=1e-4), "the noise is not the seed's"
    assert torch.equal(membership.noise(images, [1, 2, 3, 4, 5], 0)[2:], membership.noise(images[2:], [3, 4, 5], 0))


def test_copies_of_members_in_a_cohort_are_told_by_the_cohort_alone() -> None:
    draws = np.random.default_rng(3)

    def raw(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"texture": images, "pixels": images}

    members, others, fresh = draws.normal(0, 1, (200, 12)), draws.normal(0, 1, (100, 12)), draws.normal(0, 1, (300, 12))
    near = np.concatenate([members + draws.normal(0, 0.3, members.shape), fresh[:100]])
    hard = {name: np.ones(200) for name in ("mean", "spread", "detail")}
    statistics = {"members": hard, "others": {name: values[:100] for name, values in hard.items()}}
    rows = {"members": np.arange(200), "others": np.arange(100)}
    for cohort, passes in ((fresh, True), (near, False)):
        evidence = membership_gate.by_cohort({"members": raw(members), "others": raw(others), "cohort": raw(cohort)}, statistics, rows)
        (verdict,) = membership_gate.assess(membership_gate.COHORT, evidence, {}, 0.1, 0).verdicts
        assert verdict.passed is passes, str(verdict)


def test_too_few_held_out_images_certify_nothing() -> None:
    few = membership_gate.Evidence(["a"], np.zeros((100, 1)), np.zeros((20, 1)), np.zeros((100, 1)), np.zeros((20, 1)))
    (verdict,) = membership_gate.assess(membership_gate.MODEL, few, {}, 0.5, 0).verdicts
    assert not verdict.passed
    assert "fewer than 50" in verdict.meaning


def test_a_small_group_is_listed_and_a_large_one_measured() -> None:
    draws = np.random.default_rng(4)
    evidence = membership_gate.Evidence(["a"], *(draws.normal(0, 1, (n, 1)) for n in (120, 80, 120, 80)))
    halves = {"sex F": (np.arange(120) < 60, np.arange(80) < 45), "site Z": (np.arange(120) < 6, np.arange(80) < 4)}
    found = membership_gate.assess(membership_gate.MODEL, evidence, halves, 0.1, 0)
    assert [row[0] for row in found.tables[0]["rows"] if ": " in row[0]] == ["all together: sex F"]
    assert "site Z" in found.gaps[0][1]


def test_a_checkpoint_that_made_another_cohort_is_refused(trained: dict[str, Record], source: Record, tmp_path: Path) -> None:
    recipe = small(gates=GATES)
    cohort = generate(trained["once"].path, tmp_path / "cohort", small()).path
    with pytest.raises(InputError, match="was not made by the Checkpoint"):
        validate(cohort, source.path, tmp_path / "report", recipe, checkpoint=trained["many"].path)
    assert not (tmp_path / "report" / "record.json").exists()
    assert made_from(cohort, source.path, recipe, trained["once"].path).inputs["checkpoint"] == trained["once"].content
    assert "checkpoint" not in made_from(cohort, source.path, recipe).inputs


@pytest.mark.slow
def test_a_report_shows_the_attacks_on_the_model_its_canaries_and_that_no_privacy_was_bounded(source: Record, tmp_path: Path) -> None:
    model = train(source.path, tmp_path / "model", small(train=ONCE | {"canaries": 10}))
    cohort = generate(model.path, tmp_path / "cohort", small()).path
    report = validate(cohort, source.path, tmp_path / "report", small(gates=GATES), checkpoint=model.path)
    text = json.loads((report.path / "report.json").read_text())
    assert {"membership_model", "membership_cohort"} <= {verdict["name"] for verdict in text["verdicts"]}
    titles = [table["title"] for table in text["tables"]]
    assert [title for title in titles if "trained on" in title or "Canaries" in title] == [
        "Who was trained on: attacks on the model",
        "Canaries: how much is given away of planted outliers",
        "Who was trained on: attacks on the cohort alone",
    ]
    gaps = [gap["what"] for gap in text["not_assessed"]]
    assert "membership inference on the model" not in gaps
    assert "differential privacy" in gaps


def test_a_guarantee_is_shown_with_what_it_does_not_cover(trained: dict[str, Record]) -> None:
    told = {"unit": "patient", "epsilon": 3.0, "delta": 1e-5, "noise": 1.1, "clip": 1.0, "steps": 70, "not_covered": "the classes"}
    private = dataclasses.replace(trained["once"], facts={**trained["once"].facts, "privacy": told})
    (table,) = membership_gate.guarantee(private).tables
    assert table["rows"][0] == ["ε", 3.0]
    assert "the classes" in table["sentence"]
    assert membership_gate.guarantee(trained["once"]).gaps[0][0] == "differential privacy"
    assert membership_gate.guarantee(None) == membership_gate.Found()
