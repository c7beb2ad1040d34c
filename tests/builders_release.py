"""Images for a release, and the release as a receiver's eye sees it: every image in it, decoded from whatever file it stands in."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medpipe import seeds, store


def blobs(n: int, shape: Sequence[int], dtype: str, seed: int) -> store.Images:
    """Draw n images (C, H, W) or (C, D, H, W) of one bright ellipse each in noise."""
    draws = seeds.generator(seed, "blobs")
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape[1:]), indexing="ij")
    out = np.empty((n, *shape))
    for i in range(n):
        centre, width = draws.uniform(-0.4, 0.4, len(axes)), draws.uniform(0.2, 0.6, len(axes))
        ball = np.exp(-sum(((axis - c) / w) ** 2 for axis, c, w in zip(axes, centre, width, strict=True)))
        out[i] = np.clip(0.15 + 0.7 * ball + draws.normal(0, 0.04, shape), 0, 1)
    return np.rint(out * np.iinfo(dtype).max).astype(dtype)


def decoded(folder: Path) -> list[NDArray[Any]]:
    """Return every picture (H, W) of the arrays, of the PNG files, and of the pages' data addresses."""
    found = [image[0] for image in store.read(folder)]
    found += [np.asarray(Image.open(path).convert("L")) for path in sorted(folder.rglob("*.png"))]
    for page in sorted(folder.rglob("*.html")):
        for text in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page.read_text()):
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")))
    return found
