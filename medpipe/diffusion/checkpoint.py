"""Checkpoint on disk: safetensors and JSON, never pickle, and nothing that runs when it is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from medpipe import records
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.device import arrange
from medpipe.diffusion.network import LeanUNet
from medpipe.errors import RecordError
from medpipe.settings import ModelSettings

WEIGHTS, MODEL, CURVE = "weights.safetensors", "model.json", "training.parquet"


def build(model: dict[str, Any]) -> Denoiser:
    """Build the denoiser that `model.json` describes, with fresh weights."""
    settings = ModelSettings.model_validate(model["settings"])
    conditions = Conditions.from_json(model["conditions"])
    network = LeanUNet(settings, model["shape"][0], conditions.width, model["dimensions"])
    return Denoiser(network, model["sigma_data"])


def parameters(module: nn.Module) -> int:
    """Count the weights."""
    return sum(weight.numel() for weight in module.parameters())


def save(folder: Path, weights: dict[str, torch.Tensor], model: dict[str, Any]) -> None:
    """Write the weights and what rebuilds them."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    records.write_json(folder / MODEL, model)


def open_model(folder: Path) -> dict[str, Any]:
    """Read `model.json` of a Checkpoint or a Cohort."""
    try:
        model: dict[str, Any] = json.loads((folder / MODEL).read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder / MODEL} cannot be read ({type(error).__name__}): make the record again") from None
    return model


def open_denoiser(folder: Path, device: str = "cpu") -> Denoiser:
    """Rebuild the trained denoiser of a Checkpoint; raises RecordError when weights and settings do not belong together."""
    model = open_model(folder)
    denoiser = build(model)
    try:
        denoiser.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RecordError(f"{folder} holds weights that its settings do not describe ({type(error).__name__}): train again") from None
    arrange(denoiser, device, model["dimensions"])
    return denoiser.eval().requires_grad_(False)
