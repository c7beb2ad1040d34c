"""The stage `preprocess` as a flow of its own, to run again alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.outcome import spoken
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="preprocess", flow_run_name="preprocess {recipe.name}", persist_result=False)
@spoken
def preprocess(collection: Path, workspace: Path, recipe: Recipe) -> Path:
    """Make (or find) the Dataset of a Collection: images a model can be trained on, split by patient.

    Args:
        collection: Folder of the Collection.
        workspace: Folder of the workspace; its records lie in it by kind. A second run goes on in it.
        recipe: Every setting of the run; the sentence under a field says what it does.
    """
    return stages.preprocess(collection, workspace, recipe)
