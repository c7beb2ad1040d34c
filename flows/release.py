"""The stage `release` as a flow of its own, to run again alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.outcome import spoken
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="release", flow_run_name="release {recipe.name}", persist_result=False)
@spoken
def release(
    cohort: Path,
    report: Path,
    workspace: Path,
    recipe: Recipe,
    signing_key_file: Path | None = None,
    ledger_file: Path | None = None,
) -> Path:
    """Make (or find) the Release of a Cohort whose Report passed: the signed folder that may be shared.

    Args:
        cohort: Folder of the Cohort.
        report: Folder of the Report on it.
        workspace: Folder of the workspace; its records lie in it by kind. A second run goes on in it.
        recipe: Every setting of the run; the sentence under a field says what it does.
        signing_key_file: File of the release signing key, made where absent; empty keeps it in the workspace. A path, never the
            key.
        ledger_file: File of the consent ledger on the worker's machine; empty means that of the workspace.
    """
    return stages.release(cohort, report, workspace, recipe, signing_key_file, ledger_file)
