"""Distillation: a student follows its teacher in few evaluations, and all that holds for the teacher's patients holds for it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders_diffusion import sealed, small

from medpipe import chain, lineage, store, verify
from medpipe.cohort.generate import generate
from medpipe.diffusion import distill, samplers, schedules, trajectories
from medpipe.diffusion.train import train
from medpipe.errors import ConsentError, InputError, MedpipeError, RecordError
from medpipe.recipe import Recipe
from medpipe.records import Record
from medpipe.withdrawal import withdraw

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]
DISTILL = {"trajectories": 128, "steps": 8, "images": 512, "batch": 32, "state_images": 96, "learning_rate": 2e-3}
OPEN = {"psnr_min_db": 0, "ssim_min": -1, "detail_min": 0, "detail_max": 1e6}


def asked(**more: Any) -> Recipe:
    """Build a small recipe of a student; `distill`, and the sections that it differs in."""
    return small(**more | {"distill": DISTILL | more.get("distill", {}), "cohort": {"steps": None} | more.get("cohort", {})})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed(tmp_path_factory.mktemp("data") / "dataset" / "d").path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return train(data, tmp_path_factory.mktemp("teacher") / "checkpoint", small(train={"images": 4000})).path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, data: Path, teacher: Path) -> Record:
    return train(data, tmp_path_factory.mktemp("student") / "checkpoint", asked(distill={"images": 2048}), teacher=teacher)


def test_the_jumps_that_are_learned_lead_along_the_trajectory() -> None:
    """Of an exact Gaussian denoiser: Euler's method with D* passes through the very nodes that the teacher passed."""
    recipe, generator = asked(), torch.Generator().manual_seed(0)
    start = 3.0 * torch.randn(64, 1, 4, 4, generator=generator, dtype=torch.float64)
    nodes = trajectories.follow(lambda x, sigma: x * 0.04 / (0.04 + sigma.reshape(-1, 1, 1, 1) ** 2), start, trajectories.levels(recipe), 2)
    assert nodes.shape == (64, 5, 1, 4, 4)
    assert torch.equal(nodes[:, 0], start)
    assert nodes[:, 4].std() == pytest.approx(0.2, rel=0.1)
    sigmas = trajectories.nodes(recipe, 2)
    halves = iter(((nodes[:, 2] - sigmas[1] / sigmas[0] * nodes[:, 0]) / (1 - sigmas[1] / sigmas[0]), nodes[:, 4]))
    assert torch.allclose(samplers.sampler("euler")(lambda x, sigma: next(halves), start, sigmas, lambda: start), nodes[:, 4])


@pytest.mark.parametrize(("evaluations", "jumps"), [(4, [4]), (2, [4, 2]), (1, [4, 2, 1])])
def test_stages_halve_the_jumps_and_are_of_whole_batches(evaluations: int, jumps: list[int]) -> None:
    found = distill.stages(asked(distill={"evaluations": evaluations, "images": 1000}))
    assert [stage.jumps for stage in found] == jumps
    assert found[0].start == 0
    assert found[-1].stop == 992
    assert all(stage.stop > stage.start and stage.stop % 32 == 0 for stage in found)
    assert all(a.stop == b.start for a, b in pairwise(found))


def test_a_student_comes_nearer_to_its_teacher_than_it_began(tmp_path: Path, data: Path, teacher: Path, student: Record) -> None:
    begun = train(data, tmp_path / "begun", asked(distill={"images": 64}), teacher=teacher)
    assert student.facts["student"]["rms_to_teacher"] < 0.7 * begun.facts["student"]["rms_to_teacher"]
    curve = pd.read_parquet(student.path / "training.parquet")
    assert list(curve.columns) == ["images", "loss", "validation_loss"]
    assert curve["images"].iloc[-1] == student.facts["images"] == 2048


