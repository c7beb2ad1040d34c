"""generate: the same cohort whatever the number of workers, the order or the interruptions."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medpipe import store
from medpipe.cohort import plan
from medpipe.cohort.generate import Shard, generate, sample_shard
from medpipe.diffusion.checkpoint import open_model
from medpipe.diffusion.train import train
from medpipe.errors import RecordError
from medpipe.parallel import processes
from medpipe.recipe import Recipe
from medpipe.records import Record

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]


@pytest.fixture
def checkpoint(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> Path:
    return train(dataset().path, tmp_path / "checkpoint", recipe()).path


def test_a_cohort_holds_what_was_asked_for(tmp_path: Path, checkpoint: Path, recipe: Recipes) -> None:
    made = generate(checkpoint, tmp_path / "out", recipe())
    index = pd.read_parquet(made.path / "index.parquet")
    images = store.read(made.path)
    assert images.shape == (40, 1, 8, 8)
    assert images.dtype == np.uint8
    assert index["row"].tolist() == list(range(40))
    assert index["id"].iloc[0] == "S000001"
    assert index["id"].is_unique
    assert set(index["label"]) == {"dark", "light"}
    assert index[["age", "sex"]].notna().all(axis=None)
    assert store.attributes(made.path)["synthetic"] is True
    assert (made.path / "model.json").read_bytes() == (checkpoint / "model.json").read_bytes()


def test_spare_images_follow_those_asked_for_and_change_none_of_them(tmp_path: Path, checkpoint: Path, recipe: Recipes) -> None:
    alone = generate(checkpoint, tmp_path / "alone", recipe(cohort={"images": 40}))
    spare = generate(checkpoint, tmp_path / "spare", recipe(cohort={"images": 40, "spare": 0.2}))
    assert (spare.facts["images"], spare.facts["asked"], alone.facts["images"], alone.facts["asked"]) == (48, 40, 40, 40)
    index = pd.read_parquet(spare.path / "index.parquet")
    assert index["id"].tolist() == [f"S{number:06d}" for number in range(1, 49)]
    assert index[:40].equals(pd.read_parquet(alone.path / "index.parquet"))
    assert np.abs(store.read(spare.path)[:40].astype(int) - store.read(alone.path).astype(int)).max() <= 1, "only rounding may differ"
    asked, made = (part["label"].value_counts() for part in (index[:40], index[40:]))
    assert all(abs(made[name] - asked[name] / 5) < 1 for name in asked.index)


def test_each_class_has_a_spare_image_and_each_combination_its_share() -> None:
    pool = pd.DataFrame({"label": ["common"] * 95 + ["rare"] * 5, "sex": ["F", "M"] * 50, "age": np.arange(100.0)})
    for wanted in (1, 2, 5, 20):
        chosen = plan.spares(pool, wanted, np.random.default_rng(0))
        assert len(chosen) == max(wanted, 2)
        assert set(chosen["label"]) == {"common", "rare"}
    assert abs(int((chosen["sex"] == "F").sum()) - 10) <= 2
    assert chosen["age"].min() < 25
    assert chosen["age"].max() > 75


def test_a_trained_model_obeys_its_condition(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    settings = recipe(train={"images": 6000}, cohort={"steps": 8})
    trained = train(dataset().path, tmp_path / "trained", settings)
    made = generate(trained.path, tmp_path / "out", settings)
    light = pd.read_parquet(made.path / "index.parquet")["label"].to_numpy() == "light"
    brightness = store.read(made.path).mean(axis=(1, 2, 3)) / 255
    assert brightness[light].mean() == pytest.approx(0.75, abs=0.06)
    assert brightness[~light].mean() == pytest.approx(0.25, abs=0.06)


def test_workers_and_order_change_nothing(tmp_path: Path, checkpoint: Path, recipe: Recipes) -> None:
    alone = generate(checkpoint, tmp_path / "alone", recipe())
    with processes(2) as executor:
        together = generate(checkpoint, tmp_path / "together", recipe(), executor=executor)
    assert alone.content == together.content


def test_a_sample_does_not_depend_on_how_the_work_is_cut(tmp_path: Path, checkpoint: Path, recipe: Recipes) -> None:
    one = generate(checkpoint, tmp_path / "one", recipe())
    other = generate(checkpoint, tmp_path / "other", recipe(cohort={"shard": 8, "batch": 4}))
    difference = store.read(one.path).astype(int) - store.read(other.path).astype(int)
    assert np.abs(difference).max() <= 1, "only rounding may differ"


@pytest.mark.parametrize("name", ["heun", "ddim"])
def test_every_sampler_and_guidance_run(tmp_path: Path, checkpoint: Path, recipe: Recipes, name: str) -> None:
    made = generate(checkpoint, tmp_path / "out", recipe(cohort={"sampler": name, "guidance": 2.0, "images": 8}))
    assert made.facts["sampler"] == name
    assert store.read(made.path).std() > 0


def _make(checkpoint: Path, out: Path, text: str) -> None:
    generate(checkpoint, out, Recipe.model_validate_json(text))


def test_a_killed_generation_makes_only_the_missing_shards(tmp_path: Path, checkpoint: Path, recipe: Recipes) -> None:
    settings = recipe(cohort={"images": 64, "shard": 4, "batch": 4, "steps": 20})
    whole = generate(checkpoint, tmp_path / "whole", settings)
    out = tmp_path / "cut"
    process = multiprocessing.get_context("spawn").Process(target=_make, args=(checkpoint, out, settings.model_dump_json()))
    process.start()
    marks = out / "state" / "shards"
    while process.is_alive() and not (marks.is_dir() and len(list(marks.iterdir())) >= 2):
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (out / "record.json").exists(), "killed too late to test anything"
    kept = {mark.name: (out / "images.zarr/image/c" / str(int(mark.name) // 4)).stat().st_ctime_ns for mark in marks.iterdir()}
    resumed = generate(checkpoint, out, settings)
    assert resumed.content == whole.content
    assert kept == {name: (out / "images.zarr/image/c" / str(int(name) // 4)).stat().st_ctime_ns for name in kept}


def test_a_shard_made_twice_is_the_same_file(tmp_path: Path, checkpoint: Path, recipe: Recipes) -> None:
    settings = recipe()
    made = generate(checkpoint, tmp_path / "out", settings)
    before = store.read(made.path)
    sample_shard(Shard(checkpoint, made.path, 16, 32, settings.model_dump_json()))
    assert np.array_equal(store.read(made.path), before)


def test_a_cohort_of_an_altered_checkpoint_is_refused(tmp_path: Path, checkpoint: Path, recipe: Recipes) -> None:
    data = bytearray((checkpoint / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (checkpoint / "weights.safetensors").write_bytes(data)
    with pytest.raises(RecordError, match="altered"):
        generate(checkpoint, tmp_path / "out", recipe())


def test_the_table_comes_before_the_images(checkpoint: Path, recipe: Recipes) -> None:
    """Growing a cohort keeps the noise of the samples that it had."""
    table = plan.subjects(open_model(checkpoint), recipe(cohort={"composition": "balanced"}).cohort, 0)
    assert table["label"].value_counts().tolist() == [20, 20]
    assert np.array_equal(plan.Draws(7, range(4, 6), (1, 2, 2))()[1], plan.Draws(7, range(5, 9), (1, 2, 2))()[0])
