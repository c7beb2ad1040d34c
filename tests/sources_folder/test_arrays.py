"""Files of arrays: both forms, every kind of pixel, and each way to be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medpipe import recipe, store
from medpipe.deid.deidentify import deidentify
from medpipe.errors import InputError
from medpipe.images.dataset import Dataset
from medpipe.images.preprocess import preprocess
from medpipe.recipe import Recipe
from medpipe.records import Record

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)


def collection(folder: Path, source: dict[str, Any] | None = None, /, **arrays: Any) -> Record:
    np.savez_compressed(folder / "a.npz", **arrays)
    return deidentify(folder / "a.npz", folder / "out", chosen(**(source or {})), key_file=folder / "private" / "k.key")


def chosen(**source: Any) -> Recipe:
    return recipe.build({"source": {"form": "arrays", **source}, "images": {"split": "given"}})


def test_medmnist_form_keeps_splits_order_labels_and_pixels(tmp_path: Path) -> None:
    labels = np.array([[0], [1], [1]])
    arrays = {f"{split}_images": GREY[:3] + at for at, split in enumerate(("train", "val", "test"))}
    arrays |= {f"{split}_labels": labels for split in ("train", "val", "test")}
    record = collection(tmp_path, {"classes": ["no", "yes"], "licence": "CC0-1.0"}, **arrays)
    table = pd.read_parquet(tmp_path / "out" / "index.parquet")
    assert table["split"].tolist() == ["train"] * 3 + ["validation"] * 3 + ["test"] * 3
    assert table["label"].tolist() == ["no", "yes", "yes"] * 3
    assert table["instance"].is_unique
    assert table["patient"].is_unique
    assert np.array_equal(store.read(tmp_path / "out")[3:6, 0], GREY[:3] + 1)
    assert record.facts["form"] == "arrays"
    assert record.facts["classes"] == ["no", "yes"]


def test_plain_form_takes_order_patients_and_covariates(tmp_path: Path) -> None:
    collection(
        tmp_path,
        {"continuous": ["age"], "categorical": ["sex"]},
        images=GREY, labels=np.arange(6) % 2, source_index=np.arange(6)[::-1], patients=np.array([1, 1, 2, 2, 3, 3]),
        age=np.array([50, 95, np.nan, 1, 2, 3.5]), sex=np.array(list("MFMFMF")), bbox=np.zeros((6, 4)),
    )  # fmt: skip
    table = pd.read_parquet(tmp_path / "out" / "index.parquet")
    assert table["order"].tolist() == [5, 4, 3, 2, 1, 0]
    assert table["patient"].nunique() == 3
    assert table["age"].fillna(-1).tolist() == [50, 90, -1, 1, 2, 3.5]
    assert table["label"].tolist() == ["0", "1"] * 3
    assert table["split"].isna().all()


@pytest.mark.parametrize(
    ("images", "shape", "dtype"),
    [
        (RNG.integers(0, 256, (4, 8, 9, 3), dtype=np.uint8), (4, 3, 8, 9), "uint8"),
        (RNG.integers(0, 256, (4, 7, 8, 9), dtype=np.uint8), (4, 1, 7, 8, 9), "uint8"),
        (RNG.integers(0, 256, (2, 7, 8, 9, 3), dtype=np.uint8), (2, 3, 7, 8, 9), "uint8"),
        (RNG.integers(0, 60000, (4, 8, 8), dtype=np.uint16), (4, 1, 8, 8), "uint16"),
        (RNG.integers(-1000, 3000, (4, 8, 8), dtype=np.int16), (4, 1, 8, 8), "uint16"),
        (RNG.random((4, 8, 8)).astype(np.float32), (4, 1, 8, 8), "uint16"),
        (np.rint(RNG.random((4, 8, 8)) * 255), (4, 1, 8, 8), "uint8"),
        (RNG.random((4, 8, 8)) * 255, (4, 1, 8, 8), "uint16"),
    ],
)
def test_every_kind_of_pixel_keeps_its_order(tmp_path: Path, images: Any, shape: tuple[int, ...], dtype: str) -> None:
    collection(tmp_path, images=images)
    stored = store.read(tmp_path / "out")
    assert (stored.shape, str(stored.dtype)) == (shape, dtype)
    plain = np.moveaxis(images, -1, 1) if images.shape[-1] == 3 else images[:, None]
    slope = np.polyfit(plain.ravel().astype(float), stored.ravel().astype(float), 1)[0]
    assert slope > 0
    assert np.abs(np.corrcoef(plain.ravel(), stored.ravel())[0, 1]) > 0.9999


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GREY}, "neither 'images' nor 'train_images'"),
        ({"images": GREY, "labels": np.arange(5)}, "'images' has 6 rows and 'labels' 5"),
        ({"images": GREY, "labels": np.zeros((6, 14))}, "no multiple labels"),
        ({"images": np.array([[np.nan]] * 4).reshape(1, 2, 2)}, "NaN or infinite"),
        ({"images": np.full((2, 4, 4), 700.0)}, "scale them to 0 to 1"),
        ({"images": np.zeros((2, 4, 4), np.int64)}, "stored as int64"),
        ({"images": np.zeros((2, 4, 4), bool)}, "stored as bool"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "holds no image"),
        ({"images": np.zeros((4,), np.uint8)}, "have the shape"),
        ({"images": np.array([[{}, 1]], dtype=object)}, "Python objects"),
        ({"images": GREY, "labels": np.array([None] * 6, dtype=object)}, "Python objects"),
        ({"images": GREY, "labels": np.array([0.5] * 6)}, "whole numbers"),
        ({"images": GREY, "labels": np.arange(6) - 1}, "name every class"),
        ({"train_images": GREY, "test_images": GREY[:, :4]}, "different shapes"),
        ({"train_images": GREY, "test_images": GREY, "train_labels": np.arange(6)}, "'test_labels' is missing"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        collection(tmp_path, **arrays)
    assert not (tmp_path / "out" / "record.json").exists()


def test_labels_beyond_the_named_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels run from 0 to 5"):
        collection(tmp_path, {"classes": ["a", "b"]}, images=GREY, labels=np.arange(6))


def test_what_is_no_npz_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("no")
    for source in (tmp_path / "x.npz", tmp_path / "none.npz", tmp_path):
        with pytest.raises(InputError, match=r"npz"):
            deidentify(source, tmp_path / "out", chosen(), key_file=tmp_path / "k.key")


def test_a_file_as_the_source_of_a_folder_recipe_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY)
    with pytest.raises(InputError, match=r"set source\.form to 'arrays'"):
        deidentify(tmp_path / "a.npz", tmp_path / "out", recipe.build({}), key_file=tmp_path / "k.key")


def test_the_name_of_the_file_changes_nothing(tmp_path: Path) -> None:
    first = collection(tmp_path, images=GREY)
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")
    again = deidentify(tmp_path / "b.npz", tmp_path / "two", chosen(), key_file=tmp_path / "private" / "k.key")
    assert again.content == first.content


def test_real_arrays_are_read(tmp_path: Path, data_dir: Path) -> None:
    key = tmp_path / "k.key"
    mnist = deidentify(data_dir / "pneumoniamnist.npz", tmp_path / "p", recipe.load("pneumoniamnist"), key_file=key)
    assert mnist.facts["splits"] == {"train": 4708, "validation": 524, "test": 624}
    tumour = deidentify(data_dir / "brain_tumor_mri" / "brain_tumor_128.npz", tmp_path / "b", recipe.load("brain-tumor-mr"), key_file=key)
    assert (tumour.facts["instances"], tumour.facts["shape"]) == (3064, [1, 128, 128])
    table = pd.read_parquet(tmp_path / "b" / "index.parquet")
    assert sorted(table["label"].value_counts()) == [708, 930, 1426]
    assert table["order"].tolist() == list(range(1, 3065))


def test_label_maps_go_with_their_images_through_the_collection_to_the_dataset(tmp_path: Path) -> None:
    images, masks = RNG.integers(0, 256, (9, 12, 8, 8), dtype=np.uint8), np.zeros((9, 12, 8, 8), np.int16)
    masks[:, 3:9, 2:6, 2:6] = np.arange(1, 10)[:, None, None, None]
    names = {f"{split}_{what}": value[3 * at : 3 * at + 3] for what, value in (("images", images), ("masks", masks))
             for at, split in enumerate(("train", "val", "test"))}  # fmt: skip
    made = collection(tmp_path, **names)
    assert made.facts["masks"] is True
    assert np.array_equal(store.read(made.path, name="mask")[:, 0], masks)
    settings = recipe.build({"source": {"form": "arrays"}, "images": {"split": "given", "dimensions": 3, "size": 8, "holdout": 0.3}})
    data = Dataset.open(preprocess(made.path, tmp_path / "dataset", settings).path)
    assert data.facts["masks"] is True
    found = data.masks(np.arange(9))
    assert found.shape == (9, 1, 8, 8, 8)
    assert sorted(int(labels.max()) for labels in found) == list(range(1, 10))
    assert all(set(np.unique(labels)) == {0, int(labels.max())} for labels in found)
    assert 0.5 < (found > 0).sum() / ((masks > 0).sum() * (8 / 12) ** 3) < 2, "the same place, on the coarser grid"


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"masks": np.zeros((6, 8, 9), np.uint8)}, r"'masks' has the shape \(6, 8, 9\) and the images need \(6, 8, 8\)"),
        ({"masks": np.zeros((5, 8, 8), np.uint8)}, r"'masks' has the shape \(5, 8, 8\)"),
        ({"masks": np.zeros((6, 8, 8))}, "'masks' is stored as float64: whole numbers"),
        ({"masks": np.full((6, 8, 8), 256)}, "beyond 0 to 255"),
        ({"masks": np.full((6, 8, 8), -1)}, "beyond 0 to 255"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(tmp_path: Path, masks: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        collection(tmp_path, images=GREY, **masks)


def test_label_maps_of_some_splits_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'val_masks' is missing"):
        collection(tmp_path, train_images=GREY, val_images=GREY, train_masks=np.zeros((6, 8, 8), np.uint8))
