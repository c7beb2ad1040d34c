"""Disclosure control: rare combinations are hidden, attacks on the table find a table that was copied, patients are re-identified."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe import identifiers
from medpipe.gates import disclosure, distributions, reidentification, singling_out, table_attacks
from medpipe.settings import GatesSettings

COVARIATES = [
    {"name": "age", "kind": "continuous"},
    {"name": "sex", "kind": "categorical", "values": ["F", "M"]},
    {"name": "site", "kind": "categorical", "values": ["a", "b", "c"]},
]
CLASSES = ["clear", "shadow"]
GATES = GatesSettings()


def people(n: int, seed: int) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    table = pd.DataFrame({"row": range(n), "id": [f"S{k:06d}" for k in range(n)], "patient": [f"P{seed}-{k}" for k in range(n)]})
    table["label"] = draws.choice(CLASSES, n)
    table["age"] = draws.normal(55, 15, n).round(1)
    table["sex"] = draws.choice(["F", "M"], n)
    table["site"] = draws.choice(["a", "b", "c"], n, p=[0.6, 0.36, 0.04])
    return table


def sharing(real: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """The training rows that have what is told of a synthetic subject, counted the plain way."""
    here = pd.Series(True, index=real.index)
    for name in ("sex", "site"):
        here &= (real[name] == row[name]) | pd.isna(row[name])
    if not math.isnan(row["age"]):
        bands = [-math.inf, *disclosure.AGE_BANDS, math.inf]
        low, high = next((low, high) for low, high in pairwise(bands) if low <= row["age"] < high)
        here &= (real["age"] >= low) & (real["age"] < high)
    return real[here]


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000), st.integers(40, 250))
def test_what_is_told_of_a_subject_is_shared_by_enough_patients_of_several_classes(seed: int, n: int) -> None:
    real, made = people(n, seed), people(30, seed + 1)
    found = disclosure.assess(real, made, COVARIATES, CLASSES, GATES)
    told = disclosure.without(made, found.hidden)
    for _, row in told.iterrows():
        shared = sharing(real, row)
        assert shared["patient"].nunique() >= 11
        assert shared["label"].nunique() >= 2
    assert all(verdict.passed for verdict in found.verdicts)


def test_only_what_is_rare_is_hidden_and_images_of_one_patient_count_once() -> None:
    real, made = people(400, 1), people(60, 2)
    rare = made["site"] == "c"
    told = disclosure.without(made, disclosure.assess(real, made, COVARIATES, CLASSES, GATES).hidden)
    common = made["age"].between(40, 65, inclusive="left") & ~rare
    assert told.loc[common].equals(made.loc[common])
    assert told.loc[rare & made["age"].between(18, 80), ["age", "site"]].isna().any(axis=1).all()
    one = real.assign(patient=[f"P{k % 8}" for k in range(400)])
    assert disclosure.assess(one, made, COVARIATES, CLASSES, GATES).hidden == ["age,sex,site"] * 60
    assert not disclosure.assess(one, made, COVARIATES, CLASSES, GATES).verdicts[1].passed, "eight patients are too few for any release"


def test_a_covariate_that_tells_the_class_is_hidden() -> None:
    real, made = people(400, 1), people(60, 2)
    real.loc[real["site"] == "b", "label"] = "shadow"
    found = disclosure.assess(real, made, COVARIATES, CLASSES, GATES)
    told = disclosure.without(made, found.hidden)
    assert not (told["site"] == "b").any()
    assert (told["site"] == "a").any()
    loose = disclosure.assess(real, made, COVARIATES, CLASSES, GatesSettings(diversity_min=1))
    assert (disclosure.without(made, loose.hidden)["site"] == "b").any()


def test_without_covariates_it_is_said_that_there_are_none() -> None:
    found = disclosure.assess(people(50, 1), people(20, 2), [], CLASSES, GATES)
    assert found.hidden == []
    assert [gap["what"] for gap in found.gaps] == ["disclosure by covariates"]


@pytest.mark.parametrize(
    "text",
    ["1.2.840.10008.1.2", "2024-03-01", "1.3.2024", "20240301", "a.b@c.org", "Doe^Jane", "+49 761 1234567", "MRN-0012345", "4711123"],
)
def test_what_looks_like_an_identifier_is_found(text: str) -> None:
    assert identifiers.looks_like(text) is not None
    made = people(5, 1)
    made.loc[2, "site"] = text
    verdict = disclosure.assess(people(50, 1), made, COVARIATES, CLASSES, GATES).verdicts[0]
    assert (verdict.name, verdict.passed, verdict.value) == ("disclosure_identifiers", False, 1)
    assert text not in verdict.meaning


@pytest.mark.parametrize("text", ["normal", "site-k4xq", "scanner-a25q", "F", "BI-RADS 4", "T2 FLAIR", "pneumonia", "64.5", "1.0.0"])
def test_ordinary_words_are_no_identifiers(text: str) -> None:
    assert identifiers.looks_like(text) is None


def attacked(made: int, n: int = 300) -> list[table_attacks.Attack]:
    train, control, cohort = (people(n, k).assign(weight=np.random.default_rng(k).normal(70, 12, n)) for k in (1, 2, made))
    columns = {"age": True, "weight": True, "sex": False, "site": False}
    return table_attacks.run(*table_attacks.tables((train, control, cohort), columns), list(columns), 0)


def test_a_table_drawn_anew_brings_no_risk_and_a_copied_one_does() -> None:
    fresh, copied = attacked(3), attacked(1)
    for found, leaks in ((fresh, False), (copied, True)):
        kinds = {attack.kind for attack in found}
        assert kinds == {"singling_out", "linkability", "inference"}
        worst = {kind: max(a.risk(4)[0] for a in found if a.kind == kind) for kind in kinds}
        assert (worst["singling_out"] > 0.3) is leaks
        assert (worst["linkability"] > 0.1) is leaks
        low = max(a.risk(4)[1] for a in found if a.kind == "singling_out")
        assert (low > GATES.disclosure_risk_max) is leaks
    verdicts, _, _ = table_attacks.assess(copied, GATES.disclosure_risk_max)
    assert "disclosure_singling_out" in [verdict.name for verdict in verdicts if not verdict.passed]


def test_whom_singling_out_is_compared_with_counts_in_its_interval() -> None:
    """With 60 of 160 patients held out, the share that is isolated varies as it does among fresh sixties, which tries alone do not say."""
    columns = {"age": True, "sex": False, "site": False}
    tables = table_attacks.tables([people(n, k) for k, n in enumerate((100, 60, 500, 20_000))], columns)
    train, control, cohort, others = tables
    attack = next(a for a in table_attacks.run(train, control, cohort, list(columns), 0) if a.what == "several columns")
    boxes = singling_out._boxes(cohort.values, cohort.continuous, (2, 3), np.random.default_rng(0))
    inside, draws = singling_out._inside(boxes, others.values), np.random.default_rng(1)
    fresh = float(np.std([singling_out._alone(inside[:, draws.permutation(20_000)[:60]]) for _ in range(300)]))
    assert attack.by_group == pytest.approx(fresh, rel=0.35)
    risk, low, high = attack.risk(2)
    alone = dataclasses.replace(attack, by_group=0.0).risk(2)
    assert alone[0] == pytest.approx(risk)
    assert low < alone[1] < alone[2] < high


def test_few_patients_certify_nothing_and_many_do() -> None:
    def attack(n: int, hits: float, control: float) -> list[table_attacks.Attack]:
        return [table_attacks.Attack("inference", "sex", hits, n, control, n, 0.1)]

    few, many, leaking = ([*table_attacks.assess(attack(*of), 0.1)] for of in ((50, 0.2, 0.2), (5000, 0.2, 0.2), (50, 0.9, 0.2)))
    assert few[0] == []
    assert any("Too few patients" in gap["why"] for gap in few[2])
    assert [(verdict.name, verdict.passed) for verdict in many[0]] == [("disclosure_inference", True)]
    assert [(verdict.name, verdict.passed) for verdict in leaking[0]] == [("disclosure_inference", False)]


def faces(patients: int, images: int, seed: int, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Features of several images of each patient: who it is, and what differs from image to image."""
    draws = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), images)
    own = np.where(np.arange(40) < 20, 1.0, 0.0) * draws.normal(size=(patients, 40))
    return own[who] + draws.normal(0, spread, (patients * images, 40)), who