def test_a_student_in_bf16_learns_too(tmp_path: Path, data: Path) -> None:
    """Weights that autocast keeps as they were before the first step would leave it where it began."""
    half = {"precision": "bf16", "images": 1000}
    known = train(data, tmp_path / "teacher", small(train=half)).path
    apart = [
        train(data, tmp_path / str(images), asked(train=half, distill={"images": images}), teacher=known).facts["student"]["rms_to_teacher"]
        for images in (64, 1024)
    ]
    assert apart[1] < 0.9 * apart[0]


def test_a_student_samples_on_its_own_levels_and_obeys_its_condition(tmp_path: Path, student: Record) -> None:
    assert student.facts["student"]["evaluations"] == 2
    assert student.facts["student"]["sigmas"] == schedules.karras(8, 0.005, 3.0)[::4].tolist()
    made = generate(student.path, tmp_path / "out", asked(cohort={"images": 64}))
    assert {name: made.facts[name] for name in ("sampler", "steps", "evaluations", "guidance")} == {
        "sampler": "student",
        "steps": 2,
        "evaluations": 2,
        "guidance": 1.0,
    }
    light = pd.read_parquet(made.path / "index.parquet")["label"].to_numpy() == "light"
    brightness = store.read(made.path).mean(axis=(1, 2, 3)) / 255
    assert brightness[light].mean() - brightness[~light].mean() > 0.2, "of real ones 0.5, after so short a training"
    same = generate(student.path, tmp_path / "same", asked(cohort={"images": 64, "steps": 2}))
    assert np.array_equal(store.read(same.path), store.read(made.path))


@pytest.mark.parametrize(
    ("cohort", "message"),
    [
        ({"steps": 10}, r"cohort\.steps is 10, and this Checkpoint was distilled for 2: leave it empty"),
        ({"sampler": "heun"}, r"cohort\.sampler is 'heun', and this Checkpoint was distilled with 'dpmpp_2m'"),
        ({"sigma_start": 2.0}, r"cohort\.sigma_start is 2\.0, and this Checkpoint was distilled with 3\.0"),
        ({"guidance": 2.0}, r"cohort\.guidance is 2\.0"),
    ],
)
def test_what_a_student_was_not_trained_for_is_refused(tmp_path: Path, student: Record, cohort: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(student.path, tmp_path / "out", asked(cohort=cohort))


def test_guidance_is_learned_with_the_trajectories(tmp_path: Path, data: Path, teacher: Path, student: Record) -> None:
    settings = asked(distill={"images": 1024}, cohort={"guidance": 3.0, "guidance_high": 1.0, "images": 16})
    guided = train(data, tmp_path / "guided", settings, teacher=teacher)
    made = generate(guided.path, tmp_path / "out", settings)
    assert (made.facts["guidance"], made.facts["evaluations"]) == (3.0, 2)
    with pytest.raises(InputError, match=r"cohort\.guidance is 1\.0, and this Checkpoint was distilled with 3\.0"):
        generate(guided.path, tmp_path / "plain", asked(cohort={"guidance_high": 1.0}))


def test_from_pure_noise_and_in_latent_space(tmp_path: Path, data: Path, dataset: Datasets) -> None:
    autoencoder = {"channels": [8, 16], "latent_channels": 2, "images": 96, "batch": 8} | OPEN
    model = {"space": "latent", "patch": 1, "channels": [32], "blocks": [1]}
    settings = asked(model=model, autoencoder=autoencoder, train={"images": 64}, cohort={"start": "noise", "images": 6})
    made = train(data, tmp_path / "teacher", settings)
    student = train(data, tmp_path / "student", settings, teacher=made.path)
    assert student.facts["student"]["sigmas"][0] == 80.0
    assert (student.facts["shape"], student.facts["autoencoder"]) == (made.facts["shape"], made.facts["autoencoder"])
    images = store.read(generate(student.path, tmp_path / "out", settings).path)
    assert images.shape == (6, 1, 8, 8)


def _distil(data: Path, out: Path, teacher: Path, text: str) -> None:
    train(data, out, Recipe.model_validate_json(text), teacher=teacher)


@pytest.mark.parametrize("there", [pytest.param("state/trajectories/000000000.npy", marks=pytest.mark.slow), "state/training.safetensors"])
def test_a_killed_distillation_ends_in_the_same_bytes(tmp_path: Path, data: Path, teacher: Path, there: str) -> None:
    settings = asked(distill={"evaluations": 1, "trajectories": 300, "images": 576})
    whole = train(data, tmp_path / "whole", settings, teacher=teacher)
    arguments = (data, tmp_path / "cut", teacher, settings.model_dump_json())
    process = multiprocessing.get_context("spawn").Process(target=_distil, args=arguments)
    process.start()
    while process.is_alive() and not (tmp_path / "cut" / there).exists():
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "cut" / "record.json").exists(), "killed too late to test anything"
    assert (tmp_path / "cut" / there).exists()
    resumed = train(data, tmp_path / "cut", settings, teacher=teacher)
    assert resumed.content == whole.content
    assert not (tmp_path / "cut" / "state").exists()


