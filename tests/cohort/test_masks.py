"""Cohorts made to masks, and guided by a weaker Checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders_diffusion import sealed, small
from PIL import Image
from torch import Tensor

from medpipe import chain, plan, store
from medpipe.cohort import plan as subjects
from medpipe.cohort.generate import generate, masks_of
from medpipe.diffusion import samplers
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.train import train
from medpipe.errors import InputError, RecordError
from medpipe.gates.validate import validate
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe
from medpipe.records import Record

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed(tmp_path_factory.mktemp("data") / "dataset", masks=True, images=200).path


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    settings = small(model={"maps": ["mask"]}, train={"images": 4000, "learning_rate": 0.003})
    return train(data, tmp_path_factory.mktemp("masked") / "checkpoint", settings).path


def folder(place: Path, masks: Any) -> Path:
    place.mkdir()
    for number, mask in enumerate(masks):
        np.save(place / f"{number}.npy", mask)
    return place


def contrast(cohort: Path) -> Any:
    """Return how much lighter each image is inside its mask than outside."""
    images, inside = store.read(cohort) / 255, store.read(cohort, name="mask") > 0
    return np.array([image[box].mean() - image[~box].mean() for image, box in zip(images, inside, strict=True)])


def test_images_follow_the_masks_of_the_training_split(tmp_path: Path, data: Path, masked: Path, recipe: Recipes) -> None:
    settings = recipe(cohort={"images": 48, "sampler": "heun", "steps": 6})
    assert masks_of(masked, settings, data) == data
    made = generate(masked, tmp_path / "out", settings, masks=data)
    assert made.facts["masks"]
    assert set(made.made_from["inputs"]) == {"checkpoint", "dataset"}
    index, masks = pd.read_parquet(made.path / "index.parquet"), store.read(made.path, name="mask")
    trained = Dataset.open(data)
    rows = trained.rows("train")
    of_class = trained.index.set_index("row").loc[rows, "label"].to_numpy()
    real = trained.masks(rows)
    for label in ("dark", "light"):
        known = {mask.tobytes() for mask in real[of_class == label]}
        used = [mask.tobytes() for mask in masks[index["label"] == label]]
        assert set(used) <= known, "masks of the class's own training images"
        assert np.zeros((1, 8, 8), np.uint8).tobytes() not in used
    found, second = contrast(made.path), masks.max(axis=(1, 2, 3)) == 2
    assert found[~second].mean() > 0.08, "real ones: 0.25 lighter inside of the first label, 0.5 inside of the second"
    assert found[second].mean() > found[~second].mean() + 0.08


def test_masks_do_not_depend_on_how_the_work_is_cut_and_none_can_be_asked_for(
    tmp_path: Path, data: Path, masked: Path, recipe: Recipes
) -> None:
    one = generate(masked, tmp_path / "one", recipe(cohort={"images": 32}), masks=data)
    with ThreadPoolExecutor(1) as executor:
        other = generate(masked, tmp_path / "other", recipe(cohort={"images": 32, "shard": 8, "batch": 4}), masks=data, executor=executor)
    assert np.array_equal(store.read(one.path, name="mask"), store.read(other.path, name="mask"))
    assert np.abs(store.read(one.path).astype(int) - store.read(other.path)).max() <= 1, "only rounding may differ"
    without = recipe(cohort={"images": 8, "masks": "none"})
    assert masks_of(masked, without, data) is None
    made = generate(masked, tmp_path / "without", without)
    assert not store.has(made.path, "mask")
    assert made.facts["masks"] is False


@pytest.mark.parametrize("form", ["npy", "png", "zarr"])
def test_masks_of_a_folder_are_used_in_turn(tmp_path: Path, data: Path, masked: Path, recipe: Recipes, form: str) -> None:
    masks = np.zeros((4, 8, 8), np.uint8)
    for number in range(4):
        masks[number, number : number + 4, 2:6] = 1 + number % 2
    place = tmp_path / "masks"
    if form == "npy":
        folder(place, masks)
    elif form == "png":
        place.mkdir()
        for number, mask in enumerate(masks):
            Image.fromarray(mask).save(place / f"{number}.png")
    else:
        place.mkdir()
        store.create(place, 4, (1, 8, 8), "uint8", shard=4, masks=True)
        store.write_shard(place, range(4), masks[:, None], masks[:, None])
    made = generate(masked, tmp_path / "out", recipe(cohort={"images": 16, "guidance": 1.5}), masks=place)
    assert "masks" in made.made_from["inputs"]
    used = store.read(made.path, name="mask")[:, 0]
    index = pd.read_parquet(made.path / "index.parquet")["label"]
    for label in index.unique():
        counts = [int((used[index == label] == mask).all(axis=(1, 2)).sum()) for mask in masks]
        assert max(counts) - min(counts) <= 1, "none is used again before all were"
    with pytest.raises(RecordError, match=r"other (inputs|settings|cohort)"):
        generate(masked, tmp_path / "out", recipe(cohort={"images": 16, "guidance": 1.5}), masks=data)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((1, 16, 8), np.uint8), r"\(1, 16, 8\).*resample"),
        (np.full((1, 8, 8), 7, np.uint8), "label 7, which no training mask has"),
        (np.zeros((1, 8, 8), np.uint8), "all empty"),
        (np.ones((1, 8, 8), np.float32), "whole numbers"),
        (np.full((1, 8, 8), 300), "labels of 0 to 255"),
        ([np.ones((8, 8), np.uint8), np.ones((8, 4), np.uint8)], "2 shapes"),
        ([], "holds no masks"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, masked: Path, recipe: Recipes, masks: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(masked, tmp_path / "out", recipe(), masks=folder(tmp_path / "masks", masks))
    assert not (tmp_path / "out" / "record.json").exists()


def test_masks_from_elsewhere_are_refused(tmp_path: Path, data: Path, masked: Path, dataset: Datasets, recipe: Recipes) -> None:
    other = dataset("other", masks=True, images=60).path
    with pytest.raises(InputError, match="not trained on"):
        generate(masked, tmp_path / "out", recipe(), masks=other)
    with pytest.raises(InputError, match="no folder of masks"):
        generate(masked, tmp_path / "out", recipe(), masks=tmp_path / "nowhere")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "patient-name.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(InputError, match="mask file 1") as raised:
        generate(masked, tmp_path / "out", recipe(), masks=broken)
    assert "patient-name" not in str(raised.value)
    plain = train(data, tmp_path / "plain", recipe(train={"images": 64})).path
    with pytest.raises(InputError, match="takes no masks"):
        generate(plain, tmp_path / "out2", recipe(), masks=data)


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "unipc", "ddpm"])
@pytest.mark.parametrize("how", [{}, {"guidance": 2.0}, {"guidance": 2.0, "guidance_low": 0.1, "guidance_high": 1.0}])
def test_evaluations_are_counted_as_they_are_made(recipe: Recipes, name: str, how: dict[str, float]) -> None:
    settings, made = recipe(cohort={"sampler": name, "steps": 7, **how}).cohort, []

    def counted(x: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
        made.append(len(x))
        return x / (1 + sigma[:, None] ** 2)

    interval = {"low": settings.guidance_low, "high": settings.guidance_high or math.inf}
    denoise = guided(counted, torch.ones(1, 1), settings.guidance, **interval)
    x = torch.ones(1, 1)
    samplers.sampler(settings.sampler)(denoise, x, subjects.levels(settings), lambda: x)
    assert subjects.evaluations(settings) == sum(made)


def test_a_weaker_checkpoint_guides(tmp_path: Path, data: Path, recipe: Recipes) -> None:
    strong = train(data, tmp_path / "strong", recipe(train={"images": 512})).path
    weak = train(data, tmp_path / "weak", recipe(train={"images": 96}, model={"channels": [32], "blocks": [1]})).path
    guided = recipe(cohort={"guidance": 2.0, "guidance_by": "weaker", "guidance_high": 2.0, "images": 8})
    made = generate(strong, tmp_path / "guided", guided, weaker=weak)
    assert "weaker" in made.made_from["inputs"]
    free = generate(strong, tmp_path / "free", recipe(cohort={"guidance": 2.0, "images": 8}))
    plain = generate(strong, tmp_path / "plain", recipe(cohort={"images": 8}))
    assert not np.array_equal(store.read(made.path), store.read(free.path))
    assert not np.array_equal(store.read(made.path), store.read(plain.path))
    for settings, weaker in ((guided, None), (recipe(), weak)):
        with pytest.raises(InputError, match="give both or neither"):
            generate(strong, tmp_path / "refused", settings, weaker=weaker)


def test_a_weaker_checkpoint_of_another_dataset_is_refused(tmp_path: Path, data: Path, dataset: Datasets, recipe: Recipes) -> None:
    """Its patients would be behind the Cohort, and no record would say so."""
    strong = train(data, tmp_path / "strong", recipe(train={"images": 64})).path
    weak = train(dataset("other").path, tmp_path / "weak", recipe(train={"images": 64})).path
    with pytest.raises(InputError, match="of another Dataset"):
        generate(strong, tmp_path / "out", recipe(cohort={"guidance": 2.0, "guidance_by": "weaker"}), weaker=weak)


def test_only_the_classes_asked_for_are_made_and_one_never_seen_is_refused(tmp_path: Path, data: Path, recipe: Recipes) -> None:
    trained = train(data, tmp_path / "out", recipe(train={"images": 64})).path
    made = generate(trained, tmp_path / "light", recipe(cohort={"classes": ["light"], "images": 8}))
    assert set(pd.read_parquet(made.path / "index.parquet")["label"]) == {"light"}
    with pytest.raises(InputError, match=r"cohort\.classes has 'purple', which no training image shows: use dark, light"):
        generate(trained, tmp_path / "purple", recipe(cohort={"classes": ["purple"]}))


@pytest.mark.slow
def test_a_report_judges_the_masks_and_says_whose_shapes_they_are(tmp_path: Path, data: Path, masked: Path, recipe: Recipes) -> None:
    gates = {
        "resamples": 20,
        "feature_images": 200,
        "utility_images": 200,
        "utility_seeds": 1,
        "curve_shares": [],
        "copy_planted": 10,
        "copy_practice": 50,
    }
    settings = recipe(cohort={"images": 60}, gates=gates)
    made = generate(masked, tmp_path / "cohort", settings, masks=data)
    report = json.loads((validate(made.path, data, tmp_path / "report", settings).path / "report.json").read_text())
    assert "masks" in {gap["what"] for gap in report["not_assessed"]}
    assert {"mask_fidelity", "utility_segmentation"} <= {verdict["name"] for verdict in report["verdicts"]}


def test_volumes_are_made_to_masks_too(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset("volumes", shape=(1, 8, 8, 8), images=40, masks=True).path
    settings = recipe(model={"maps": ["mask", "known"]}, train={"images": 32}, images={"dimensions": 3}, cohort={"images": 4})
    made = generate(train(source, tmp_path / "out", settings).path, tmp_path / "cohort", settings, masks=source)
    assert store.read(made.path, name="mask").shape == (4, 1, 8, 8, 8)


def test_a_run_that_needs_a_weaker_checkpoint_is_refused_before_it_begins(tmp_path: Path, recipe: Recipes) -> None:
    settings, nowhere = recipe(cohort={"guidance": 2.0, "guidance_by": "weaker"}), tmp_path / "nowhere"
    keys = chain.key_files(tmp_path / "work")
    for begin in (chain.run, plan.plan):
        with pytest.raises(InputError, match="a run trains one only"):
            begin(tmp_path, nowhere, settings, keys)
    assert not nowhere.exists()
