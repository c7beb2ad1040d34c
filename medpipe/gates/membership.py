"""What a Checkpoint tells of an image: the losses by which an attacker guesses whether it was trained on.

The attacker has the model, the image and its class, and none of the training's randomness. Losses are taken with noise that is
fixed for each image, as mean over the noise and its opposite, which cancels what is odd in it. Two further scores
need no draw at all: they follow the model's own path from the image and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpipe import records, seeds
from medpipe.diffusion import autoencoder, canaries, checkpoint
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.maps import Maps
from medpipe.errors import InputError
from medpipe.gates import fidelity
from medpipe.gates.job import PLAN, Arrays, Job, found
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model
from medpipe.records import Record

LEVELS = (0.125, 0.5, 2.0)
"""Noise levels in units of σ_data: below, about and above the spread of the images."""
NEAR, STEP, FAR = 0.05, 0.25, 0.3
"""Levels of the scores without a draw: where the model's own noise is read, where it is put to use, and one step beyond."""
SCORES = (*(f"loss at {level:g} σ_data" for level in LEVELS), "own noise", "step and back")
BATCH = 128
CANARIES = "canaries"
_TINY = 1e-12


class Attacked:
    """A Checkpoint in an attacker's hands."""

    def __init__(self, folder: Path) -> None:
        self.model = checkpoint.open_model(folder)
        self.denoiser = checkpoint.open_denoiser(folder)
        self.conditions = Conditions.from_json(self.model["conditions"])
        self.maps = Maps.from_json(self.model.get("maps"), self.model["shape"][0])
        latent = self.model.get("latent")
        self.encoder = None if latent is None else autoencoder.open_autoencoder(folder, latent)

    def seen(self, data: Dataset, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return images of a Dataset as the denoiser sees them (N, C, …), and what they are conditioned on (N, K)."""
        images = torch.from_numpy(to_model(data.images(rows)))
        images = images if self.encoder is None else self.encoder.encode(images)
        asked = self.conditions.encode(data.index.set_index("row").loc[rows], unseen="hide")
        return images - self.model["data_mean"], asked

    @torch.inference_mode()
    def scores(self, clean: Tensor, conditions: Tensor, numbers: Sequence[int], seed: int) -> NDArray[np.float64]:
        """Return ln of SCORES of images (N, C, …): (N, len(SCORES)), small where the model knows an image.

        `numbers` names each image, so that its noise does not depend on which others are asked for. Spatial conditions are left out.
        """
        parts = []
        for start in range(0, len(clean), BATCH):
            here = slice(start, start + BATCH)
            maps = self.maps.join(clean[here].shape, {})
            parts.append(_scores(self.denoiser, clean[here], conditions[here], maps, noise(clean[here], numbers[here], seed)))
        return np.concatenate(parts) if parts else np.empty((0, len(SCORES)))


def noise(images: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
    """Draw unit noise (N, levels, C, …), each image's from its own generator."""
    shape = (len(LEVELS), *images.shape[1:])
    generators = (torch.Generator().manual_seed(seeds.child(seed, "gates", "membership", int(number))) for number in numbers)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _scores(denoiser: Denoiser, clean: Tensor, conditions: Tensor, maps: Tensor | None, drawn: Tensor) -> NDArray[np.float64]:
    def estimated(x: Tensor, sigma: float) -> Tensor:
        result: Tensor = denoiser(x, torch.full((len(x),), sigma), conditions, maps)
        return result

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).double().square().flatten(1).mean(1)

    unit = float(denoiser.sigma_data)
    columns = []
    for place, level in enumerate(LEVELS):
        sigma, n = level * unit, drawn[:, place]
        pair = [distance(estimated(clean + sign * sigma * n, sigma), clean) for sign in (1, -1)]
        columns.append((pair[0] + pair[1]) / 2)
    near, step, far = (level * unit for level in (NEAR, STEP, FAR))
    own = clean - estimated(clean, near)  # the model's own noise, of unit size as in PIAN (Kong et al. 2024, section 3.3)
    own = own / own.flatten(1).std(1).clamp(min=_TINY).reshape(-1, *[1] * (clean.ndim - 1))
    x = clean + step * own
    there = estimated(x, step)
    columns.append(distance(there, clean))
    # one step of the probability flow away and one back (SecMI's t-error; Duan et al. 2023, equation 11, in the variables of Karras)
    beyond = x + (far - step) * (x - there) / step
    back = beyond + (step - far) * (beyond - estimated(beyond, far)) / far
    columns.append(distance(back, x))
    return np.asarray(torch.stack(columns, 1).clamp(min=_TINY).log().numpy(), dtype=np.float64)


def belongs(model: Record, cohort: Record, data: Record) -> None:
    """Raise InputError unless the Checkpoint made the Cohort, and learned from the Dataset."""
    if cohort.made_from["inputs"].get("checkpoint") != model.content:
        raise InputError(f"{cohort.path} was not made by the Checkpoint {model.path}: give the one it was sampled from, or none")
    if model.made_from["inputs"].get("dataset", data.content) != data.content:
        raise InputError(f"the Checkpoint {model.path} was not trained on {data.path}: validate against the Dataset that it was trained on")


def chosen(train: NDArray[np.int64], holdout: NDArray[np.int64], most: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Choose the rows that are attacked, at most `most` of each kind."""
    kinds = {"members": train, "others": holdout}
    return {f"attack_{who}": np.sort(seeds.generator(seed, "gates", "attack", who).permutation(rows)[:most]) for who, rows in kinds.items()}


def planned(cohort: Path, dataset: Path, state: Path, recipe: str, rows: Mapping[str, NDArray[np.int64]], model: Path) -> list[Job]:
    """Return the jobs that attack the Checkpoint `model`."""
    count = 2 * int(records.load(model, "Checkpoint").facts.get("canaries", 0))
    return [Job("attack", CANARIES, 0, count, cohort, dataset, state, recipe, model)] * bool(count) + [
        Job("attack", who, start, min(start + BATCH, len(rows[f"attack_{who}"])), cohort, dataset, state, recipe, model)
        for who in ("members", "others")
        for start in range(0, len(rows[f"attack_{who}"]), BATCH)
    ]


def attack(job: Job) -> Arrays:
    """Attack a block of members or others, or the canaries: the model's scores, and statistics of the images."""
    assert job.checkpoint is not None
    seed, _ = job.settings
    data, model = Dataset.open(job.dataset), Attacked(job.checkpoint)
    if job.what == CANARIES:
        images = canaries.made(data, job.stop // 2, records.load(job.checkpoint, "Checkpoint").made_from["seed"])
        clean = torch.from_numpy(to_model(images)) - model.model["data_mean"]
        asked = torch.zeros(len(images), model.conditions.width)
        return {"scores": model.scores(clean, asked, range(-len(images), 0), seed)}
    rows = found(job.state, PLAN)[f"attack_{job.what}"][job.start : job.stop]
    return {"scores": model.scores(*model.seen(data, rows), rows.tolist(), seed), **fidelity.statistics(data.images(rows))}
