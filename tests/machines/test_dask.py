"""A real `dask scheduler` with two `dask worker` processes: the work is spread, the result is the same to the bit."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from builders_flows import TINY, blots

from medpipe import chain
from medpipe.cohort.generate import generate
from medpipe.images.preprocess import preprocess
from medpipe.parallel import each
from medpipe.recipe import build
from medpipe.settings import ComputeSettings
from tasks.dask_client import workers

pytestmark = [pytest.mark.machine, pytest.mark.slow]


def test_both_workers_work(dask_scheduler: str) -> None:
    def process_id(_: int) -> int:  # a nested function travels by value: workers do not have the tests
        time.sleep(0.05)
        return os.getpid()

    with workers(ComputeSettings(scheduler=dask_scheduler)) as executor:
        assert len({pid for _, pid in each(executor, process_id, list(range(20)))}) == 2


def test_dataset_and_cohort_made_on_a_cluster_equal_those_made_here(dask_scheduler: str, tmp_path: Path) -> None:
    recipe, workspace = build(TINY), tmp_path / "workspace"
    collection = chain.deidentify(workspace, blots(tmp_path / "blots.npz"), recipe, chain.keys(workspace))
    dataset = chain.preprocess(workspace, collection.path, recipe)
    checkpoint = chain.train(workspace, dataset.path, recipe)
    cohort = chain.generate(workspace, checkpoint.path, recipe)
    with workers(ComputeSettings(scheduler=dask_scheduler)) as executor:
        assert preprocess(collection.path, tmp_path / "dataset", recipe, executor=executor).content == dataset.content
        assert generate(checkpoint.path, tmp_path / "cohort", recipe, executor=executor).content == cohort.content
