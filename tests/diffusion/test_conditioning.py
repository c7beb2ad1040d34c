"""Conditions: encoding, hiding and drawing."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch

from medpipe.diffusion.conditioning import COMBINATION_MIN, Conditions, draw, fit, shown, width
from medpipe.errors import InputError

CLASSES = ["a", "b", "never"]
COVARIATES = [{"name": "age", "kind": "continuous"}, {"name": "sex", "kind": "categorical", "values": ["F", "M"]}]


@pytest.fixture
def table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"label": generator.choice(["a", "b"], 200, p=[0.9, 0.1]), "sex": generator.choice(["F", "M"], 200)})
    frame["age"] = np.where(frame["label"] == "a", generator.normal(30, 3, 200), generator.normal(70, 3, 200))
    frame.loc[0, "age"], frame.loc[1, "sex"] = np.nan, None
    return frame


@pytest.fixture
def conditions(table: pd.DataFrame) -> Conditions:
    return fit(table, CLASSES, COVARIATES)


def test_a_row_is_its_values_then_its_presence_flags(conditions: Conditions) -> None:
    mean, sd = conditions.items[1].mean, conditions.items[1].sd
    vector = conditions.encode(pd.DataFrame({"label": ["b"], "age": [mean + sd], "sex": ["M"]}))
    torch.testing.assert_close(vector, torch.tensor([[0, 1, 0, 1, 0, 1, 1, 1, 1]], dtype=torch.float32))


def test_a_missing_value_is_zeros_with_its_flag_down(conditions: Conditions) -> None:
    vector = conditions.encode(pd.DataFrame({"label": ["a"], "age": [np.nan], "sex": [None]}))
    assert vector.tolist() == [[1, 0, 0, 0, 0, 0, 1, 0, 0]]


def test_a_value_that_training_never_saw_is_refused_without_naming_it(conditions: Conditions) -> None:
    with pytest.raises(InputError, match="label has 1 value"):
        conditions.encode(pd.DataFrame({"label": ["secret"], "age": [1.0], "sex": ["F"]}))


def test_a_value_that_no_training_image_has_is_refused_or_hidden(conditions: Conditions) -> None:
    never = pd.DataFrame({"label": ["never", "a"], "age": [np.nan, np.nan], "sex": ["F", None]})
    with pytest.raises(InputError, match=r"label has 1 value.*use a, b"):
        conditions.encode(never)
    hidden = conditions.encode(never, unseen="hide")
    assert hidden[0].tolist() == conditions.encode(never.assign(label=None))[0].tolist()
    assert hidden[1].tolist() == conditions.encode(never.iloc[1:])[0].tolist()


def test_only_the_classes_asked_for_are_drawn_and_one_that_training_never_saw_is_refused(conditions: Conditions) -> None:
    assert set(draw(conditions, 50, "as_trained", np.random.default_rng(0), ["b"])["label"]) == {"b"}
    for name in ("never", "c"):
        with pytest.raises(InputError, match=f"'{name}', which no training image shows: use a, b"):
            draw(conditions, 50, "balanced", np.random.default_rng(0), ["a", name])
    with pytest.raises(InputError, match="use none"):
        draw(fit(pd.DataFrame({"label": [None, None]}), [], []), 5, "as_trained", np.random.default_rng(0), ["a"])


def test_the_width_is_known_before_the_images_are_read(conditions: Conditions) -> None:
    assert width(CLASSES, COVARIATES) == conditions.width
    assert width([], []) == 0


def test_hiding_removes_whole_conditions_as_often_as_asked(conditions: Conditions) -> None:
    vector = torch.ones(4000, conditions.width)
    hidden = conditions.hide(vector, shown(4000, 0.2, [0.25] * 3, torch.Generator().manual_seed(0)))
    assert (hidden.sum(dim=1) == 0).float().mean().item() == pytest.approx(0.2 + 0.8 * 0.25**3, abs=0.03)
    assert hidden[:, -1].mean().item() == pytest.approx(0.8 * 0.75, abs=0.03)
    assert torch.equal(hidden[:, 0], hidden[:, 6]), "the slots of the class and its flag are hidden together"
    nothing = shown(4000, 1.0, [0.0] * 3, torch.Generator())
    assert torch.equal(conditions.hide(vector, nothing), torch.zeros_like(vector))


def test_conditions_survive_json(conditions: Conditions) -> None:
    assert Conditions.from_json(conditions.as_json()) == conditions


def test_classes_are_drawn_in_exact_shares(conditions: Conditions, table: pd.DataFrame) -> None:
    drawn = draw(conditions, 1000, "as_trained", np.random.default_rng(1))
    share = (table["label"] == "a").mean()
    assert (drawn["label"] == "a").sum() == pytest.approx(1000 * share, abs=1)
    assert "never" not in set(drawn["label"])
    assert draw(conditions, 1001, "balanced", np.random.default_rng(1))["label"].value_counts().max() == 501


def test_covariates_follow_their_class_and_stay_inside_its_range(conditions: Conditions) -> None:
    drawn = draw(conditions, 2000, "balanced", np.random.default_rng(1))
    means = drawn.groupby("label")["age"].mean()
    assert means["a"] == pytest.approx(30, abs=1)
    assert means["b"] == pytest.approx(70, abs=1)
    spread = conditions.items[1].population["a"]  # type: ignore[index]
    assert drawn.loc[drawn["label"] == "a", "age"].between(round(spread["low"], 1), round(spread["high"], 1)).all()


def test_a_scanner_stays_at_its_site_and_a_rare_combination_is_not_repeated() -> None:
    """Each site has one scanner, but for five patients who were scanned at the other's: too few to be told."""
    draws = np.random.default_rng(0)
    site = np.where(draws.random(600) < 0.3, "north", "south")
    scanner = np.where(site == "north", "one", "two")
    scanner[np.flatnonzero(site == "north")[:5]] = "two"
    table = pd.DataFrame({"label": "a", "site": site, "scanner": scanner, "age": np.where(scanner == "one", 30.0, 60.0)})
    table["age"] += draws.normal(0, 1, 600)
    covariates = [
        {"name": "site", "kind": "categorical", "values": ["north", "south"]},
        {"name": "scanner", "kind": "categorical", "values": ["one", "two"]},
        {"name": "age", "kind": "continuous"},
    ]
    drawn = draw(fit(table, ["a"], covariates), 3000, "as_trained", np.random.default_rng(1))
    assert (drawn["site"] == "north").mean() == pytest.approx((site == "north").mean(), abs=0.03)
    together = pd.crosstab(drawn["site"], drawn["scanner"], normalize="index")
    assert together.loc["north", "one"] == together.loc["south", "two"] == 1
    assert drawn.groupby("scanner")["age"].mean()["one"] == pytest.approx(30, abs=1)


