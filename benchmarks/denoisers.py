"""Networks by the processor seconds of a training step, preconditionings by what a short training makes of PneumoniaMNIST.

Needs `pneumoniamnist.npz` in the folder that MEDPIPE_DATA names (default: ../shared/data). Takes some ten minutes of one
core. Fréchet distances are to the training split over that of real held-out images of the same number, in the texture and
pixel spaces of the gates; so short a training ranks how fast a preconditioning learns, not where it ends.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.table import Row
from medpipe import chain, store
from medpipe import recipe as recipes
from medpipe.cohort.generate import generate
from medpipe.diffusion import preconditioning
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.networks import network
from medpipe.diffusion.train import train
from medpipe.gates.features import Directions, Texture, shrunk
from medpipe.gates.fidelity import frechet, moments
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model
from medpipe.recipe import Recipe
from medpipe.settings import ModelSettings, Network, Preconditioning

LONG = True
IMAGES, SAMPLES, ROUNDS, BATCH = 12_000, 512, 7, 32


def rows() -> Iterator[Row]:
    """Measure the networks, then the preconditionings."""
    torch.set_num_threads(1)
    yield from _networks()
    yield from _preconditionings()


def _networks() -> Iterator[Row]:
    """Time a training step at 28² of each network of size small, by turns, in processor seconds of one thread."""
    seconds: dict[Network, list[float]] = {name: [] for name in get_args(Network)}
    steps = {name: _Step(name) for name in seconds}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            seconds[name].append(time.process_time() - begun)
    rate = {name: BATCH / float(np.median(taken[1:])) for name, taken in seconds.items()}
    for name in ("lean_unet", "transformer"):
        yield Row(f"training, {name} small, 28²", rate[name], "images/s", "monai_unet small", rate["monai_unet"])


class _Step:
    """One optimiser step of a network of size small on a batch of noise, in fp32."""

    def __init__(self, name: Network) -> None:
        self.settings = ModelSettings(network=name, size="small")
        self.denoiser = Denoiser(network(self.settings, 1, 3, 2), 0.5)
        self.optimizer = torch.optim.AdamW(self.denoiser.parameters(), fused=True)
        self.draws = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        clean, noise = (torch.randn(BATCH, 1, 28, 28, generator=self.draws) for _ in range(2))
        sigma = preconditioning.draw(self.settings, BATCH, self.draws)
        loss = self.denoiser.loss(clean, sigma, noise, torch.ones(BATCH, 3)).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def _preconditionings() -> Iterator[Row]:
    source = Path(os.environ.get("MEDPIPE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pneumoniamnist.npz"
    if not source.is_file():
        sys.exit("no pneumoniamnist.npz: set MEDPIPE_DATA to the folder that holds it")
    with tempfile.TemporaryDirectory() as scratch:
        place, plain = Path(scratch), _recipe("karras")
        collection = chain.deidentify(place, source, plain, chain.keys(place))
        data = Dataset.open(chain.preprocess(place, collection.path, plain).path)
        real, held_out = (data.images(data.rows(split)) for split in ("train", "holdout"))
        floor = _distances(real, held_out[:SAMPLES])
        for name in get_args(Preconditioning):
            recipe = _recipe(name)
            checkpoint = train(data.record.path, place / f"{name}-checkpoint", recipe)
            made = store.read(generate(checkpoint.path, place / f"{name}-cohort", recipe).path)
            for space, found in _distances(real, made).items():
                yield Row(f"Fréchet distance, {space}, {name}", found, "", "real held-out images", floor[space])


def _recipe(name: Preconditioning) -> Recipe:
    return recipes.load(
        "pneumoniamnist",
        {
            "model": {"preconditioning": name, "size": "tiny"},
            "train": {"images": IMAGES, "batch": 64, "warmup_images": 1000, "learning_rate": 1.5e-3},
            "cohort": {"images": SAMPLES},
            "compute": {"threads": 1, "workers": 1},
        },
    )


def _distances(real: NDArray[np.unsignedinteger], made: NDArray[np.unsignedinteger]) -> dict[str, float]:
    """Fréchet distance of `made` to `real` in each space, whitened on `real`."""
    texture = Texture(real.shape[1:], 0)
    found = {}
    with torch.inference_mode():
        batches = [torch.from_numpy(to_model(images)) for images in (real, made)]
        for space, of in (("texture", texture), ("pixels", lambda images: shrunk(images, 16).flatten(1))):
            features = [of(batch).double().numpy() for batch in batches]
            directions = Directions.fit(features[0])
            found[space] = frechet(*(moments(directions(part)) for part in features))
    return found
