"""The chain on the phantom hospital, which the run itself writes: nothing to fill in."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.client.schemas import State

from flows.outcome import spoken
from flows.refresh import refresh_cohort
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="demo", flow_run_name="demo", persist_result=False)
@spoken
def demo(recipe: Recipe, folder: Path = Path("medpipe-demo")) -> Path | State[None]:
    """Write the phantom hospital's DICOM export and make a released synthetic cohort from it.

    Args:
        recipe: Every setting of the run; the sentence under a field says what it does.
        folder: Folder to write: the hospital's export and the workspace lie in it. A second run goes on in it.
    """
    hospital = folder / "hospital"
    if not hospital.is_dir():  # it is moved to its place when it is whole
        stages.phantom_hospital(hospital, recipe.compute)
    return refresh_cohort(hospital, folder / "workspace", recipe)