def hospitals() -> pd.DataFrame:
    """Two classes, three women in ten, north with scanner one and south with two, and four patients of a third sex in class b."""
    draws = np.random.default_rng(0)
    site = np.where(draws.random(800) < 0.25, "north", "south")
    sex = np.where(draws.random(800) < np.where(site == "north", 0.8, 0.15), "F", "M")
    label = draws.choice(["a", "b"], 800, p=[0.7, 0.3])
    sex[np.flatnonzero(label == "b")[:4]] = "X"
    return pd.DataFrame({"label": label, "site": site, "sex": sex, "scanner": np.where(site == "north", "one", "two")})


MANY = [
    {"name": "site", "kind": "categorical", "values": ["north", "south"]},
    {"name": "sex", "kind": "categorical", "values": ["F", "M", "X"]},
    {"name": "scanner", "kind": "categorical", "values": ["one", "two"]},
]


@pytest.mark.parametrize("balance", ["site", "sex", "scanner"])
@pytest.mark.parametrize("composition", ["as_trained", "balanced"])
def test_a_balanced_covariate_is_equally_frequent_in_each_class(balance: str, composition: Literal["as_trained", "balanced"]) -> None:
    table = hospitals()
    drawn = draw(fit(table, ["a", "b"], MANY), 1001, composition, np.random.default_rng(1), balance=balance)
    counts = pd.crosstab(drawn["label"], drawn[balance])
    assert counts.shape == (2, 2), "four patients of a class are too few to be told"
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    assert set(zip(drawn["site"], drawn["scanner"], strict=True)) == {("north", "one"), ("south", "two")}
    share = 0.5 if composition == "balanced" else (table["label"] == "a").mean()
    assert (drawn["label"] == "a").sum() == pytest.approx(1001 * share, abs=1)


