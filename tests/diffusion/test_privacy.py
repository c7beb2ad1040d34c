"""Differentially private training: the accountant, the mechanism by hand, the budget, the ledger, and resumption."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders_diffusion import sealed, small
from safetensors.torch import load_file

from medpipe.cohort.generate import generate
from medpipe.diffusion import accountant, privacy, spending
from medpipe.diffusion.distributed import World
from medpipe.diffusion.privacy import Mechanism, PrivateTraining
from medpipe.diffusion.train import _begin, train
from medpipe.errors import InputError, RecordError
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe
from medpipe.records import Record

Datasets = Callable[..., Record]
PRIVATE = {"dp_epsilon": 8.0, "dp_delta": 1e-3, "dp_draws": 2}


def private(**train: object) -> Recipe:
    return small(train={"images": 256, "batch": 16, "warmup_images": 0, "state_images": 64, **PRIVATE, **train}, cohort={"start": "noise"})


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "published"),
    [(0.01, 4.0, 10_000, 1.26), (256 / 60_000, 1.1, 14_062, 3.0), (256 / 60_000, 0.7, 10_546, 6.9)],
)
def test_the_accountant_gives_published_figures(rate: float, noise: float, steps: int, published: float) -> None:
    """Abadi et al. 2016 (section 3.2) and the tutorial of TensorFlow Privacy, both by the older conversion ε = RDP + ln(1/δ)/(α − 1)."""
    spent = accountant.rdp(rate, noise, steps)
    older = (spent + math.log(1e5) / (np.array(accountant.ORDERS) - 1)).min()
    assert older == pytest.approx(published, rel=0.04)
    assert accountant.epsilon(spent, 1e-5) < older


def test_without_sampling_a_step_is_the_gaussian_mechanism() -> None:
    assert np.allclose(accountant.rdp(1.0, 2.0), np.array(accountant.ORDERS) / 8)
    assert np.allclose(accountant.rdp(1 - 1e-9, 2.0), accountant.rdp(1.0, 2.0), rtol=1e-5)


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise() -> None:
    def spent(rate: float, noise: float, steps: int) -> float:
        return accountant.epsilon(accountant.rdp(rate, noise, steps), 1e-5)

    assert spent(0.1, 1, 1) < spent(0.1, 1, 2) < spent(0.1, 1, 100)
    assert spent(0.1, 1, 10) < spent(0.2, 1, 10)
    assert spent(0.1, 2, 10) < spent(0.1, 1, 10)
    noise = accountant.noise_for(0.1, 100, 3.0, 1e-5)
    assert 2.99 < spent(0.1, noise, 100) <= 3.0
    with pytest.raises(InputError, match=r"dp_epsilon 1e-06"):
        accountant.noise_for(1.0, 10**6, 1e-6, 1e-5)


def test_the_budget_lasts_for_as_many_steps_as_the_accountant_says() -> None:
    mechanism = Mechanism.of(private(dp_noise=1.0).train, 100)
    steps = mechanism.steps(10**6)
    assert mechanism.epsilon(steps) <= 8.0 < mechanism.epsilon(steps + 1)
    assert mechanism.epsilon(steps) == accountant.epsilon(accountant.rdp(0.16, 1.0, steps), 1e-3)


@pytest.fixture
def begun(tmp_path: Path) -> PrivateTraining:
    """A training on images of which patients have one to three each, its output layer no longer zero."""
    source = sealed(tmp_path / "dataset")
    data = Dataset.open(source.path)
    data.index["patient"] = [f"P{number % 31}" for number in range(len(data.index))]
    training = _begin(data, tmp_path / "out", privacy.calm(private(dp_clip=0.05)), World())
    assert isinstance(training, PrivateTraining)
    with torch.no_grad():
        for weight in training.denoiser.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    return training


def test_each_patient_adds_his_mean_gradient_clipped(begun: PrivateTraining) -> None:
    batch = begun.batches.make(0, 16)
    total, mean = begun.contributions(batch)
    patients, draws, clip = len(batch.clean) // 2, 2, 0.05
    wanted = {name: torch.zeros_like(weight) for name, weight in begun.denoiser.named_parameters()}
    losses, clipped = [], 0
    for patient in range(patients):
        here = slice(patient * draws, (patient + 1) * draws)
        begun.denoiser.zero_grad()
        loss = begun.denoiser.loss(*[tensor[here] for tensor in batch.given]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {name: weight.grad for name, weight in begun.denoiser.named_parameters() if weight.grad is not None}
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
        clipped += norm > clip
        for name, gradient in gradients.items():
            wanted[name] += gradient * min(1.0, clip / norm)
        losses.append(loss.item())
    assert patients > 3
    assert clipped == patients, "nobody was clipped, so clipping was not tested"
    assert mean == pytest.approx(np.mean(losses), rel=1e-4)
    for name, value in wanted.items():
        assert torch.allclose(total[name], value, atol=1e-6), name
    norms = math.sqrt(sum(float(value.square().sum()) for value in total.values()))
    assert norms <= patients * clip * 1.0001


def test_a_step_adds_noise_of_the_stated_size_and_divides_by_the_expected_patients(begun: PrivateTraining) -> None:
    batch = begun.batches.make(0, 16)
    total, _ = begun.contributions(batch)
    begun._step(batch)
    mechanism = begun.mechanism
    given = {name: weight.grad for name, weight in begun.denoiser.named_parameters() if weight.grad is not None}
    noise = torch.cat([(gradient * mechanism.batch - total[name]).flatten() for name, gradient in given.items()])
    assert len(noise) > 10_000
    assert float(noise.std()) == pytest.approx(mechanism.noise * mechanism.clip, rel=0.02)
    assert abs(float(noise.mean())) < 4 * float(noise.std()) / math.sqrt(len(noise))


def test_patients_not_images_are_drawn_each_with_the_same_chance(begun: PrivateTraining) -> None:
    batches = begun.batches
    assert isinstance(batches, privacy.PrivateBatches)
    owner = {int(place): number for number, places in enumerate(batches.patients) for place in places}
    sizes, seen = [], np.zeros(len(batches.patients))
    images = begun.split[np.arange(len(owner))].flatten(1)
    for step in range(60):
        batch = batches.make(step * 16, 16)
        places = (batch.clean.flatten(1)[:, None] == images[None]).all(-1).int().argmax(1).tolist()
        drawn = [owner[place] for place in places]
        assert drawn[::2] == drawn[1::2], "the images of one draw are of two patients"
        assert len(set(drawn)) == len(drawn) // 2
        sizes.append(len(set(drawn)))
        seen[list(set(drawn))] += 1
    assert np.mean(sizes) == pytest.approx(16, abs=1.5)
    assert np.std(sizes) > 1, "a fixed number of patients is not Poisson sampling"
    assert abs(seen / 60 - batches.rate).max() < 0.3


def test_a_step_that_draws_nobody_is_noise_alone(begun: PrivateTraining) -> None:
    batches = begun.batches
    assert isinstance(batches, privacy.PrivateBatches)
    empty = dataclasses.replace(batches, rate=0.0).make(0, 16)
    assert len(empty.clean) == 0
    assert begun._step(empty) == 0.0
    assert all(weight.isfinite().all() for weight in begun.denoiser.parameters())


def test_a_private_checkpoint_states_its_budget_and_holds_nothing_measured_on_patients(tmp_path: Path) -> None:
    source = sealed(tmp_path / "dataset")
    made = train(source.path, tmp_path / "checkpoint" / "a", private())
    told = made.facts["privacy"]
    assert told["unit"] == "patient"
    assert told["steps"] == 16
    assert 7.5 < told["epsilon"] <= 8.0
    assert made.facts["ended_by"] == "images"
    assert made.facts["sigma_data"] == privacy.SIGMA_DATA
    assert made.facts["final_loss"] is None
    assert "gaussian.safetensors" not in made.files
    points = pd.read_parquet(made.path / "training.parquet")
    assert points[["loss", "probe_loss"]].isna().all().all()
    assert points["validation_loss"].notna().all()
    assert not list((tmp_path / "checkpoint" / "a").rglob(privacy.SECRET)), "the secret outlives the training"
    assert generate(made.path, tmp_path / "cohort", private()).facts["images"] == 40
    with pytest.raises(InputError, match="trained privately"):
        generate(made.path, tmp_path / "other", small())
    (line,) = [json.loads(text) for text in (tmp_path / "checkpoint" / spending.LEDGER).read_text().splitlines()]
    assert line["epsilon"] == told["epsilon"]
    _total_over_refreshes(source, tmp_path)


def _total_over_refreshes(source: Record, folder: Path) -> None:
    """A second training adds up with the first, and one that would go beyond the total is refused."""
    with pytest.raises(InputError, match=r"earlier trainings spent ε = [78].*dp_epsilon_total 9"):
        train(source.path, folder / "checkpoint" / "b", private(dp_epsilon_total=9.0, learning_rate=1e-4))
    again = train(source.path, folder / "checkpoint" / "c", private(dp_epsilon_total=14.0, learning_rate=1e-4))
    assert again.facts["ended_by"] == "images"
    assert len((folder / "checkpoint" / spending.LEDGER).read_text().splitlines()) == 2
    (folder / "checkpoint" / spending.LEDGER).write_text("{}\n")
    with pytest.raises(RecordError, match="ledger of privacy"):
        train(source.path, folder / "checkpoint" / "d", private(learning_rate=1e-5))


def test_training_ends_when_the_budget_is_spent(tmp_path: Path) -> None:
    recipe = private(dp_noise=1.2, images=10_000)
    made = train(sealed(tmp_path / "dataset").path, tmp_path / "out", recipe)
    told = made.facts["privacy"]
    assert made.facts["ended_by"] == "privacy"
    assert told["steps"] * 16 == made.facts["images"] < 10_000
    assert told["epsilon"] <= 8.0
    spent = accountant.epsilon(accountant.rdp(told["rate"], 1.2, told["steps"] + 1), 1e-3)
    assert spent > 8.0
    with pytest.raises(InputError, match=r"one step at train\.dp_noise 0\.1 spends more"):
        train(sealed(tmp_path / "other").path, tmp_path / "no", private(dp_noise=0.1))


def _training(source: Path, out: Path, text: str) -> None:
    train(source, out, Recipe.model_validate_json(text))


def test_a_killed_private_training_goes_on_exactly_and_two_trainings_differ(tmp_path: Path) -> None:
    source, recipe = sealed(tmp_path / "dataset").path, private(images=512, state_images=64)
    process = multiprocessing.get_context("spawn").Process(target=_training, args=(source, tmp_path / "a" / "x", recipe.model_dump_json()))
    process.start()
    state = tmp_path / "a" / "x" / "state"
    while process.is_alive() and not (state / "training.safetensors").exists():
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (state / privacy.SECRET).stat().st_mode & 0o777 == 0o600
    (tmp_path / "b" / "x" / "state").mkdir(parents=True)
    (tmp_path / "b" / "x" / "making.json").write_bytes((tmp_path / "a" / "x" / "making.json").read_bytes())
    (tmp_path / "b" / "x" / "state" / privacy.SECRET).write_bytes((state / privacy.SECRET).read_bytes())
    resumed, whole = (train(source, tmp_path / name / "x", recipe) for name in ("a", "b"))
    assert resumed.content == whole.content, "the same secret, killed or not, did not give the same weights"
    assert resumed.facts["privacy"] == whole.facts["privacy"]
    other = train(source, tmp_path / "c" / "x", recipe)
    one, two = (load_file(record.path / "weights.safetensors") for record in (whole, other))
    assert any(not torch.equal(one[name], two[name]) for name in one), "the noise is not secret"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {**PRIVATE, "precision": "bf16"}}, "fp32"),
        ({"train": {**PRIVATE, "compile": "on"}}, "uncompiled"),
        ({"train": PRIVATE, "compute": {"processes": 2}}, "one process"),
        ({"train": PRIVATE}, "set cohort.start noise"),
        ({"train": {**PRIVATE, "stop_gap": 0.1}, "cohort": {"start": "noise"}}, "stop_gap"),
        ({"train": PRIVATE, "model": {"space": "latent"}, "images": {"size": 16}}, "autoencoder"),
        ({"train": {"dp_noise": 1.0}}, "is needed with"),
    ],
)
def test_what_cannot_be_private_is_refused(sections: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        small(**sections)
