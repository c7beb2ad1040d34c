"""The chain in a workspace: each verb's record at `<workspace>/<noun>/<made_from[:12]>`, from source to release.

The six functions here place a record and make it; `run` composes them in one process. `flows/refresh.py` composes the
same six through Prefect.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from medpipe import ledger as ledgers
from medpipe.cohort import generate as generate_
from medpipe.consent import unbroken_since
from medpipe.deid import deidentify as deidentify_
from medpipe.deid.earlier import newest
from medpipe.diffusion import train as train_
from medpipe.errors import InputError
from medpipe.gates import validate as validate_
from medpipe.images import preprocess as preprocess_
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import Record
from medpipe.release import release as release_


@dataclass(frozen=True)
class Keys:
    """Files of the two secrets, made with mode 0600 where absent: one makes pseudonyms, one signs releases. And the consent ledger."""

    pseudonym: Path
    signing: Path
    ledger: Path | None = None
    """Consent ledger; none means that of the workspace."""


def key_files(workspace: Path, pseudonym: Path | None = None, signing: Path | None = None, ledger: Path | None = None) -> Keys:
    """Return where a workspace's key files are, given or its own; no key is checked: a release needs no pseudonym key.

    Raises InputError where the ledger that was given is not there.
    """
    private = workspace / "private"
    book = ledgers.named(ledger) or ledgers.place(workspace)
    return Keys(pseudonym or private / "pseudonym.key", signing or private / "signing.key", book)


def keys(workspace: Path, pseudonym: Path | None = None, signing: Path | None = None, ledger: Path | None = None) -> Keys:
    """Return the key files of a workspace: those given, else `<workspace>/private/`.

    Raises InputError when the pseudonym key is gone although the workspace holds Collections made with it: a new key
    would give every patient a second identity; likewise the signing key and releases; and when the workspace is a file or below one.
    """
    if file := next((place for place in (workspace, *workspace.parents) if place.is_file()), None):
        raise InputError(f"the workspace {workspace} cannot be a folder, for {file} is a file: give a folder, existing or new")
    found = key_files(workspace, pseudonym, signing, ledger)
    collections = workspace / "collection"
    if not found.pseudonym.exists() and collections.is_dir() and any(collections.iterdir()):
        raise InputError(
            f"the pseudonym key {found.pseudonym} is missing, and {workspace} holds records made with it: "
            "put the key back, or give a new workspace"
        )
    releases = workspace / "release"
    if not found.signing.exists() and releases.is_dir() and any(releases.iterdir()):
        raise InputError(
            f"the signing key {found.signing} is missing, and {workspace} holds releases signed with it: "
            "put the key back, or name another with --signing-key and make its public key known"
        )
    return found


def deidentify(
    workspace: Path, source: Path, recipe: Recipe, keys: Keys, executor: Executor | None = None, progress: Progress = silent
) -> Record:
    """Make (or find) the Collection of `source` in `workspace`; what an earlier one there holds already is taken from it."""
    key, book = keys.pseudonym, keys.ledger or ledgers.place(workspace)
    unbroken_since(workspace, ledgers.load(book))
    wanted = deidentify_.made_from(source, recipe, key_file=key, ledger_file=book, executor=executor)
    place = wanted.place(workspace)
    before = newest(place.parent, wanted)
    return deidentify_.deidentify(
        source, place, recipe, key_file=key, ledger_file=book, earlier=before, executor=executor, progress=progress
    )


def preprocess(workspace: Path, collection: Path, recipe: Recipe, executor: Executor | None = None, progress: Progress = silent) -> Record:
    """Make (or find) the Dataset of `collection` in `workspace`."""
    place = preprocess_.made_from(collection, recipe).place(workspace)
    return preprocess_.preprocess(collection, place, recipe, executor=executor, progress=progress)


def train(
    workspace: Path,
    dataset: Path,
    recipe: Recipe,
    progress: Progress = silent,
    ledger: Path | None = None,
    teacher: Path | None = None,
) -> Record:
    """Make (or find) the Checkpoint trained on `dataset` in `workspace`, or the student of a `teacher` that was."""
    place = train_.made_from(dataset, recipe, teacher).place(workspace)
    book = ledger or ledgers.place(workspace)
    return train_.train(dataset, place, recipe, teacher=teacher, ledger_file=book, progress=progress)


def generate(
    workspace: Path,
    checkpoint: Path,
    recipe: Recipe,
    executor: Executor | None = None,
    progress: Progress = silent,
    dataset: Path | None = None,
) -> Record:
    """Make (or find) the Cohort sampled from `checkpoint` in `workspace`; where it takes masks, to those of `dataset`."""
    masks = None if dataset is None else generate_.masks_of(checkpoint, recipe, dataset)
    place = generate_.made_from(checkpoint, recipe, masks=masks).place(workspace)
    return generate_.generate(checkpoint, place, recipe, masks=masks, executor=executor, progress=progress)


def validate(
    workspace: Path,
    cohort: Path,
    dataset: Path,
    recipe: Recipe,
    executor: Executor | None = None,
    progress: Progress = silent,
    checkpoint: Path | None = None,
) -> Record:
    """Make (or find) the Report on `cohort` in `workspace`; with the `checkpoint` that made it, that is attacked, too."""
    place = validate_.made_from(cohort, dataset, recipe, checkpoint).place(workspace)
    return validate_.validate(cohort, dataset, place, recipe, checkpoint=checkpoint, executor=executor, progress=progress)


def release(workspace: Path, cohort: Path, report: Path, recipe: Recipe, keys: Keys, progress: Progress = silent) -> Record:
    """Make (or find) the Release of `cohort` in `workspace` and point `release/current` at it.

    Raises GateFailed, and leaves `current` where it was, when the Report did not pass; ConsentError likewise where a patient
    behind the Cohort may not be used.
    """
    book = keys.ledger or ledgers.place(workspace)
    place = release_.made_from(cohort, report, recipe, key_file=keys.signing).place(workspace)
    made = release_.release(cohort, report, place, recipe, key_file=keys.signing, ledger_file=book, progress=progress)
    _point(place.parent / "current", place.name)
    return made


def _point(link: Path, target: str) -> None:
    """Move the pointer in one atomic step: a reader sees the last good release or the new one."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def run(
    source: Path, workspace: Path, recipe: Recipe, keys: Keys, *, executor: Executor | None = None, progress: Progress = silent
) -> Record:
    """Run the whole chain in this process and return the Release; raises GateFailed with the Report's path."""
    generate_.refuse_in_a_run(recipe)
    collection = deidentify(workspace, source, recipe, keys, executor, progress)
    dataset = preprocess(workspace, collection.path, recipe, executor, progress)
    checkpoint = train(workspace, dataset.path, recipe, progress, keys.ledger)
    cohort = generate(workspace, checkpoint.path, recipe, executor, progress, dataset.path)
    report = validate(workspace, cohort.path, dataset.path, recipe, executor, progress, checkpoint.path)
    return release(workspace, cohort.path, report.path, recipe, keys, progress)
