"""What a run would do: each stage's place in the workspace, whether it is done, and what it costs in images."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from medpipe import ledger, records
from medpipe.chain import Keys
from medpipe.cohort import generate
from medpipe.cohort import plan as cohort_plan
from medpipe.deid import deidentify
from medpipe.diffusion import networks, train
from medpipe.errors import InputError
from medpipe.gates import validate
from medpipe.images import preprocess
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Noun, Record
from medpipe.release import release

State = Literal["done", "goes on", "to do", "waits"]
GIB = 2**30


@dataclass(frozen=True)
class Step:
    """One stage of a run. It has no place yet where it `waits` for the stage before, or where its key is still to be made."""

    verb: str
    noun: Noun
    place: Path | None
    state: State
    cost: str


def plan(source: Path, workspace: Path, recipe: Recipe, keys: Keys) -> list[Step]:
    """List the six stages of a run without doing any, nor making a key; raises InputError or RecordError where the run would at once."""
    if not source.exists():
        raise InputError(f"there is no source at {source}: give a folder of DICOM files, or an .npz file of arrays")
    generate.refuse_in_a_run(recipe)
    place, key = workspace, keys.signing
    book = keys.ledger or ledger.place(workspace)
    read = partial(deidentify.made_from, source, recipe, key_file=keys.pseudonym, ledger_file=book)
    collection, one = _step("deidentify", "Collection", place, read, secret=keys.pseudonym)
    dataset, two = _step("preprocess", "Dataset", place, lambda path: preprocess.made_from(path, recipe), collection)
    checkpoint, three = _step("train", "Checkpoint", place, lambda path: train.made_from(path, recipe), dataset)
    cohort, four = _step("generate", "Cohort", place, partial(_cohort, recipe), checkpoint, dataset)
    report, five = _step("validate", "Report", place, lambda path, data: validate.made_from(path, data, recipe), cohort, dataset)
    sign = partial(release.made_from, recipe=recipe, key_file=key)
    _, six = _step("release", "Release", place, sign, cohort, report, secret=key)
    costs = _costs(recipe, collection, dataset)
    if report is not None and not report.facts["passed"]:
        costs["release"] = "nothing: a gate said no"
    return [replace(step, cost=costs[step.verb]) for step in (one, two, three, four, five, six)]


def _cohort(recipe: Recipe, checkpoint: Path, dataset: Path) -> MadeFrom:
    return generate.made_from(checkpoint, recipe, masks=generate.masks_of(checkpoint, recipe, dataset))


def _step(
    verb: str, noun: Noun, workspace: Path, made: Callable[..., MadeFrom], *inputs: Record | None, secret: Path | None = None
) -> tuple[Record | None, Step]:
    """Place one stage, where its inputs are there; `made` is given their paths. Without its secret, it has no place yet."""
    paths = [record.path for record in inputs if record is not None]
    if len(paths) < len(inputs):
        return None, Step(verb, noun, None, "waits", "")
    if secret is not None and not secret.exists():
        return None, Step(verb, noun, None, "to do", "")  # the key is part of what it is made from, and a plan makes nothing
    wanted = made(*paths)
    place = wanted.place(workspace)
    record = records.finished(place, wanted)
    state: State = "done" if record else "goes on" if (place / records.MAKING).exists() else "to do"
    return record, Step(verb, noun, place, state, "")


def _costs(recipe: Recipe, collection: Record | None, dataset: Record | None) -> dict[str, str]:
    """What each stage costs, counted in images through a network or read and written."""
    cohort, gates = recipe.cohort, recipe.gates
    made = cohort.images + math.ceil(cohort.images * cohort.spare)
    evaluations = cohort_plan.evaluations(cohort)
    unread = {"shape": [1, *recipe.images.shape], "classes": [], "covariates": []}
    facts = dataset.facts if dataset else unread
    instances = f"{collection.facts['instances']:,} images read" if collection else "every image of the source read"
    before = f"{recipe.autoencoder.images:,} images for the autoencoder, " if recipe.model.space == "latent" else ""
    return {
        "deidentify": instances,
        "preprocess": instances,
        "train": f"{before}{recipe.train.images:,} images of training: {networks.planned(recipe, facts)}; {_step_memory(recipe, facts)}",
        "generate": f"{made:,} images{', spare ones included,' if cohort.spare else ''} × {evaluations} network evaluations",
        "validate": f"{gates.feature_images:,} images for the feature network, {2 * gates.utility_seeds} classifiers",
        "release": f"{cohort.images:,} images copied",
    }


def _step_memory(recipe: Recipe, facts: Mapping[str, Any]) -> str:
    """Say what a step of training takes in memory, and where that is more than this machine has, what to do."""
    needed, here = networks.step_memory(recipe, facts), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"a step takes about {needed / GIB:.2g} GiB"
    return text + (f", and this machine has {here / GIB:.2g}: set train.microbatch, or lower it" if needed > here else "")
