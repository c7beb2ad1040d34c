"""The stage `validate` as a flow of its own, to run again alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.outcome import spoken
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="validate", flow_run_name="validate {recipe.name}", persist_result=False)
@spoken
def validate(cohort: Path, dataset: Path, workspace: Path, recipe: Recipe, checkpoint: Path | None = None) -> Path:
    """Make (or find) the Report on a Cohort: every gate's figure, bound and verdict.

    Args:
        cohort: Folder of the Cohort.
        dataset: Folder of the Dataset that the Cohort is judged against.
        workspace: Folder of the workspace; its records lie in it by kind. A second run goes on in it.
        recipe: Every setting of the run; the sentence under a field says what it does.
        checkpoint: Folder of the Checkpoint that made the Cohort, to attack the model as well; empty asks the images alone.
    """
    return stages.validate(cohort, dataset, workspace, recipe, checkpoint)
