"""Pictures of samples while training goes on: a row for each class, the same noise each time.

They stay in the Checkpoint, as the weights do, and go nowhere else: no gate has looked at them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medpipe import preview, records, seeds, store
from medpipe.diffusion import autoencoder, samplers, schedules
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.maps import Maps
from medpipe.images.transforms import to_stored

FOLDER = "previews"
STEPS, COLUMNS, ROWS_MAX = 12, 6, 8


@torch.no_grad()
def draw(denoiser: Denoiser, model: dict[str, Any], folder: Path, seed: int, device: str, masks: torch.Tensor | None = None) -> bytes:
    """Sample COLUMNS images of each of the first classes, from pure noise, as a PNG; `folder` is the Checkpoint's.

    A model that takes masks makes them to the label maps `masks` (N, 1, …), where there are any.
    """
    conditions, maps = Conditions.from_json(model["conditions"]), Maps.from_json(model["maps"], model["shape"][0])
    classes = list(model["classes"])[:ROWS_MAX] or [preview.ALL]
    pictures: dict[str, store.Images] = {}
    decoder, dtype = autoencoder.open_decoder(folder, model, device), autoencoder.image_form(model)["dtype"]
    sigmas = schedules.karras(STEPS, 0.01, 80.0)
    generator = torch.Generator().manual_seed(seeds.child(seed, "preview"))
    for name in classes:
        label = name if model["classes"] else None
        asked = {item.name: [label if item.name == "label" else None] * COLUMNS for item in conditions.items}
        vectors = conditions.encode(pd.DataFrame(asked, index=range(COLUMNS)))
        start = torch.randn(COLUMNS, *model["shape"], generator=generator) * sigmas[0]
        given = maps.join(start.shape, {} if masks is None else {"mask": maps.mask(masks[torch.arange(COLUMNS) % len(masks)])})
        denoise = guided(denoiser, vectors.to(device), 1.0, maps=None if given is None else given.to(device))
        drawn = samplers.dpmpp_2m(denoise, start.to(device), sigmas, _none)
        made = decoder.decode(drawn.float()).cpu().numpy()
        pictures[name] = to_stored(np.nan_to_num(made), dtype)
    return preview.grid(pictures, COLUMNS)


def _none() -> torch.Tensor:
    return torch.zeros(())  # a deterministic sampler asks for no noise


def write(checkpoint: Path, images: int, picture: bytes) -> None:
    """Keep a picture in the Checkpoint that is being made, named by the images seen."""
    records.write_bytes(checkpoint / FOLDER / f"{images:09d}.png", picture)
