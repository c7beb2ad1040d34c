"""De-duplication before training, and the gap that says how much is known by heart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders_gates import dataset as sealed

from medpipe.diffusion import curve, duplicates
from medpipe.diffusion.train import train
from medpipe.errors import InputError
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe
from medpipe.records import Record

Recipes = Callable[..., Recipe]


@pytest.fixture
def source(tmp_path: Path) -> Record:
    """Forty images in training, of which 4 repeat one, 3 mirror or turn one, and 2 are one with a little grain."""
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    images[10:14] = images[0]
    images[20], images[21], images[22] = images[1, :, :, ::-1], np.rot90(images[2], 1, (-2, -1)), images[3, :, ::-1]
    grain = draws.integers(-3, 4, (2, 1, 8, 8))
    images[30:32] = np.clip(images[5].astype(int) + grain, 0, 255).astype(np.uint8)
    held = draws.integers(0, 256, (12, 1, 8, 8)).astype(np.uint8)
    held[0] = images[0]
    parts = {"train": (images, np.zeros(40, np.int64)), "validation": (held, np.zeros(12, np.int64))}
    return sealed(tmp_path / "dataset", parts, [])


def test_each_image_is_trained_once_and_other_splits_are_left_alone(source: Record) -> None:
    data = Dataset.open(source.path)
    rows = data.rows("train")
    exact, near = duplicates.once(data, "exact"), duplicates.once(data, "near")
    gone = set(rows[[10, 11, 12, 13, 20, 21, 22]])
    assert set(rows) - set(exact.rows("train")) == gone
    assert set(rows) - set(near.rows("train")) == gone | set(rows[[30, 31]])
    assert (duplicates.count(data), duplicates.count(exact), duplicates.count(near)) == (0, 7, 9)
    assert near.rows("validation").tolist() == data.rows("validation").tolist()
    assert duplicates.once(data, "off") is data


def test_a_checkpoint_says_how_many_duplicates_were_left_out_and_learned_from_the_rest(
    source: Record, tmp_path: Path, recipe: Recipes
) -> None:
    made = {how: train(source.path, tmp_path / how, recipe(train={"images": 64, "deduplicate": how})) for how in ("off", "near")}
    assert {how: record.facts["duplicates"] for how, record in made.items()} == {"off": 0, "near": 9}
    assert made["off"].content != made["near"].content
    assert made["near"].facts["sigma_data"] != made["off"].facts["sigma_data"], "the scale was measured on what was left out"


def test_images_of_one_grey_level_are_no_near_duplicates_of_each_other(tmp_path: Path) -> None:
    flat = np.stack([np.full((1, 8, 8), level, np.uint8) for level in (10, 60, 110)])
    made = sealed(tmp_path / "dataset", {"train": (flat, np.zeros(3, np.int64))}, [])
    assert duplicates.count(duplicates.once(Dataset.open(made.path), "near")) == 0


def test_two_of_one_image_are_too_few_to_train_on(tmp_path: Path, recipe: Recipes) -> None:
    same = np.tile(np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8)).astype(np.uint8), (2, 1, 1, 1))
    made = sealed(tmp_path / "dataset", {"train": (same, np.zeros(2, np.int64))}, [])
    with pytest.raises(InputError, match="has 1 images, and at least 2"):
        train(made.path, tmp_path / "out", recipe())


def test_the_gap_between_validation_and_training_images_stands_at_every_point(source: Record, tmp_path: Path, recipe: Recipes) -> None:
    made = train(source.path, tmp_path / "out", recipe(train={"images": 128}))
    points = pd.read_parquet(made.path / "training.parquet")
    assert tuple(points.columns) == curve.POINTS
    assert np.allclose(points["gap"], points["validation_loss"] / points["probe_loss"] - 1)
    assert points["gap"].notna().all()