def test_a_verifier_finds_other_images_of_training_patients_and_lets_strangers_pass() -> None:
    (all_train, who), (held, held_who), (strangers, _) = faces(80, 4, 1), faces(40, 3, 2), faces(150, 1, 3)
    known = np.arange(len(who)) % 4 > 0  # a fourth image of each patient was never in the training split
    results = {}
    for what, made in (("strangers", strangers), ("patients", np.concatenate([strangers, all_train[~known]]))):
        scores = reidentification.measure(all_train[known], who[known], held, held_who, made, 0)
        results[what] = reidentification.assess(scores, GATES)
    assert results["strangers"].verdict is not None
    assert results["strangers"].verdict.passed
    assert results["patients"].verdict is not None
    assert not results["patients"].verdict.passed
    assert results["patients"].table is not None
    assert results["patients"].table["rows"][1][1] > 0.95


def test_a_verifier_that_cannot_tell_patients_apart_gives_no_verdict() -> None:
    (train, who), (held, held_who), (made, _) = (faces(80, 4, seed, spread=30) for seed in (1, 2, 3))
    found = reidentification.assess(reidentification.measure(train, who, held, held_who, made, 0), GATES)
    assert found.verdict is None
    assert "too weak" in str(found.gap)


def test_where_patients_have_one_image_or_are_not_known_it_says_why() -> None:
    ones, several = [f"P{k}" for k in range(60)], [f"P{k // 2}" for k in range(60)]
    assert "one image of each patient" in str(reidentification.unfit(ones, ones, "patient"))
    assert "blocks" in str(reidentification.unfit(several, several, "blocks"))
    assert "Too few" in str(reidentification.unfit(several, ones, "patient"))
    assert reidentification.unfit(several, several, "given") is None


@given(st.lists(st.integers(0, 60), min_size=2, max_size=8))
def test_no_total_tells_a_hidden_count(counts: list[int]) -> None:
    shown = distributions.suppressed(counts, 11)
    hidden = [count for count, cell in zip(counts, shown, strict=True) if cell is None]
    assert all(cell is None or cell == 0 or cell >= 11 for cell in shown)
    if hidden and any(shown):
        assert len(hidden) > 1
        assert sum(hidden) >= 11
