"""Builders of tiny Datasets and recipes for the diffusion and cohort rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from medpipe import records, store
from medpipe.recipe import Recipe, build
from medpipe.records import MadeFrom, Record

SMALL = {
    "images": {"size": 8},
    "model": {"channels": [32, 32], "blocks": [1, 1]},
    "train": {"images": 256, "batch": 32, "warmup_images": 64, "state_images": 64, "precision": "fp32"},
    "cohort": {"images": 40, "spare": 0, "shard": 16, "batch": 8, "steps": 4},
    "compute": {"threads": 1, "workers": 1},
}


def small(**sections: Any) -> Recipe:
    """Build a small recipe: `small(train={"images": 64})`."""
    tree: dict[str, Any] = {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {*SMALL, *sections} - {"seed"}}
    return build(tree | ({"seed": sections["seed"]} if "seed" in sections else {}))


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Return a builder of small recipes: `recipe(train={"images": 64})`."""
    return small


def _boxes(images: int, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw masks (n, 1, …) of half the images' sides, label 1 or 2; every ninth image has none."""
    masks = np.zeros((images, 1, *shape[1:]), np.uint8)
    for number in range(images):
        corner = [int(generator.integers(0, side // 2 + 1)) for side in shape[1:]]
        box = (slice(None), *(slice(start, start + side // 2) for start, side in zip(corner, shape[1:], strict=True)))
        masks[number][box] = generator.integers(1, 3) if number % 9 else 0
    return masks


def sealed(out: Path, shape: tuple[int, ...] = (1, 8, 8), images: int = 96, dtype: str = "uint8", masks: bool = False) -> Record:
    """Seal a Dataset: blobs whose brightness is the class and whose size is the age, and lighter boxes where there are masks."""
    generator = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    labels = generator.choice(["dark", "light"], images)
    age = generator.uniform(20, 80, images).round()
    level = np.where(labels == "light", 0.75, 0.25).reshape(-1, *[1] * len(shape))
    drawn = _boxes(images, shape, generator) if masks else None
    level = level if drawn is None else 0.6 * level + 0.25 * drawn
    pixels = (np.clip(level + generator.normal(0, 0.05, (images, *shape)), 0, 1) * top).astype(dtype)
    index = pd.DataFrame({"row": range(images), "image": [f"i{n}" for n in range(images)], "patient": [f"p{n}" for n in range(images)]})
    index["split"] = generator.choice(["train", "validation", "holdout", "test"], images, p=[0.6, 0.1, 0.2, 0.1])
    index["label"], index["age"], index["sex"] = labels, age, generator.choice(["F", "M"], images)
    index.loc[::7, ["age", "sex"]] = None
    with records.making(out, MadeFrom("Dataset", {}, {"shape": list(shape)}, 0, "test")) as making:
        store.create(out, images, shape, dtype, shard=32, masks=masks)
        for rows in store.shards(out):
            here = slice(rows.start, rows.stop)
            store.write_shard(out, rows, pixels[here], None if drawn is None else drawn[here])
        index.to_parquet(out / "index.parquet", index=False)
        covariates = [{"name": "age", "kind": "continuous"}, {"name": "sex", "kind": "categorical", "values": ["F", "M"]}]
        facts = {
            "images": images,
            "shape": list(shape),
            "dtype": dtype,
            "dimensions": len(shape) - 1,
            "classes": ["dark", "light"],
            "covariates": covariates,
            "splits": index["split"].value_counts().to_dict(),
            "masks": masks,
            "spacing_mm": None,
            "modality": None,
            "licence": "CC0-1.0",
        }
        return making.seal(facts)


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Record]:
    """Return a builder of sealed Datasets: `dataset("name", shape=(1, 8, 8))`."""

    def make(name: str = "dataset", **how: Any) -> Record:
        return sealed(tmp_path / name, **how)

    return make
