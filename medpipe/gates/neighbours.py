"""The internal page: the most suspicious synthetic images beside the real training images that are most alike.

It shows patients, so it is no part of a Report or a Release: it is written only where somebody asks for it, outside every record,
readable by its owner alone. Likeness is correlation at low resolution over mirrored and turned versions: enough to look with.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpipe import preview, records, store
from medpipe.errors import InputError, RecordError
from medpipe.gates.features import shrunk
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model
from medpipe.release import sign
from medpipe.threads import threads

SIDE = {2: 16, 3: 8}
BLOCK = 512
WARNING = "Contains real patients: never share this page, and delete it when you have looked."


def neighbours(cohort: Path, dataset: Path, report: Path, out: Path, *, count: int = 24, near: int = 3) -> Path:
    """Write to `out` the `count` most suspicious images of the Cohort, each beside its `near` nearest training images; return `out`.

    Withheld images come first, then those most like a training image. The page is written with mode 0600. Raises InputError where
    `out` lies in a record or a release, RecordError where the Report is not about this Cohort and Dataset.
    """
    _outside(out)
    made, data, judged = records.load(cohort, "Cohort"), Dataset.open(dataset), records.load(report, "Report")
    if judged.made_from["inputs"] != {"cohort": made.content, "dataset": data.record.content}:
        raise RecordError(f"{report} is a Report on another Cohort or Dataset: validate this one against this Dataset")
    index = pd.read_parquet(cohort / "index.parquet").set_index("row")
    said = pd.read_parquet(report / "images.parquet").set_index("row")
    train = data.rows("train")
    with threads(1):
        gallery = torch.cat([_unit(data.images(train[k : k + BLOCK])) for k in range(0, len(train), BLOCK)])
        best, places = _alike(cohort, gallery, near)
    order = np.lexsort((-best[:, 0], ~said["withheld"].astype(bool).loc[list(range(len(best)))].to_numpy()))[:count]
    entries = []
    for row, image in zip(order, store.read(cohort, np.asarray(order, np.int64)), strict=True):
        real = train[places[row]]
        why = said.loc[row, "reason"] if bool(said.loc[row, "withheld"]) else "not withheld"
        pictures = [_picture(found) for found in data.images(real)]
        entries.append(
            {
                "id": index.loc[row, "id"],
                "why": str(why).replace("_", " "),
                "picture": _picture(image),
                "real": [
                    {"row": int(place), "alike": float(score), "picture": picture}
                    for place, score, picture in zip(real, best[row], pictures, strict=True)
                ],
            }
        )
    _write(out, _page(entries))
    return out


def _outside(out: Path) -> None:
    """Refuse a place from which the page could be shared by accident."""
    place = out.resolve()
    if out.suffix != ".html" or place.is_dir():
        raise InputError(f"{out} is no page: give a path that ends in .html")
    for folder in place.parents:
        if any((folder / name).exists() for name in (records.RECORD, records.MAKING, sign.SUMS)) or folder.name == "release":
            raise InputError(f"{out} lies in a record or a release, and the page shows real patients: give a place outside")


def _unit(images: store.Images) -> Tensor:
    """Bring stored images (N, C, …) to vectors (N, d) of mean 0 and length 1 at low resolution."""
    small = shrunk(torch.from_numpy(to_model(images)).mean(1, keepdim=True), SIDE[images.ndim - 2]).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=1, eps=1e-6)


def _turned(images: store.Images) -> Iterator[store.Images]:
    """Yield the images as they are, mirrored, and turned by quarters where they are square."""
    for mirrored in (images, images[..., ::-1]):
        for quarter in range(4 if images.shape[-1] == images.shape[-2] else 1):
            yield np.ascontiguousarray(np.rot90(mirrored, quarter, (-2, -1)))


def _alike(cohort: Path, gallery: Tensor, near: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return for each image of the cohort the correlations (N, near) with the nearest of `gallery` and their places, best first."""
    scores, places = [], []
    for _, read in store.blocks(cohort):
        found = torch.stack([_unit(version) @ gallery.T for version in _turned(read())]).amax(0)
        top = found.topk(min(near, len(gallery)), dim=1)
        scores.append(top.values.double().numpy())
        places.append(top.indices.numpy())
    return np.concatenate(scores), np.concatenate(places)


def _picture(image: store.Images) -> str:
    return "data:image/png;base64," + base64.b64encode(preview.strip(image[None])).decode()


def _page(entries: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(loader=jinja2.PackageLoader("medpipe.release", "."), autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("neighbours.html.j2").render(entries=entries, warning=WARNING)


def _write(out: Path, text: str) -> None:
    """Write the page so that nobody but its owner can ever read it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
