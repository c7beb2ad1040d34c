"""The six verbs as Prefect tasks, and the plan of a run. Paths and digests go in and out; the work is `medpipe.chain`'s.

`medpipe.chain` is imported when a task runs: it brings torch, which a deployment and a server's form do without.
Results are neither cached nor persisted by Prefect: the workspace is the ledger, and a verb finds its finished record there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from medpipe.recipe import Recipe
from medpipe.records import Record
from medpipe.settings import ComputeSettings
from tasks import artifacts
from tasks.dask_client import workers
from tasks.progress import progress_artifacts
from tasks.words import may_retry, worded

P = ParamSpec("P")
R = TypeVar("R")


def stage(name: str, timeout_h: float, tags: tuple[str, ...] = ()) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that is tried three times unless the error is ours, and stopped after `timeout_h`.

    A tag can be given a limit over all runs, for which the server is asked at every start of a tagged task, most of a
    second: only the stages that want a device to themselves have one.
    """
    return task(
        name=name,
        tags=tags,
        retries=2,
        retry_delay_seconds=[5, 30],
        retry_condition_fn=may_retry,
        timeout_seconds=timeout_h * 3600,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@stage("plan", timeout_h=1)
def plan(
    source: Path, workspace: Path, recipe: Recipe, key_file: Path | None, signing_key_file: Path | None, ledger_file: Path | None = None
) -> None:
    """Check what was given and show what a run does; nothing is made."""
    from medpipe import chain
    from medpipe.plan import plan as steps_of

    with worded():
        steps = steps_of(source, workspace, recipe, chain.keys(workspace, key_file, signing_key_file, ledger_file))
        artifacts.plan(steps, workspace, recipe.name)


@stage("phantom-hospital", timeout_h=1)
def phantom_hospital(folder: Path, compute: ComputeSettings) -> Path:
    """Write the phantom hospital's DICOM export."""
    from medpipe.sources import phantom

    with worded(), workers(compute) as executor, progress_artifacts("phantom-hospital") as progress:
        return phantom.write(folder, progress=progress, executor=executor)


@stage("deidentify", timeout_h=48)
def deidentify(source: Path, workspace: Path, recipe: Recipe, key_file: Path | None, ledger_file: Path | None = None) -> Path:
    """Make (or find) the Collection of a source."""
    from medpipe import chain

    with worded(), workers(recipe.compute) as executor, progress_artifacts("deidentify") as progress:
        keys = chain.keys(workspace, key_file, ledger=ledger_file)
        record = chain.deidentify(workspace, source, recipe, keys, executor, progress)
        artifacts.collection(record)
    return _told(record)


@stage("preprocess", timeout_h=24)
def preprocess(collection: Path, workspace: Path, recipe: Recipe) -> Path:
    """Make (or find) the Dataset of a Collection."""
    from medpipe import chain

    with worded(), workers(recipe.compute) as executor, progress_artifacts("preprocess") as progress:
        record = chain.preprocess(workspace, collection, recipe, executor, progress)
        artifacts.splits(record)
    return _told(record)


@stage("train", timeout_h=24 * 14, tags=("device",))
def train(dataset: Path, workspace: Path, recipe: Recipe, ledger_file: Path | None = None, teacher: Path | None = None) -> Path:
    """Make (or find) the Checkpoint trained on a Dataset, or the student of a teacher that was."""
    from medpipe import chain

    with worded(), progress_artifacts("train") as progress:
        record = chain.train(workspace, dataset, recipe, progress, chain.key_files(workspace, ledger=ledger_file).ledger, teacher)
        artifacts.checkpoint(record)
    return _told(record)


@stage("generate", timeout_h=24 * 7, tags=("device",))
def generate(checkpoint: Path, workspace: Path, recipe: Recipe, dataset: Path | None = None) -> Path:
    """Make (or find) the Cohort sampled from a Checkpoint; where it takes masks, to those of a Dataset."""
    from medpipe import chain

    with worded(), workers(recipe.compute) as executor, progress_artifacts("generate") as progress:
        record = chain.generate(workspace, checkpoint, recipe, executor, progress, dataset)
    return _told(record)


@stage("validate", timeout_h=48)
def validate(cohort: Path, dataset: Path, workspace: Path, recipe: Recipe, checkpoint: Path | None = None) -> Path:
    """Make (or find) the Report on a Cohort; a gate that says no is in the Report, and the release is what it stops."""
    from medpipe import chain

    with worded(), workers(recipe.compute) as executor, progress_artifacts("validate") as progress:
        record = chain.validate(workspace, cohort, dataset, recipe, executor, progress, checkpoint)
        artifacts.verdicts(record)
        artifacts.sample_grid(cohort, record)
    return _told(record)


@stage("audit", timeout_h=48)
def audit(candidates: Path, dataset: Path, out: Path, recipe: Recipe) -> Path:
    """Judge synthetic images that others made; a gate that says no is in the report."""
    from medpipe.gates.audit import audit

    with worded(), workers(recipe.compute) as executor, progress_artifacts("audit") as progress:
        done = audit(candidates, dataset, out, recipe, executor=executor, progress=progress)
        artifacts.verdicts(done.report)
        artifacts.sample_grid(out / "candidates", done.report)
    return done.folder


@stage("release", timeout_h=24)
def release(
    cohort: Path, report: Path, workspace: Path, recipe: Recipe, signing_key_file: Path | None, ledger_file: Path | None = None
) -> Path:
    """Make (or find) the Release of a Cohort whose Report passed."""
    from medpipe import chain

    with worded(), progress_artifacts("release") as progress:
        keys = chain.key_files(workspace, signing=signing_key_file, ledger=ledger_file)
        record = chain.release(workspace, cohort, report, recipe, keys, progress)
        artifacts.release(record)
    return _told(record)


@stage("withdraw", timeout_h=1)
def withdraw(patients: list[str], workspace: Path, key_file: Path | None, ledger_file: Path | None) -> Path:
    """Record that patients, named by pseudonym, withdrew; block and show what descends from them."""
    from medpipe.deid import permissions, pseudonyms
    from medpipe.ledger import named
    from medpipe.withdrawal import withdraw as record

    with worded():
        key = pseudonyms.existing(key_file or workspace / "private" / "pseudonym.key")
        done = record(workspace, permissions.pseudonyms(patients), key=key.key_id, ledger_file=named(ledger_file))
        artifacts.withdrawal(done, workspace)
    return done.ledger.path


def _told(record: Record) -> Path:
    get_run_logger().info("%s %s in %s", record.noun, record.content[:12], record.path)
    return record.path