def test_what_no_student_is_made_of_is_refused(tmp_path: Path, data: Path, teacher: Path, student: Record, dataset: Datasets) -> None:
    with pytest.raises(InputError, match="a student itself"):
        train(data, tmp_path / "out", asked(), teacher=student.path)
    with pytest.raises(InputError, match="not trained on the Dataset"):
        train(dataset("other", images=64).path, tmp_path / "out", asked(), teacher=teacher)
    for sections, message in (
        ({"cohort": {"sampler": "ddpm"}}, "trajectories are those of dpmpp_2m"),
        ({"cohort": {"guidance_by": "weaker"}}, "a student has one teacher"),
        ({"compute": {"processes": 2}}, "in one process"),
    ):
        with pytest.raises(InputError, match=message):
            train(data, tmp_path / "out", asked(**sections), teacher=teacher)
    mapped = train(data, tmp_path / "mapped", small(model={"maps": ["known"]}, train={"images": 64}))
    with pytest.raises(InputError, match="takes maps"):
        train(data, tmp_path / "out", asked(), teacher=mapped.path)
    altered = shutil.copytree(teacher, tmp_path / "altered")
    weights = bytearray((altered / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(weights)
    with pytest.raises(RecordError, match="altered"):
        train(data, tmp_path / "out", asked(), teacher=altered)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path: Path, data: Path, teacher: Path) -> None:
    with pytest.raises(MedpipeError, match=r"not a number at image .*distill\.learning_rate"):
        train(data, tmp_path / "out", asked(distill={"learning_rate": 1e30}), teacher=teacher)


def test_lineage_withdrawal_and_verification_reach_the_student(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    data = sealed(workspace / "dataset" / "d")
    teacher = chain.train(workspace, data.path, small(train={"images": 64}))
    settings = asked(distill={"images": 64}, cohort={"images": 8})
    student = chain.train(workspace, data.path, settings, teacher=teacher.path)
    assert student.path.parent == workspace / "checkpoint"
    assert student.made_from["inputs"] == {"dataset": data.content, "checkpoint": teacher.content}
    assert chain.train(workspace, data.path, settings, teacher=teacher.path).content == student.content
    cohort = chain.generate(workspace, student.path, settings)
    assert "p3" in lineage.patients_behind(cohort)[0]
    assert {link.what.split()[0] for link in verify.chain_of(cohort.path)} == {"Cohort", "Checkpoint", "Dataset"}
    assert verify.verify(cohort.path) == []
    done = withdraw(workspace, ["p3"], key="k")
    assert {node.path for node in done.descent} == {data.path, teacher.path, student.path, cohort.path}
    with pytest.raises(ConsentError, match="withdrawn"):
        chain.train(workspace, data.path, asked(seed=1), teacher=teacher.path)
