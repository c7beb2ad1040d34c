"""What a run would do: each stage's place in the workspace, whether it is done, and what it costs in images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medpipe import records
from medpipe.chain import Keys
from medpipe.cohort import generate
from medpipe.deid import deidentify
from medpipe.diffusion import train
from medpipe.gates import validate
from medpipe.images import preprocess
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Noun, Record
from medpipe.release import release

State = Literal["done", "goes on", "to do", "waits"]


@dataclass(frozen=True)
class Step:
    """One stage of a run: `waits` means that its place is known only when the stage before it is done."""

    verb: str
    noun: Noun
    place: Path | None
    state: State
    cost: str


def plan(source: Path, workspace: Path, recipe: Recipe, keys: Keys) -> list[Step]:
    """List the six stages of a run without doing any; raises InputError or RecordError where the run would at once."""
    collection, first = _step("deidentify", "Collection", workspace, lambda: deidentify.made_from(source, recipe, key_file=keys.pseudonym))
    dataset, second = _step("preprocess", "Dataset", workspace, collection and (lambda: preprocess.made_from(collection.path, recipe)))
    checkpoint, third = _step("train", "Checkpoint", workspace, dataset and (lambda: train.made_from(dataset.path, recipe)))
    cohort, fourth = _step("generate", "Cohort", workspace, checkpoint and (lambda: generate.made_from(checkpoint.path, recipe)))
    judged = cohort and dataset and (lambda: validate.made_from(cohort.path, dataset.path, recipe))
    report, fifth = _step("validate", "Report", workspace, judged or None)
    shared = cohort and report and (lambda: release.made_from(cohort.path, report.path, recipe, key_file=keys.signing))
    _, sixth = _step("release", "Release", workspace, shared or None)
    costs = _costs(recipe, collection)
    steps = (first, second, third, fourth, fifth, sixth)
    return [Step(step.verb, step.noun, step.place, step.state, costs[step.verb]) for step in steps]


def _step(verb: str, noun: Noun, workspace: Path, made: Callable[[], MadeFrom] | None) -> tuple[Record | None, Step]:
    if made is None:
        return None, Step(verb, noun, None, "waits", "")
    wanted = made()
    place = wanted.place(workspace)
    record = records.finished(place, wanted)
    state: State = "done" if record else "goes on" if (place / records.MAKING).exists() else "to do"
    return record, Step(verb, noun, place, state, "")


def _costs(recipe: Recipe, collection: Record | None) -> dict[str, str]:
    """What each stage costs, counted in images through a network or read and written."""
    cohort, gates = recipe.cohort, recipe.gates
    evaluations = cohort.steps * (2 if cohort.sampler == "heun" else 1)
    instances = f"{collection.facts['instances']:,} images read" if collection else "every image of the source read"
    return {
        "deidentify": instances,
        "preprocess": instances,
        "train": f"{recipe.train.images:,} images of training",
        "generate": f"{cohort.images:,} images × {evaluations} network evaluations",
        "validate": f"{gates.feature_images:,} images for the feature network, {2 * gates.utility_seeds} classifiers",
        "release": f"{cohort.images:,} images copied",
    }
