"""The stage `generate` as a flow of its own, to run again alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.outcome import spoken
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="generate", flow_run_name="generate {recipe.name}", persist_result=False)
@spoken
def generate(checkpoint: Path, workspace: Path, recipe: Recipe, dataset: Path | None = None) -> Path:
    """Make (or find) the Cohort sampled from a Checkpoint; shards that are already there are kept.

    Args:
        checkpoint: Folder of the Checkpoint.
        workspace: Folder of the workspace; its records lie in it by kind. A second run goes on in it.
        recipe: Every setting of the run; the sentence under a field says what it does.
        dataset: Folder of the Checkpoint's Dataset, whose masks are used where the Checkpoint takes masks; empty uses none.
    """
    return stages.generate(checkpoint, workspace, recipe, dataset)
