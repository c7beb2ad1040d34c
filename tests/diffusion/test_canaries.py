"""Canaries: what they are made of, that they are trained on, and that exposure tells a model that knows them from one that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders_diffusion import sealed, small
from builders_gates import dataset
from safetensors.torch import load_file

from medpipe.diffusion import canaries
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.train import train
from medpipe.errors import InputError
from medpipe.gates import attack, membership
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model
from medpipe.recipe import Recipe

Recipes = Callable[..., Recipe]


def test_a_canary_has_the_grey_levels_of_an_image_and_nobodys_structure(tmp_path: Path) -> None:
    data = Dataset.open(sealed(tmp_path / "dataset", shape=(1, 8, 8)).path)
    made = canaries.made(data, 6, seed=0)
    real = data.images(data.rows("train"))
    assert made.shape == (12, 1, 8, 8)
    levels = {tuple(sorted(image.ravel())) for image in real}
    for image in made:
        assert tuple(sorted(image.ravel())) in levels
        assert not (real == image).all((1, 2, 3)).any()
    assert np.array_equal(made, canaries.made(data, 6, seed=0))
    assert not np.array_equal(made, canaries.made(data, 6, seed=1))
    assert canaries.made(Dataset.open(sealed(tmp_path / "volume", shape=(1, 6, 8, 8)).path), 2, 0).shape == (4, 1, 6, 8, 8)


def test_exposure_is_the_rank_in_bits() -> None:
    held_back = np.arange(7.0)
    assert canaries.exposures(np.array([-1.0, 3.5, 10.0]), held_back).tolist() == [3.0, 3 - np.log2(5), 0.0]
    draws = np.random.default_rng(0)
    unknown = [canaries.exposures(draws.normal(0, 1, 50), draws.normal(0, 1, 50)).mean() for _ in range(200)]
    assert np.mean(unknown) == pytest.approx(canaries.by_chance(50), abs=0.05)
    assert canaries.by_chance(10_000) == pytest.approx(np.log2(np.e), abs=0.01)


def test_planted_canaries_are_known_afterwards_and_held_back_ones_are_not(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    images = [np.rint((0.5 + draws.normal(0, 0.12, (n, 1, 8, 8))).clip(0, 1) * 255).astype(np.uint8) for n in (24, 8)]
    parts = {name: (part, np.zeros(len(part), np.int64)) for name, part in zip(("train", "validation"), images, strict=True)}
    source = dataset(tmp_path / "dataset", parts, [])
    how = {"images": 5_000, "batch": 32, "learning_rate": 0.003, "state_images": 5_000, "preview_images": 0, "canaries": 20}
    made = train(source.path, tmp_path / "out", small(train=how))
    assert made.facts["canaries"] == 20
    model = membership.Attacked(made.path)
    clean = torch.from_numpy(to_model(canaries.made(Dataset.open(source.path), 20, 0))) - model.model["data_mean"]
    scores = model.scores(clean, torch.zeros(40, model.conditions.width), range(40), 0)
    planted, held_back = np.split(scores[:, : len(membership.LEVELS)].mean(1), 2)
    assert attack.strength(-planted, -held_back).auc > 0.85
    assert canaries.exposures(planted, held_back).mean() > canaries.by_chance(20) + 1


def test_canaries_are_in_training_alone_not_in_what_is_measured_or_asked_for(tmp_path: Path, recipe: Recipes) -> None:
    source = sealed(tmp_path / "dataset")
    none, some = (train(source.path, tmp_path / str(count), recipe(train={"images": 64, "canaries": count})) for count in (0, 8))
    assert none.facts["sigma_data"] == some.facts["sigma_data"]
    one, other = (load_file(record.path / "gaussian.safetensors") for record in (none, some))
    assert all(torch.equal(one[name], other[name]) for name in one)
    described = [membership.Attacked(record.path).model["conditions"] for record in (none, some)]
    assert described[0] == described[1]
    assert Conditions.from_json(described[0]).width > 0
    assert none.content != some.content


def test_canaries_need_memory_and_images_without_maps(tmp_path: Path, recipe: Recipes) -> None:
    with pytest.raises(InputError, match=r"train\.canaries are images without maps"):
        recipe(train={"canaries": 3}, model={"space": "latent"}, images={"size": 16})