def test_what_comes_before_a_balanced_covariate_is_drawn_given_it() -> None:
    table = hospitals()
    drawn = draw(fit(table, ["a", "b"], MANY), 8000, "as_trained", np.random.default_rng(1), balance="sex")
    cells = ["label", "site", "sex"]
    common = table.groupby(cells).size()
    assert set(map(tuple, drawn[cells].to_numpy())) == set(common[common >= COMBINATION_MIN].index), "rare combinations are not told"
    for sex in ("F", "M"):
        real, made = ((part["site"] == "north")[(part["label"] == "a") & (part["sex"] == sex)].mean() for part in (table, drawn))
        assert made == pytest.approx(real, abs=0.04)


def test_what_cannot_be_balanced_is_refused(conditions: Conditions) -> None:
    for name in ("height", "age", "label"):
        with pytest.raises(InputError, match=rf"cohort\.balance is '{name}', which is no categorical covariate.*\(sex\)"):
            draw(conditions, 10, "as_trained", np.random.default_rng(0), balance=name)
    old = Conditions(tuple(replace(item, rare=None) for item in conditions.items))
    with pytest.raises(InputError, match="train it again"):
        draw(old, 10, "as_trained", np.random.default_rng(0), balance="sex")


def test_a_covariate_is_balanced_without_classes_and_where_no_value_is_common_it_is_not_told() -> None:
    table = pd.DataFrame({"label": None, "sex": ["F"] * 30 + ["M"] * 90})
    covariates = [{"name": "sex", "kind": "categorical", "values": ["F", "M"]}]
    assert draw(fit(table, [], covariates), 50, "as_trained", np.random.default_rng(0), balance="sex")["sex"].value_counts().tolist() == [
        25,
        25,
    ]
    few = draw(fit(table.iloc[25:35], [], covariates), 50, "as_trained", np.random.default_rng(0), balance="sex")
    assert few["sex"].isna().all()


def test_a_combination_of_few_patients_falls_back_to_the_class() -> None:
    table = pd.DataFrame({"label": "a", "sex": ["F"] * 40 + ["M"] * 10, "age": [50.0, 52.0] * 20 + [90.0] * 10})
    covariates = [{"name": "sex", "kind": "categorical", "values": ["F", "M"]}, {"name": "age", "kind": "continuous"}]
    drawn = draw(fit(table, ["a"], covariates), 500, "as_trained", np.random.default_rng(1))
    assert drawn.loc[drawn["sex"] == "M", "age"].std() > 5, "ten men of 90 years are not told"
    assert drawn.loc[drawn["sex"] == "F", "age"].between(50, 52).all()


def test_images_without_classes_or_covariates_need_no_conditions() -> None:
    nothing = fit(pd.DataFrame({"label": [None, None]}), [], [])
    assert nothing.width == 0
    assert nothing.encode(pd.DataFrame(index=range(3))).shape == (3, 0)
    assert len(draw(nothing, 5, "as_trained", np.random.default_rng(0))) == 5
