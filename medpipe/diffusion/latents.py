"""Before diffusion in a latent space: an autoencoder is trained, judged, and its latents are cached as a Dataset.

The latents lie in the Checkpoint's `state/` as a record of their own, in a Dataset's form (sharded store of 16-bit integers,
index, facts), so that the very same training reads them. Mirrored images are images of their own there: a mirrored latent
is not the latent of a mirrored image. Every step goes on where it was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medpipe import __version__, records, store
from medpipe.diffusion import autoencoder as autoencoders
from medpipe.diffusion import reconstruction
from medpipe.diffusion.autoencoder import Autoencoder
from medpipe.diffusion.autoencoder_training import TERMS, AutoencoderTraining
from medpipe.errors import InputError
from medpipe.images.dataset import Dataset, Rows
from medpipe.images.transforms import to_model, to_stored
from medpipe.progress import Progress
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making

FOLDER, TRAINING, CURVE = "latents", "autoencoder.safetensors", "autoencoder.parquet"
GATE_IMAGES = 256
SCALE_IMAGES = 4096
"""Training images on which the latents' centre and scale are measured, evenly spread."""
SHARD = 256
_COPIED = (
    "dimensions",
    "classes",
    "covariates",
    "spacing_mm",
    "patient_orientation",
    "modality",
    "licence",
    "consent",
)


def prepare(data: Dataset, recipe: Recipe, making: Making, progress: Progress) -> tuple[Dataset, Recipe]:
    """Return the Dataset of latents of `data` and the recipe to train on it, doing what is still to be done in `making`.

    Trains the autoencoder, judges it, writes `autoencoder.safetensors` to the Checkpoint and encodes the training and the
    validation split. Raises InputError for images that do not fit the recipe, GateFailed for reconstructions out of bounds.
    """
    _check(data, recipe)
    folder = making.state / FOLDER
    wanted = MadeFrom("Dataset", {"dataset": data.record.content}, recipe.settings("autoencoder"), recipe.seed, __version__)
    if records.finished(folder, wanted) is None:
        images = data.images(data.rows("train"))
        training = AutoencoderTraining(recipe, images, making.state / TRAINING)
        autoencoder = training.fit(progress)
        autoencoder.measure(torch.from_numpy(to_model(images[_spread(len(images), SCALE_IMAGES)])).to(training.device))
        some = data.rows("validation")
        gate = reconstruction.judge(
            reconstruction.measure(autoencoder, data.images(some[_spread(len(some), GATE_IMAGES)])), recipe.autoencoder
        )
        autoencoders.save_to(making.path, autoencoder)
        pd.DataFrame(training.state.curve, columns=["images", *TERMS]).to_parquet(making.path / CURVE, index=False)
        with records.making(folder, wanted) as inner:
            shape = _encode(data, autoencoder, recipe.train.flip, inner, progress)
            described = {
                "shape": list(data.facts["shape"]),
                "dtype": data.facts["dtype"],
                "latent_shape": shape,
                "autoencoder": recipe.settings("autoencoder")["autoencoder"],
                "gate": gate,
                "parameters": sum(weight.numel() for weight in autoencoder.parameters()),
            }
            own = {"shape": shape, "dtype": "uint16", "masks": False, "latent": described}
            took = {"autoencoder_seconds": round(training.state.seconds, 1)}  # not in `latent`, which is payload of the Checkpoint
            inner.seal({key: data.facts.get(key) for key in _COPIED} | own | took)
    unmirrored = recipe.model_copy(update={"train": recipe.train.model_copy(update={"flip": False})})
    return Dataset.open(folder), unmirrored


def stretch(data: Dataset) -> float:
    """Return what brings the values of `data` to a spread of 0.5, for which the recipe's noise levels are meant; images have it."""
    return autoencoders.REACH / 2 if "latent" in data.facts else 1.0


def described(data: Dataset) -> dict[str, Any]:
    """Return what `model.json` has to say so that samples on `data` become images: nothing where they are images."""
    return {"latent": data.facts["latent"]} if "latent" in data.facts else {}


def facts(making: Making) -> dict[str, Any]:
    """Return what the record of a Checkpoint says of its autoencoder and of the form of its images, where they are not what it sees."""
    if not (making.state / FOLDER).exists():
        return {}
    found = records.load(making.state / FOLDER, "Dataset").facts
    latent = found["latent"]
    said = {key: latent[key] for key in ("latent_shape", "parameters")} | latent["gate"] | {"seconds": found["autoencoder_seconds"]}
    return {"shape": latent["shape"], "dtype": latent["dtype"], "autoencoder": said | {"kind": latent["autoencoder"]["kind"]}}


def _check(data: Dataset, recipe: Recipe) -> None:
    sides = data.facts["shape"][1:]
    if any(length % recipe.side for length in sides) or min(sides) < 8:
        raise InputError(
            f"the Dataset's images are {sides} and this autoencoder and model need sides of at least 8 that are multiples of {recipe.side} "
            "(patch × halvings of both): set images.size or images.sides"
        )
    for split in ("train", "validation"):
        if len(data.rows(split)) < 2:
            raise InputError(
                f"the {split} split has {len(data.rows(split))} images, and an autoencoder needs 2 to be {_USES[split]}: add some"
            )


_USES = {"train": "trained on", "validation": "judged by"}


def _spread(count: int, most: int) -> Rows:
    """Return at most `most` places of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


@dataclass(frozen=True)
class _Plan:
    """Which image of the Dataset each latent is of, and whether it is mirrored."""

    rows: Rows
    mirrored: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, data: Dataset, flip: bool) -> _Plan:
        train, validation = data.rows("train"), data.rows("validation")
        rows = np.concatenate([train, *([train] if flip else []), validation])
        mirrored = np.zeros(len(rows), bool)
        mirrored[len(train) : len(rows) - len(validation)] = True
        return cls(rows, mirrored)


def _encode(data: Dataset, autoencoder: Autoencoder, flip: bool, making: Making, progress: Progress) -> list[int]:
    """Write index and latents shard by shard, those that are missing; return the shape of one."""
    out, plan = making.path, _Plan.of(data, flip)
    index = data.index.set_index("row").loc[plan.rows].reset_index(drop=True)
    index.insert(0, "row", range(len(index)))
    index.to_parquet(out / "index.parquet", index=False)
    by = autoencoder.settings.factor
    shape = [autoencoder.settings.latent_channels, *(length // by for length in data.facts["shape"][1:])]
    store.create(out, len(index), tuple(shape), "uint16", shard=min(SHARD, len(index)))
    for rows in store.shards(out):
        mark = making.state / f"shard-{rows.start:09d}.done"
        if not mark.exists():
            _encode_shard(data, autoencoder, plan, out, rows)
            mark.touch()
        progress("encode", rows.stop, len(index))
    store.consolidate(out)
    return shape


def _encode_shard(data: Dataset, autoencoder: Autoencoder, plan: _Plan, out: Path, rows: range) -> None:
    images = torch.from_numpy(to_model(data.images(plan.rows[rows.start : rows.stop])))
    mirrored = torch.from_numpy(plan.mirrored[rows.start : rows.stop])
    images[mirrored] = images[mirrored].flip(-1)
    latents = autoencoder.encode(images.to(autoencoder.mean.device)).cpu()
    store.write_shard(out, rows, to_stored(latents.numpy(), "uint16"))
