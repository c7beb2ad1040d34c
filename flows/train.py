"""The stage `train` as a flow of its own, to run again alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.outcome import spoken
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="train", flow_run_name="train {recipe.name}", persist_result=False)
@spoken
def train(dataset: Path, workspace: Path, recipe: Recipe, ledger_file: Path | None = None, teacher: Path | None = None) -> Path:
    """Make (or find) the Checkpoint trained on a Dataset; an interrupted training goes on from its last state.

    Args:
        dataset: Folder of the Dataset.
        workspace: Folder of the workspace; its records lie in it by kind. A second run goes on in it.
        recipe: Every setting of the run; the sentence under a field says what it does.
        ledger_file: File of the consent ledger on the worker's machine; empty means that of the workspace.
        teacher: Folder of a Checkpoint of this Dataset, to make a student of it that samples in few evaluations; empty trains on images.
    """
    return stages.train(dataset, workspace, recipe, ledger_file, teacher)
