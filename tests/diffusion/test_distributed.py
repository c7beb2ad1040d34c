"""Training in several processes: real ones, started by torchrun, killed, and compared with one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders_machines import free_port
from safetensors.torch import load_file

from medpipe.diffusion import launch
from medpipe.diffusion.train import train
from medpipe.errors import InputError, MedpipeError
from medpipe.recipe import Recipe
from medpipe.records import Record

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]
TRAIN = {"images": 768, "state_images": 64, "preview_images": 256}


def farthest(one: Record, other: Record) -> float:
    """The largest difference between the weights of two Checkpoints."""
    weights = [load_file(made.path / "weights.safetensors") for made in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    return max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])


def processes_of(parent: int) -> list[psutil.Process]:
    """The processes of training that descend from `parent`, by rank: torchrun starts them in that order."""
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(parent).children(recursive=True)
        mine = []
        for process in found:
            with suppress(psutil.NoSuchProcess):
                line = process.cmdline()
                if "medpipe.diffusion.rank" in line and "torch.distributed.run" not in line:
                    mine.append(process)
        return sorted(mine, key=lambda process: process.pid)
    return []


def kill_one(state: Path, killed: list[int], which: int) -> None:
    """Wait for a first state, then kill one of the processes as a machine would."""
    while not state.exists():
        time.sleep(0.01)
    victim = processes_of(os.getpid())[which]
    victim.send_signal(signal.SIGKILL)
    killed.append(victim.pid)


def killed_training(source: Path, out: Path, settings: Recipe, which: int) -> Record:
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(out / "state" / "training.safetensors", killed, which), daemon=True)
    killer.start()
    made = train(source, out, settings)
    killer.join(10)
    assert killed, "the training was over before a process could be killed"
    return made


def test_two_processes_of_which_one_is_killed_train_as_one_process_does(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    told: list[tuple[str, int, int]] = []
    alone = train(source, tmp_path / "alone", recipe(train=TRAIN))
    two = recipe(train=TRAIN, compute={"processes": 2})
    made = killed_training(source, tmp_path / "two", two, which=1)
    assert made.facts["processes"] == 2
    assert made.facts["images"] == 768
    assert made.made_from_digest == alone.made_from_digest, "how many processes train is no part of what a Checkpoint is made from"
    assert farthest(made, alone) < 1e-5
    assert sorted(made.files) == sorted(alone.files)
    assert not (made.path / "state").exists()
    assert train(source, tmp_path / "two", recipe(train=TRAIN), progress=lambda *what: told.append(what)) == made
    assert told == []


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_training_with_a_killed_process_ends_in_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, dataset: Datasets, recipe: Recipes, which: int
) -> None:
    source, settings = dataset().path, recipe(train=TRAIN, compute={"processes": 2})
    told: list[int] = []
    whole = train(source, tmp_path / "whole", settings, progress=lambda what, done, total: told.append(done))
    assert told[-1] > 0
    assert killed_training(source, tmp_path / "cut", settings, which).content == whole.content


@pytest.mark.slow
def test_a_model_in_shares_trains_as_a_whole_one_and_goes_on_in_one_process(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source = dataset().path
    alone = train(source, tmp_path / "alone", recipe(train=TRAIN))
    shared = recipe(train=TRAIN | {"microbatch": 8}, compute={"processes": 2, "parallel": "fsdp"})
    made = killed_training(source, tmp_path / "shared", shared, which=1)
    assert made.facts["parallel"] == "fsdp"
    assert farthest(made, alone) < 1e-4


def _train(source: Path, out: Path, text: str) -> None:
    train(source, out, Recipe.model_validate_json(text))


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them_and_another_number_goes_on(
    tmp_path: Path, dataset: Datasets, recipe: Recipes
) -> None:
    source, out = dataset().path, tmp_path / "out"
    settings = recipe(train=TRAIN | {"images": 4096}, compute={"processes": 2})
    parent = multiprocessing.get_context("spawn").Process(target=_train, args=(source, out, settings.model_dump_json()))
    parent.start()
    assert parent.pid is not None
    while not (out / "state" / "training.safetensors").exists():
        assert parent.is_alive()
        time.sleep(0.02)
    ranks = processes_of(parent.pid)
    assert len(ranks) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert not psutil.wait_procs(ranks, timeout=20)[1], "processes of a killed training went on"
    alone = train(source, tmp_path / "alone", recipe(train=TRAIN | {"images": 4096}))
    assert farthest(train(source, out, recipe(train=TRAIN | {"images": 4096})), alone) < 1e-4


@pytest.mark.slow
def test_two_nodes_find_each_other_by_the_same_command(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    source, out = dataset().path, tmp_path / "out"
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe(train=TRAIN).model_dump(mode="json")))
    flags = ["--recipe", str(file), "--compute.nodes", "2", "--compute.rendezvous", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, "-m", "medpipe.cli", "train", str(source), str(out), *flags]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}  # both nodes are this machine
    nodes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    paths = [node.communicate(timeout=200)[0].strip() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert paths == [str(out), str(out)]
    alone = train(source, tmp_path / "alone", recipe(train=TRAIN))
    assert farthest(train(source, out, recipe(train=TRAIN)), alone) < 1e-5


@pytest.mark.slow
def test_an_error_of_ours_in_the_processes_is_final(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    begun = time.monotonic()
    broken = recipe(train={"learning_rate": 1e30, "warmup_images": 0, "images": 640}, compute={"processes": 2, "restarts": 100})
    with pytest.raises(MedpipeError, match=r"not a number|not numbers"):
        train(dataset().path, tmp_path / "out", broken)
    assert time.monotonic() - begun < 200


def stopped(folder: Path, error: dict[str, Any] | None, status: int, recipe: Recipe) -> None:
    launch._raise(error, status, recipe, folder / "processes.log")


def test_what_stopped_the_processes_is_told_in_our_words(tmp_path: Path, recipe: Recipes) -> None:
    stopped(tmp_path, None, 0, recipe())
    stopped(tmp_path, {"ours": False, "kind": "RuntimeError", "message": ""}, 0, recipe())  # a restart mended it
    with pytest.raises(InputError, match="too short"):
        stopped(tmp_path, {"ours": True, "kind": "InputError", "message": "too short"}, 1, recipe())
    with pytest.raises(ChildProcessError, match=r"last by RuntimeError.*again 5 times.*processes\.log"):
        stopped(tmp_path, {"ours": False, "kind": "RuntimeError", "message": ""}, 1, recipe())


def test_more_processes_than_images_of_a_step_are_refused(recipe: Recipes) -> None:
    with pytest.raises(InputError, match=r"train\.batch must be at least compute\.processes × compute\.nodes"):
        recipe(compute={"processes": 17, "nodes": 2, "rendezvous": "host:29400"})
    with pytest.raises(InputError, match=r"compute\.nodes needs compute\.rendezvous"):
        recipe(compute={"nodes": 2})
