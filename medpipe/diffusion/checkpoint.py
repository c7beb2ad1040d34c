"""Checkpoint on disk: safetensors and JSON, never pickle, and nothing that runs when it is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medpipe import records
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.device import arrange
from medpipe.diffusion.maps import Maps
from medpipe.diffusion.networks import network, parameters
from medpipe.errors import RecordError
from medpipe.settings import ModelSettings

__all__ = ["CURVE", "FORM", "MODEL", "WEIGHTS", "build", "open_denoiser", "open_model", "parameters", "save"]
WEIGHTS, MODEL, CURVE = "weights.safetensors", "model.json", "training.parquet"
FORM = 1
"""Version of the form of `model.json`: a later one says things that this medpipe does not know to do."""


def build(model: dict[str, Any]) -> Denoiser:
    """Build the denoiser that `model.json` describes, with fresh weights; raises RecordError where it describes none."""
    try:
        settings = ModelSettings.model_validate(model["settings"])
        conditions, maps = Conditions.from_json(model["conditions"]), Maps.from_json(model.get("maps"), model["shape"][0])
        inner = network(settings, model["shape"][0], conditions.width, model["dimensions"], maps.channels)
        return Denoiser(inner, model["sigma_data"], settings.preconditioning)
    except (ValidationError, KeyError, TypeError, IndexError) as error:
        raise RecordError(
            f"{MODEL} describes no model of this version of medpipe ({type(error).__name__}): use the version that wrote it, or train again"
        ) from None


def save(folder: Path, weights: dict[str, torch.Tensor], model: dict[str, Any]) -> None:
    """Write the weights and what rebuilds them."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    records.write_json(folder / MODEL, model)


def open_model(folder: Path) -> dict[str, Any]:
    """Read `model.json` of a Checkpoint or a Cohort; raises RecordError for one of a later version."""
    try:
        model: dict[str, Any] = json.loads((folder / MODEL).read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder / MODEL} cannot be read ({type(error).__name__}): make the record again") from None
    if not isinstance(model, dict) or model.get("form", FORM) != FORM:
        raise RecordError(
            f"{folder / MODEL} is of another version of medpipe, which this one cannot read: use that version, or train again"
        )
    return model


def open_denoiser(folder: Path, device: str = "cpu") -> Denoiser:
    """Rebuild the trained denoiser of a Checkpoint.

    Raises RecordError when weights and settings do not belong together, are of another version, or are no numbers.
    """
    model = open_model(folder)
    denoiser = build(model)
    try:
        weights = load_file(folder / WEIGHTS)
        denoiser.load_state_dict(weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RecordError(f"{folder} holds weights that its settings do not describe ({type(error).__name__}): train again") from None
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise RecordError(f"{folder} holds weights that are not numbers: train again")
    arrange(denoiser, device, model["dimensions"])
    return denoiser.eval().requires_grad_(False)
