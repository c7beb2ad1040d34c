from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.errors import InputError
from medpipe.images.splits import assign, cut
from medpipe.settings import ImagesSettings

SHARES = {"test": 0.1, "validation": 0.1, "holdout": 0.2}


def table(n: int, **columns: object) -> pd.DataFrame:
    frame = pd.DataFrame({"patient": [f"P{i}" for i in range(n)], "label": None, "order": range(n), "split": None}, dtype=object)
    frame["digest"] = [f"{i}" for i in range(n)]
    return frame.assign(**columns)


def shares(assigned: dict[str, str]) -> dict[str, float]:
    return dict(pd.Series(assigned).value_counts(normalize=True))


@pytest.mark.parametrize("n", [20, 60, 300, 5000])
def test_shares_are_close_to_those_asked_for_in_every_class(n: int) -> None:
    assigned = cut({f"{name}{i}": name for name in "ab" for i in range(n)}, SHARES, seed=3)
    for name in "ab":
        got = shares({unit: split for unit, split in assigned.items() if unit.startswith(name)})
        for split, share in [*SHARES.items(), ("train", 0.6)]:
            assert got[split] == pytest.approx(share, abs=0.3 * share + 1 / n)


def test_earlier_patients_keep_their_split_when_others_join() -> None:
    for n, share_max in ((100, 0.08), (400, 0.03), (4000, 0.002)):
        before = cut({f"P{i}": "" for i in range(n)}, SHARES, seed=1)
        after = cut({f"P{i}": "" for i in range(n + n // 10)}, SHARES, seed=1)
        assert sum(before[unit] != after[unit] for unit in before) <= share_max * n


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    units = {f"P{i}": "" for i in range(200)}
    assert cut(units, SHARES, 1) == cut(dict(reversed(units.items())), SHARES, 1)
    assert cut(units, SHARES, 1) != cut(units, SHARES, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", None])), min_size=30, max_size=200), st.integers(0, 99))
def test_no_patient_is_in_two_splits_and_nothing_is_lost(rows: list[tuple[int, str | None]], seed: int) -> None:
    images = table(len(rows), patient=[f"P{patient}" for patient, _ in rows], label=[label for _, label in rows])
    try:
        out = assign(images, ImagesSettings(), seed)
    except InputError:
        return
    used = out[out["reason"].isna()]
    assert used.groupby("patient")["split"].nunique().max() == 1
    assert used["split"].notna().all()
    assert out.loc[out["reason"].notna(), "split"].isna().all()


def test_a_class_with_one_patient_is_left_out_and_counted() -> None:
    images = table(41, label=["common"] * 39 + ["rare"] * 2, patient=[f"P{i}" for i in range(39)] + ["P39", "P39"])
    out = assign(images, ImagesSettings(), 0)
    assert out["reason"].tolist() == [None] * 39 + ["CLASS_TOO_SMALL"] * 2


def test_a_class_of_four_patients_is_in_every_split() -> None:
    images = table(104, label=["common"] * 100 + ["rare"] * 4)
    out = assign(images, ImagesSettings(), 0)
    assert set(out.loc[out["label"] == "rare", "split"]) == {"train", "holdout", "test", "validation"}


def test_too_few_patients_is_one_sentence_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"3 patients with 3 usable images leave the validation split .*: give at least 4 patients"):
        assign(table(3, label="a"), ImagesSettings(), 0)
    with pytest.raises(InputError, match=r"images\.holdout above 0"):
        assign(table(50), ImagesSettings(holdout=0), 0)
    with pytest.raises(InputError, match=r"2 CLASS_TOO_SMALL left out"):
        assign(table(2, label="a"), ImagesSettings(), 0)


def test_given_splits_are_kept_and_a_holdout_is_cut_from_train() -> None:
    given_ = ["train"] * 700 + ["validation"] * 50 + ["test"] * 60
    out = assign(table(810, split=given_, label=["a", "b"] * 405), ImagesSettings(split="given", holdout=0.15), 0)
    moved = out[out["split"] != pd.Series(given_)]
    assert set(moved["split"]) == {"holdout"}
    assert set(np.array(given_)[moved.index]) == {"train"}
    assert len(moved) == pytest.approx(105, rel=0.3)


def test_splits_that_the_source_lacks_are_cut_from_train_and_none_at_all_is_refused() -> None:
    out = assign(table(300, split=["train"] * 250 + ["test"] * 50), ImagesSettings(split="given"), 0)
    assert set(out["split"]) == {"train", "validation", "holdout", "test"}
    assert (out["split"][250:] == "test").all()
    with pytest.raises(InputError, match="set it to 'patient' or 'blocks'"):
        assign(table(300), ImagesSettings(split="given"), 0)


def test_of_identical_images_the_one_in_the_stronger_split_is_kept() -> None:
    splits = ["train"] * 100 + ["validation"] * 10 + ["test"] * 10
    images = table(120, split=splits)
    images.loc[[0, 1, 2], "digest"] = "twins"  # in train alone
    images.loc[[3, 100], "digest"] = "over validation"
    images.loc[[101, 110], "digest"] = "over test"
    out = assign(images, ImagesSettings(split="given"), 0)
    dropped = out.index[out["reason"] == "DUPLICATE"]
    assert set(dropped) - {0, 1, 2} == {3, 101}
    assert len({0, 1, 2} & set(dropped)) == 2
    assert not out.loc[out["reason"].isna(), "digest"].duplicated().any()


def test_a_patient_whom_the_given_splits_have_twice_stays_in_the_stronger_one() -> None:
    images = table(120, split=["train"] * 100 + ["validation"] * 10 + ["test"] * 10)
    images.loc[[5, 115], "patient"] = "both"
    out = assign(images, ImagesSettings(split="given"), 0)
    assert out.loc[5, "reason"] == "PATIENT_ACROSS_SPLITS"
    assert out.loc[115, "split"] == "test"


def test_blocks_stay_whole_and_their_edges_give_way() -> None:
    images = table(2000, label=["a"] * 900 + ["b"] * 1100)
    settings_ = ImagesSettings(split="blocks", blocks=40, block_gap=5)
    out = assign(images, settings_, 0)
    assert out["patient"].nunique() == 40
    assert out.groupby("patient")["split"].nunique().max() == 1
    used = out[out["reason"].isna()]
    assert all(set(used.loc[used["label"] == name, "split"]) == {"train", "validation", "holdout", "test"} for name in "ab")
    order, split = used["order"].to_numpy(int), used["split"].to_numpy()
    change = split[1:] != split[:-1]
    assert (np.diff(order)[change] > 5).all()
    assert out["reason"].value_counts().to_dict() == {"BLOCK_EDGE": int(change.sum()) * 5}
    with pytest.raises(InputError, match="lower it"):
        assign(table(20), settings_, 0)
