"""Trajectories of a teacher: where each of many starts is after some, half and all of the solver's steps.

They are what a student is trained on: synthetic from end to end, made from the teacher's weights and moments and a seed. Blocks
of them lie in the Checkpoint's `state/`, so that a run that was interrupted makes those that are missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpipe import seeds
from medpipe.diffusion import conditioning, gaussian, samplers, schedules
from medpipe.diffusion import device as devices
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import Denoise, Denoiser
from medpipe.diffusion.folded import folded
from medpipe.diffusion.guidance import guided
from medpipe.progress import Progress
from medpipe.recipe import Recipe

JUMPS = 4
"""Jumps of the first stage; a trajectory is kept at its start, after each, and so at JUMPS + 1 nodes."""
BLOCK, AT_ONCE = 256, 32
"""Trajectories of one file, and of one batch."""


def levels(recipe: Recipe) -> Tensor:
    """Return the noise levels (steps + 1,) of the teacher's steps: those of `cohort`, but for their number."""
    cohort = recipe.cohort
    highest = cohort.sigma_start if cohort.start == "gaussian" else cohort.sigma_max
    return schedules.schedule(cohort.schedule, recipe.distill.steps, cohort.sigma_min, highest)


def nodes(recipe: Recipe, jumps: int = JUMPS) -> Tensor:
    """Return the noise levels (jumps + 1,) between which a student of so many jumps goes."""
    return levels(recipe)[:: recipe.distill.steps // jumps]


@dataclass(frozen=True)
class Trajectories:
    """What is known of each start: its conditions (N, K), and the image at each node (N, nodes, C, …) by blocks on disk."""

    vectors: Tensor
    blocks: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        return len(self.vectors)

    def at(self, places: NDArray[np.int64], node: NDArray[np.int64]) -> Tensor:
        """Return where the trajectories `places` (n,) are at `node` (n,): (n, C, …)."""
        return torch.from_numpy(np.stack([self.blocks[p // BLOCK][p % BLOCK, k] for p, k in zip(places, node, strict=True)]))


def conditions(recipe: Recipe, model: dict[str, Any]) -> tuple[Tensor, list[str | None]]:
    """Draw the condition vectors (N, K) of the starts, some of them hidden as the teacher's training hid them, and their classes."""
    asked, count = Conditions.from_json(model["conditions"]), recipe.distill.trajectories
    table = conditioning.draw(asked, count, "as_trained", seeds.generator(recipe.seed, "distill", "conditions"), ())
    generator = torch.Generator().manual_seed(seeds.child(recipe.seed, "distill", "hidden"))
    hidden = model["settings"]["condition_dropout"], [model["settings"]["covariate_dropout"]] * len(asked.items)
    shown = conditioning.shown(count, *hidden, generator)
    labelled = next((number for number, item in enumerate(asked.items) if item.name == "label"), None)
    classes: list[str | None] = [None] * count
    if labelled is not None:
        classes = [name if seen else None for name, seen in zip(table["label"], shown[:, labelled], strict=True)]
    return asked.hide(asked.encode(table), shown), classes


def follow(denoise: Denoise, start: Tensor, sigmas: Tensor, every: int) -> Tensor:
    """Return where DPM-Solver++(2M) takes `start` (N, C, …), after each `every` steps: (N, nodes, C, …)."""
    seen: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return denoise(x, sigma)

    end = samplers.dpmpp_2m(watched, start, sigmas, lambda: torch.zeros(()))  # it asks for no noise
    return torch.stack([*seen[::every], end], dim=1)


@torch.no_grad()
def make(
    recipe: Recipe, teacher: Path, model: dict[str, Any], denoiser: Denoiser, folder: Path, device: str, progress: Progress
) -> Trajectories:
    """Make the blocks that `folder` lacks and open all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    cohort, count = recipe.cohort, recipe.distill.trajectories
    vectors, classes = conditions(recipe, model)
    asked, sigmas = Conditions.from_json(model["conditions"]), levels(recipe)
    moments = gaussian.load(teacher, model["covariances"]) if cohort.start == "gaussian" else None
    highest, every = float(sigmas[0]), recipe.distill.steps // JUMPS
    low, high = cohort.guidance_low, cohort.guidance_high or math.inf
    files = [folder / f"{first:09d}.npy" for first in range(0, count, BLOCK)]
    sampled = folded(denoiser, devices.precision(model["precision"], device))
    for number, file in enumerate(files):
        progress("trajectories", number * BLOCK, count)
        if file.exists():
            continue
        parts = []
        for first in range(number * BLOCK, min((number + 1) * BLOCK, count), AT_ONCE):
            rows = range(first, min(first + AT_ONCE, (number + 1) * BLOCK, count))
            here = vectors[rows.start : rows.stop]
            start = _noise(recipe.seed, rows, model["shape"])
            if moments is None:
                start *= highest
            else:
                start = moments.start(start, *asked.parts(here), classes[rows.start : rows.stop], highest)
            denoise = guided(sampled, here.to(device), cohort.guidance, low=low, high=high)
            parts.append(follow(denoise, start.to(device), sigmas, every).float().cpu())
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as out:
            np.save(out, torch.cat(parts).numpy())
        temporary.replace(file)
    progress("trajectories", count, count)
    return Trajectories(vectors, tuple(np.load(file, mmap_mode="r") for file in files))


def _noise(seed: int, rows: range, shape: list[int]) -> Tensor:
    """Draw unit noise, a generator for each start."""
    generators = [torch.Generator().manual_seed(seeds.child(seed, "distill", "start", row)) for row in rows]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
