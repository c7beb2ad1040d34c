"""The pieces of the training loop: averages, augmentation, curves, budgets, and the decision to compile."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from medpipe.cohort.generate import generate
from medpipe.diffusion import augment, compilation, curve
from medpipe.diffusion.batches import Batches, Split
from medpipe.diffusion.checkpoint import open_denoiser
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.distributed import World
from medpipe.diffusion.ema import Averages, exponent
from medpipe.diffusion.loop import best
from medpipe.diffusion.maps import Maps
from medpipe.diffusion.reader import Reader
from medpipe.diffusion.train import train
from medpipe.errors import InputError, MedpipeError
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe
from medpipe.records import Record

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_an_average_has_the_width_that_it_is_named_by(width: float) -> None:
    """Feed steps that are each a new unit vector: the average is then the weighting of the past itself."""
    steps = 400
    weight = torch.zeros(steps)
    averages = Averages([weight], [width])
    for step in range(steps):
        weight.zero_()[step] = 1
        averages.update(1, step + 1)
    profile, times = averages.tracks[0][0].double(), torch.arange(1, steps + 1, dtype=torch.float64) / steps
    assert profile.sum() == pytest.approx(1)
    spread = math.sqrt(float((profile * times**2).sum() - (profile * times).sum() ** 2))
    assert spread == pytest.approx(width, rel=0.02)
    assert exponent(width) > 0


def test_averages_stand_in_for_the_weights_only_inside() -> None:
    weight = torch.ones(3)
    averages = Averages([weight], [0.1, 0.2])
    weight.fill_(2)
    with averages.inside(1):
        assert weight.tolist() == [1, 1, 1]
    assert weight.tolist() == [2, 2, 2]
    assert best([math.nan, 0.3, 0.2]) == 2
    assert best([math.nan, math.nan]) == 0


def test_a_cohort_can_be_sampled_from_any_average_that_was_kept(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", recipe(train={"ema_widths": [0.05, 0.2]}))
    chosen = made.facts["ema_width"]
    (other,) = {0.05, 0.2} - {chosen}
    assert made.facts["averages"][f"{chosen:g}"] <= made.facts["averages"][f"{other:g}"]
    default, asked, named = (open_denoiser(made.path, ema_width=width).state_dict() for width in (None, other, chosen))
    assert all(torch.equal(default[name], named[name]) for name in default)
    assert any(not torch.equal(default[name], asked[name]) for name in default)
    with pytest.raises(InputError, match=r"no average of width 0\.07"):
        generate(made.path, tmp_path / "cohort", recipe(cohort={"ema_width": 0.07}))


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 12, 16, 16)])
def test_augmentation_moves_what_it_says_and_leaves_the_rest(shape: tuple[int, ...]) -> None:
    dimensions = len(shape) - 1
    images = torch.rand(3, *shape)
    parameters = torch.zeros(3, augment.width(0.5, dimensions))
    parameters[1, 0] = 1 / (augment.SHIFT * 16)  # one pixel along the last axis
    parameters[2, -1] = 1
    out = augment.apply(images, parameters)
    assert torch.equal(out[0], images[0])
    assert torch.allclose(out[1, ..., :-1], images[1, ..., 1:], atol=1e-4)
    assert not torch.allclose(out[2], images[2], atol=0.01)
    drawn = augment.draw(4000, 0.25, dimensions, torch.Generator().manual_seed(0))
    assert (drawn.abs().sum(1) > 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert drawn.abs().max() <= 1


@pytest.mark.parametrize("shape", [(1, 24, 48), (1, 12, 48, 24)])
def test_a_turn_turns_and_does_not_shear_where_sides_differ(shape: tuple[int, ...]) -> None:
    y, x = torch.meshgrid(*[torch.arange(side) - (side - 1) / 2 for side in shape[-2:]], indexing="ij")
    disc = torch.exp(-(x**2 + y**2) / 32).expand(1, *shape).contiguous()
    parameters = torch.zeros(1, augment.width(0.5, len(shape) - 1))
    parameters[0, -2] = 1
    assert torch.allclose(augment.apply(disc, parameters), disc, atol=0.02)


def test_augmentation_reaches_training_and_not_the_samples_conditions(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", recipe(train={"augment": 0.5, "preview_images": 128}))
    denoiser = open_denoiser(made.path)
    width = json.loads((made.path / "model.json").read_text())["augmentation"]
    assert width == 4
    x, sigma = torch.rand(2, 1, 8, 8), torch.ones(2)
    asked = torch.zeros(2, denoiser.network.conditions - width)  # type: ignore[operator]
    told = torch.cat((asked, torch.zeros(2, width)), dim=1)
    assert torch.equal(denoiser(x, sigma, asked), denoiser(x, sigma, told))
    moved = told.clone()
    moved[:, -1] = 1
    assert not torch.equal(denoiser(x, sigma, told), denoiser(x, sigma, moved)), "the network does not hear of augmentation"
    assert generate(made.path, tmp_path / "cohort", recipe()).facts["images"] == 40


def test_parts_of_a_step_add_up_to_the_step(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    whole, parts = (train(source, tmp_path / str(n), recipe(train={"microbatch": n})) for n in (None, 7))
    one, other = (load_file(made.path / "weights.safetensors") for made in (whole, parts))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-5


def test_a_checkpoint_keeps_pictures_and_the_loss_by_noise_level(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", recipe(train={"preview_images": 100}))
    assert [name for name in made.files if name.startswith("previews/")] == ["previews/000000128.png", "previews/000000224.png"]
    table = pd.read_parquet(made.path / curve.BY_SIGMA)
    assert table["count"].sum() == 256
    assert (table["sigma_low"] < table["sigma_high"]).all()
    whole = table[table["images"] == 256]
    points = pd.read_parquet(made.path / "training.parquet")
    last = points["loss"].iloc[-1]
    assert np.average(whole["loss"].fillna(0), weights=whole["count"]) == pytest.approx(last)
    assert curve.picture(made.path).startswith(b"\x89PNG")


def test_training_ends_when_validation_falls_behind(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    points = [{"validation_loss": value, "probe_loss": 1.0} for value in (1.3, 1.1, 1.3, 1.4)]
    assert not curve.gap(points, 0.2)
    assert curve.gap([*points, {"validation_loss": 1.5, "probe_loss": 1.0}], 0.2)
    assert not curve.gap([{"validation_loss": math.nan, "probe_loss": 1.0}] * 4, 0.2)
    settings = {"images": 4096, "stop_gap": 1e-6, "learning_rate": 0.003}
    made = train(dataset(images=24).path, tmp_path / "out", recipe(train=settings))
    assert made.facts["ended_by"] == "gap"
    assert made.facts["images"] < 4096
    points_made = pd.read_parquet(made.path / "training.parquet")
    assert points_made["images"].iloc[-1] == made.facts["images"]
    assert (points_made["validation_loss"] > points_made["probe_loss"]).iloc[-3:].all()


def test_a_time_budget_ends_in_a_whole_checkpoint_or_says_what_it_lacks(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    made = train(source, tmp_path / "out", recipe(train={"images": 10**7, "warmup_images": 0, "minutes": 0.01}))
    assert made.facts["ended_by"] == "minutes"
    assert 0 < made.facts["images"] < 10**7
    with pytest.raises(InputError, match=r"train\.minutes 0\.01 is too short.*warm-up of 1000000 images"):
        train(source, tmp_path / "other", recipe(train={"images": 10**7, "warmup_images": 10**6, "minutes": 0.01}))
    assert not (tmp_path / "other" / "record.json").exists()


def test_a_state_of_weights_that_are_no_numbers_is_never_kept(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    broken = {"learning_rate": 1e30, "warmup_images": 0, "images": 640, "state_images": 32}
    with pytest.raises(MedpipeError, match=r"not numbers|not a number"):
        train(dataset().path, tmp_path / "out", recipe(train=broken))
    for file in (tmp_path / "out" / "state").glob("training.safetensors"):
        assert all(value.isfinite().all() for name, value in load_file(file).items() if name.startswith("weights/"))


def test_a_training_that_diverges_ends_and_says_what_to_lower(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    wild = {"learning_rate": 0.5, "warmup_images": 0, "images": 3200, "state_images": 3200}
    with pytest.raises(
        MedpipeError, match=r"has diverged at image \d+: the loss is .*, and an untrained network's is 1; lower train\.learning_rate"
    ):
        train(dataset().path, tmp_path / "out", recipe(train=wild))
    assert not (tmp_path / "out" / "record.json").exists()


def test_a_gradient_is_shortened(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    losses = {}
    for most in (1.0, 1e-13):  # so short that Adam's epsilon outweighs it
        losses[most] = train(source, tmp_path / str(most), recipe(train={"images": 640, "gradient_max": most})).facts["final_loss"]
    assert losses[1.0] < 0.95 < losses[1e-13]


@pytest.mark.parametrize(("eager", "compiled"), [(2.0, 1.0), (1.0, 2.0)])
def test_the_faster_way_is_kept_and_measured_once(tmp_path: Path, eager: float, compiled: float) -> None:
    now, runs = [0.0], []

    def way(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            runs.append(name)
            now[0] += seconds

        return run

    file, what = tmp_path / "deep" / "compile.json", {"shape": [1, 8, 8]}
    ways = way("eager", eager), way("compiled", compiled)
    assert compilation.decide(what, *ways, file, lambda: now[0]) is (compiled < eager)
    measured = len(runs)
    assert compilation.decide(what, *ways, file, lambda: now[0]) is (compiled < eager)
    assert len(runs) == measured > 2
    compilation.decide({"shape": [1, 16, 16]}, *ways, file, lambda: now[0])
    assert len(runs) == 2 * measured


def test_what_cannot_be_compiled_is_trained_eagerly(tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("no compiler")

    assert not compilation.decide({}, lambda: None, fails, tmp_path / "compile.json")
    assert not (tmp_path / "compile.json").exists()


@pytest.mark.slow
def test_a_compiled_training_stays_close_to_an_eager_one(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    made = {kind: train(source, tmp_path / kind, recipe(train={"compile": kind, "images": 240})) for kind in ("on", "off")}
    assert made["on"].facts["compiled"]
    assert made["on"].facts["final_loss"] == pytest.approx(made["off"].facts["final_loss"], rel=1e-3)


@pytest.mark.parametrize(("count", "processes", "microbatch"), [(32, 3, 4), (5, 4, 2), (2, 5, None), (9, 2, 1)])
def test_processes_compute_a_step_in_equally_many_parts_and_every_image_once(
    dataset: Datasets, recipe: Recipes, count: int, processes: int, microbatch: int | None
) -> None:
    data = Dataset.open(dataset().path)
    rows = data.rows("train")
    split = Split(Reader(data.record.path, rows, 0, 32, 16), 0.1, 1.0, torch.arange(len(rows))[:, None].float(), [None] * len(rows))
    settings = recipe(train={"microbatch": microbatch, "batch": 32})
    worlds = [World(rank, processes) for rank in range(processes)]
    made = [Batches(split, Conditions(()), Maps((), 1), settings, world).make(64, count) for world in worlds]
    (alone,) = [Batches(split, Conditions(()), Maps((), 1), settings, World()).make(64, count)]
    assert len({len(batch.parts()) for batch in made}) == 1
    parts = [part for batch in made for part in batch.parts()]
    assert all(0 < len(part.clean) <= (microbatch or count) for part in parts)
    real = [part.map(lambda tensor, kept=part.weights > 0: tensor[kept]) for part in parts]  # type: ignore[misc]
    for name in ("clean", "sigma", "noise", "conditions"):
        assert torch.equal(torch.cat([getattr(part, name) for part in real]), getattr(alone, name)), name
