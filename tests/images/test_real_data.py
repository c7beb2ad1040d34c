from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medpipe import recipe
from medpipe.deid.deidentify import deidentify
from medpipe.images.dataset import Dataset
from medpipe.images.preprocess import preprocess


def made(folder: Path, name: str, source: Path) -> Dataset:
    recipe_ = recipe.load(name)
    collection = deidentify(source, folder / "collection", recipe_, key_file=folder / "key")
    return Dataset.open(preprocess(collection.path, folder / "dataset", recipe_).path)


def test_pneumoniamnist_keeps_its_splits_and_loses_its_duplicates(data_dir: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path, "pneumoniamnist", data_dir / "pneumoniamnist.npz")
    facts = dataset.facts
    assert (facts["classes"], facts["shape"], facts["dtype"], facts["licence"]) == (
        ["normal", "pneumonia"],
        [1, 28, 28],
        "uint8",
        "CC-BY-4.0",
    )
    assert facts["excluded"] == {"DUPLICATE": 29}  # 18 within train, 3 within test, 8 of train that are also in validation
    assert (facts["splits"]["validation"], facts["splits"]["test"]) == (524, 621)
    assert facts["splits"]["holdout"] == pytest.approx(0.15 * 4682, rel=0.2)
    images = dataset.images()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    shares = dataset.index.groupby("split")["label"].value_counts(normalize=True).unstack()
    assert shares.loc["holdout", "normal"] == pytest.approx(shares.loc["train", "normal"], abs=0.05)


@pytest.mark.slow
def test_brain_tumor_slices_are_split_by_blocks_that_are_apart(data_dir: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path, "brain-tumor-mr", data_dir / "brain_tumor_mri" / "brain_tumor_128.npz")
    assert dataset.facts["shape"] == [1, 128, 128]
    assert dataset.index.groupby("split")["label"].nunique().tolist() == [3, 3, 3, 3]
    assert sum(dataset.facts["patients"].values()) == 48
    images = dataset.images().reshape(dataset.facts["images"], -1)[:, ::16].astype(float)
    images = (images - images.mean(axis=1, keepdims=True)) / images.std(axis=1, keepdims=True)
    likeness = images[dataset.rows("holdout")] @ images[dataset.rows("train")].T / images.shape[1]
    assert likeness.max(axis=1).mean() < 0.9  # neighbouring slices of one patient reach 0.92
