"""train: what it learns, and that stopping it changes nothing."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medpipe.diffusion import device as devices
from medpipe.diffusion.batches import Batch
from medpipe.diffusion.checkpoint import open_denoiser
from medpipe.diffusion.loop import Training, learning_rate
from medpipe.diffusion.train import train
from medpipe.errors import InputError, MedpipeError, RecordError
from medpipe.recipe import Recipe
from medpipe.records import Record

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]


def test_a_training_writes_a_checkpoint_that_learned_something(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", recipe(train={"images": 2048}))
    curve = pd.read_parquet(made.path / "training.parquet")
    assert curve["images"].iloc[-1] == 2048
    assert curve["validation_loss"].iloc[-1] < 0.9 * curve["validation_loss"].iloc[0]  # the same noise at every point
    assert np.isfinite(curve.to_numpy()).all()
    assert made.facts["conditions"] == ["label", "age", "sex"]
    assert open_denoiser(made.path).sigma_data == pytest.approx(made.facts["sigma_data"])
    (other,) = {0.06, 0.12} - {made.facts["ema_width"]}
    assert sorted(made.files) == [
        "gaussian.safetensors",
        "loss-by-sigma.parquet",
        "model.json",
        "training.parquet",
        f"weights-{other:g}.safetensors",
        "weights.safetensors",
    ]


def test_the_same_training_again_does_no_work(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    first = train(source, tmp_path / "out", recipe())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert train(source, tmp_path / "out", recipe()) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_two_trainings_give_the_same_bytes_and_another_seed_does_not(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    contents = [train(source, tmp_path / str(n), recipe(seed=seed)).content for n, seed in enumerate((3, 3, 4))]
    assert contents[0] == contents[1] != contents[2]


def _until_state(source: Path, out: Path, text: str) -> None:
    train(source, out, Recipe.model_validate_json(text))


@pytest.mark.parametrize("states", [1, 3])
def test_a_killed_training_ends_in_the_same_bytes(tmp_path: Path, dataset: Datasets, recipe: Recipes, states: int) -> None:
    source = dataset().path
    settings = recipe(train={"images": 1024, "state_images": 96})
    whole = train(source, tmp_path / "whole", settings)
    process = multiprocessing.get_context("spawn").Process(target=_until_state, args=(source, tmp_path / "cut", settings.model_dump_json()))
    process.start()
    state = tmp_path / "cut" / "state" / "training.safetensors"
    seen: set[int] = set()
    while process.is_alive() and len(seen) < states:
        if state.exists():
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "cut" / "record.json").exists(), "killed too late to test anything"
    assert state.exists()
    resumed = train(source, tmp_path / "cut", settings)
    assert resumed.content == whole.content
    assert not (tmp_path / "cut" / "state").exists()


def test_volumes_colours_and_sixteen_bits_train_too(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    for name, shape, dtype in (("volume", (1, 8, 8, 8), "uint8"), ("colour", (3, 8, 8), "uint8"), ("deep", (1, 8, 8), "uint16")):
        source = dataset(name, shape=shape, dtype=dtype, images=48).path
        made = train(
            source, tmp_path / f"{name}-out", recipe(train={"images": 64, "precision": "auto"}, images={"dimensions": len(shape) - 1})
        )
        assert made.facts["shape"] == list(shape)


def test_images_that_the_model_cannot_fold_are_refused(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    with pytest.raises(InputError, match="multiples of 4"):
        train(dataset(shape=(1, 10, 8)).path, tmp_path / "out", recipe())


def test_an_altered_dataset_is_refused(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    chunk = next(path for path in source.rglob("images.zarr/image/c/**/*") if path.is_file())
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(RecordError, match="altered"):
        train(source, tmp_path / "out", recipe())
    assert not (tmp_path / "out" / "record.json").exists()


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    with pytest.raises(MedpipeError, match=r"not a number at image \d+.*learning_rate"):
        train(dataset().path, tmp_path / "out", recipe(train={"learning_rate": 1e30, "warmup_images": 0, "images": 640}))
    assert not (tmp_path / "out" / "record.json").exists()


def test_weights_that_do_not_fit_their_settings_are_refused(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", recipe())
    model = json.loads((made.path / "model.json").read_text())
    model["settings"]["channels"] = [64, 64]
    (made.path / "model.json").write_text(json.dumps(model))
    with pytest.raises(RecordError, match="weights"):
        open_denoiser(made.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": 99}, "another version of medpipe"),
        ({"settings": {"made_later": 1}}, "describes no model of this version"),
        ({"conditions": [{"name": "label", "made_later": 1}]}, "describes no model of this version"),
        ({"shape": None}, "describes no model of this version"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused(
    tmp_path: Path, dataset: Datasets, recipe: Recipes, change: dict[str, Any], message: str
) -> None:
    made = train(dataset().path, tmp_path / "out", recipe(train={"images": 32}))
    model = json.loads((made.path / "model.json").read_text())
    (made.path / "model.json").write_text(json.dumps(model | change))
    with pytest.raises(RecordError, match=message):
        open_denoiser(made.path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", recipe(train={"images": 32}))
    weights = load_file(made.path / "weights.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, made.path / "weights.safetensors")
    with pytest.raises(RecordError, match="not numbers"):
        open_denoiser(made.path)


def test_weights_that_overflow_in_the_last_step_are_neither_kept_nor_sealed(
    tmp_path: Path, dataset: Datasets, recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is taken before the step that spoils them, so it is still a number."""
    step = Training._step

    def spoiling(training: Training, batch: Batch) -> float:
        loss = step(training, batch)
        if training.state.images + batch.size == 128:
            training.averages.tracks[0][0].fill_(math.inf)
        return loss

    monkeypatch.setattr(Training, "_step", spoiling)
    settings = recipe(train={"images": 256, "state_images": 64})
    with pytest.raises(MedpipeError, match="weights are not numbers at image 128"):
        train(dataset().path, tmp_path / "out", settings)
    with safe_open(tmp_path / "out" / "state" / "training.safetensors", "pt") as file:
        assert json.loads(file.metadata()["state"])["images"] == 64, "the last good state is kept"


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(1.0, seen, 1000, 100) for seen in range(0, 1001, 50)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[2] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)


def test_bf16_and_compilation_follow_fixed_rules() -> None:
    assert devices.precision("bf16", "cpu") is torch.bfloat16
    assert devices.precision("fp32", "cuda") is torch.float32
    assert devices.precision("bf16", "cuda", (1, 8, 8, 8), 4) is torch.bfloat16
    assert devices.precision("bf16", "cpu", (1, 16, 8, 8), 4) is torch.bfloat16
    assert devices.precision("auto", "cpu", (1, 8, 8, 8), 4) is torch.float32  # 8 / 4 slices: torch's gradients would be random numbers
    with pytest.raises(InputError, match="two slices deep"):
        devices.precision("bf16", "cpu", (1, 4, 8, 8), 4)
    assert not devices.may_compile("auto", "cpu", torch.float32, 10**9)
    assert devices.may_compile("on", "cpu", torch.float32, 1)
    assert not devices.may_compile("off", "cuda", torch.bfloat16, 10**9)


def test_training_in_bf16_stays_close_to_fp32(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    losses = {
        kind: train(source, tmp_path / kind, recipe(train={"precision": kind, "images": 512})).facts["final_loss"]
        for kind in ("fp32", "bf16")
    }
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)
