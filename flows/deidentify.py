"""The stage `deidentify` as a flow of its own, to run again alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.outcome import spoken
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="deidentify", flow_run_name="deidentify {recipe.name}", persist_result=False)
@spoken
def deidentify(source: Path, workspace: Path, recipe: Recipe, key_file: Path | None = None, ledger_file: Path | None = None) -> Path:
    """Make (or find) the Collection of a source: its images without what identifies a patient.

    Args:
        source: Folder of DICOM files, or an .npz file of arrays.
        workspace: Folder of the workspace; its records lie in it by kind. A second run goes on in it.
        recipe: Every setting of the run; the sentence under a field says what it does.
        key_file: File of the pseudonym key on the worker's machine, made where absent; empty keeps it in the workspace. A path,
            never the key.
        ledger_file: File of the consent ledger on the worker's machine; empty means that of the workspace.
    """
    return stages.deidentify(source, workspace, recipe, key_file, ledger_file)
