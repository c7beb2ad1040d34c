"""A release as a receiver's eye sees it: every image in it, decoded from whatever file it stands in."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medpipe import store


def decoded(folder: Path) -> list[NDArray[Any]]:
    """Return every picture (H, W) of the arrays, of the PNG files, and of the pages' data addresses."""
    found = [image[0] for image in store.read(folder)]
    found += [np.asarray(Image.open(path).convert("L")) for path in sorted(folder.rglob("*.png"))]
    for page in sorted(folder.rglob("*.html")):
        for text in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page.read_text()):
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")))
    return found
