"""Checkpoint on disk: safetensors and JSON, never pickle, and nothing that runs when it is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medpipe import records
from medpipe.diffusion.augment import Unaugmented
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.device import arrange
from medpipe.diffusion.maps import Maps
from medpipe.diffusion.networks import network, parameters
from medpipe.errors import InputError, RecordError
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
        width = conditions.width + model.get("augmentation", 0)
        inner = network(settings, model["shape"][0], width, model["dimensions"], maps.channels)
        if width > conditions.width:
            inner = Unaugmented(inner, width)
        return Denoiser(inner, model["sigma_data"], settings.preconditioning)
    except (ValidationError, KeyError, TypeError, IndexError) as error:
        raise RecordError(
            f"{MODEL} describes no model of this version of medpipe ({type(error).__name__}): use the version that wrote it, or train again"
        ) from None


def weights_file(width: float) -> str:
    """Name the file of a moving average that is not the default one."""
    return f"weights-{width:g}.safetensors"


def save(folder: Path, averages: Mapping[float, Mapping[str, Tensor]], model: dict[str, Any]) -> None:
    """Write the moving averages by their width, the first as the default one, and what rebuilds them."""
    for number, (width, weights) in enumerate(averages.items()):
        file = WEIGHTS if number == 0 else weights_file(width)
        save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, folder / file)
    records.write_json(folder / MODEL, model | {"ema_widths": list(averages)})


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


def open_denoiser(folder: Path, device: str = "cpu", ema_width: float | None = None) -> Denoiser:
    """Rebuild the trained denoiser of a Checkpoint, of its default moving average or that of `ema_width`.

    Raises RecordError when weights and settings do not belong together, are of another version, or are no numbers, InputError for an
    average that was not kept.
    """
    model = open_model(folder)
    widths = model.get("ema_widths", [])
    if ema_width is not None and ema_width not in widths:
        raise InputError(f"the Checkpoint keeps no average of width {ema_width:g}: it has {', '.join(f'{width:g}' for width in widths)}")
    file = WEIGHTS if ema_width is None or ema_width == widths[0] else weights_file(ema_width)
    denoiser = build(model)
    try:
        weights = load_file(folder / file)
        denoiser.load_state_dict(weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RecordError(f"{folder} holds weights that its settings do not describe ({type(error).__name__}): train again") from None
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise RecordError(f"{folder} holds weights that are not numbers: train again")
    arrange(denoiser, device, model["dimensions"])
    return denoiser.eval().requires_grad_(False)
