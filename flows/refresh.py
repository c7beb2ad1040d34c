"""The whole chain through Prefect, from a source to a release: `python -m flows.refresh --help` runs it here and now."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed

from flows.deidentify import deidentify
from flows.generate import generate
from flows.outcome import sentence, spoken
from flows.preprocess import preprocess
from flows.release import release
from flows.train import train
from flows.validate import validate
from medpipe import records
from medpipe.cli_errors import guarded
from medpipe.cli_flags import Parser, recipe_from, run_arguments
from medpipe.errors import GateFailed, MedpipeError
from medpipe.recipe import Recipe
from tasks import stages
from tasks.dask_client import workers


@flow(name="refresh-cohort", flow_run_name="refresh {recipe.name}", persist_result=False)
@spoken
def refresh_cohort(
    source: Path,
    workspace: Path,
    recipe: Recipe,
    key_file: Path | None = None,
    signing_key_file: Path | None = None,
    ledger_file: Path | None = None,
    dry_run: bool = False,
) -> Path | State[None]:
    """Make a released synthetic cohort from a source, or find that nothing is new; a gate that says no releases nothing.

    Args:
        source: Folder of DICOM files, or an .npz file of arrays, on the worker's machine.
        workspace: Folder of the workspace; its records lie in it by kind. A second run goes on in it.
        recipe: Every setting of the run; the sentence under a field says what it does.
        key_file: File of the pseudonym key on the worker's machine, made where absent; empty keeps it in the workspace. A path,
            never the key.
        signing_key_file: File of the release signing key, made where absent; empty keeps it in the workspace. A path, never the key.
        ledger_file: File of the consent ledger on the worker's machine; empty means that of the workspace.
        dry_run: Check everything and show the plan, but make nothing.
    """
    stages.plan(source, workspace, recipe, key_file, signing_key_file, ledger_file)
    if dry_run:
        return Completed(name="Planned", message="The plan is an artifact of this run; nothing was made.")
    with workers(recipe.compute):
        collection = deidentify(source, workspace, recipe, key_file, ledger_file)
        dataset = preprocess(collection, workspace, recipe)
        checkpoint = train(dataset, workspace, recipe, ledger_file)
        cohort = generate(checkpoint, workspace, recipe, dataset)
        report = validate(cohort, dataset, workspace, recipe, checkpoint)
        return release(cohort, report, workspace, recipe, signing_key_file, ledger_file)


def main(arguments: list[str] | None = None) -> int:
    """Run the chain from the command line; exit status and last line are those of `medpipe run`."""
    parser = Parser(prog="python -m flows.refresh", description="Run the whole chain through Prefect.")
    run_arguments(parser)
    asked = parser.parse_args(arguments)
    return guarded(lambda: _run(asked), asked.debug)


def _run(asked: argparse.Namespace) -> int:
    from medpipe.cli_show import console, ending, verdicts  # it brings torch, which a deployment does without

    recipe = recipe_from(asked)
    files = asked.key, asked.signing_key, asked.ledger
    state = refresh_cohort(asked.source, asked.out, recipe, *files, asked.dry_run, return_state=True)
    made = state.result(raise_on_failure=False)
    if isinstance(made, Path):
        ending(records.load(made, "Release"), asked.out)
    if isinstance(made, GateFailed) and made.report is not None:
        console().print(verdicts(records.load(made.report, "Report")))
    if isinstance(made, BaseException):
        raise made if isinstance(made, MedpipeError) else MedpipeError(sentence(made)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
