"""Datasets and Cohorts with known faults, made by hand: procedural images, or real ones given as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from medpipe import records, store
from medpipe.records import MadeFrom, Record

Images = NDArray[np.unsignedinteger[Any]]
Labels = NDArray[np.int64]
CLASSES = ["clear", "shadow"]
QUICK = {
    "resamples": 20,
    "feature_images": 400,
    "utility_images": 400,
    "utility_seeds": 1,
    "curve_shares": [],
    "copy_planted": 10,
    "copy_practice": 60,
}
"""Settings of gates that take seconds."""


def people(n: int, seed: int, side: int = 24, channels: int = 1, depth: int = 0) -> tuple[Images, Labels]:
    """Draw `n` different images of one population: two lungs in a body, texture of its own, and in class 1 a shadow."""
    draws = np.random.default_rng(seed)
    labels = np.sort(draws.integers(0, 2, n))[draws.permutation(n)].astype(np.int64)
    shape = (depth, side, side) if depth else (side, side)
    grid = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    images = np.empty((n, channels, *shape))
    for k in range(n):
        middle, width, height = draws.normal(0, 0.06, 2), draws.normal(0.75, 0.06), draws.normal(0.85, 0.06)
        y, x = grid[-2] - middle[0], grid[-1] - middle[1]
        body = 0.75 * np.exp(-(((x / width) ** 2 + (y / height) ** 2) ** 3))
        for side_sign, deep in ((-1, draws.normal(0.4, 0.04)), (1, draws.normal(0.33, 0.04))):
            place = draws.normal(0.36, 0.03)
            body -= deep * np.exp(-(((x - side_sign * place) / 0.2) ** 2) - ((y + draws.normal(0, 0.05)) / draws.normal(0.5, 0.04)) ** 2)
        body += 0.05 * ndimage.gaussian_filter(draws.normal(0, 1, shape), 1.5) / 0.15 + draws.normal(0, 0.02, shape)
        body += 0.35 / (1 + np.exp(-(y - draws.normal(0.6, 0.05)) / 0.06)) * (np.abs(x) < 0.8)  # what lies below the lungs
        if labels[k]:
            body += 0.45 * np.exp(-((x - draws.normal(0.35, 0.05)) ** 2 + (y - draws.normal(0.1, 0.1)) ** 2) / 0.05)
        images[k] = body * draws.normal(1, 0.05)
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8), labels


def _sealed(out: Path, noun: Any, images: Images, index: pd.DataFrame, facts: dict[str, Any], shard: int) -> Record:
    made_from = MadeFrom(noun, {"of": records.digest([out.name, int(images.astype(np.int64).sum())])}, {}, 0, "test")
    with records.making(out, made_from) as making:
        store.create(out, len(images), images.shape[1:], images.dtype.name, shard=shard)
        for rows in store.shards(out):
            store.write_shard(out, rows, images[rows.start : rows.stop])
        index.to_parquet(out / "index.parquet", index=False)
        if noun == "Cohort":
            pd.DataFrame({"images": [100, 200], "loss": [1.0, 0.5], "validation_loss": [1.1, 0.6]}).to_parquet(
                out / "training.parquet", index=False
            )
            records.write_json(out / "model.json", {})
        return making.seal(facts)


def _facts(images: Images, classes: list[str], covariates: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": len(images),
        "shape": list(images.shape[1:]),
        "dtype": images.dtype.name,
        "dimensions": images.ndim - 2,
        "classes": classes,
        "covariates": covariates,
        "spacing_mm": None,
        "modality": None,
        "licence": "CC0-1.0",
    }


def _labels(labels: Labels, classes: list[str]) -> list[str | None]:
    return [classes[number] for number in labels] if classes else [None] * len(labels)


def dataset(
    out: Path, parts: dict[str, tuple[Images, Labels]], classes: list[str], covariates: dict[str, list[float]] | None = None
) -> Record:
    """Seal a Dataset of the splits `parts`."""
    images, labels = (np.concatenate([part[number] for part in parts.values()]) for number in (0, 1))
    index = pd.DataFrame({"row": range(len(images)), "image": [f"I{k}" for k in range(len(images))]})
    index["patient"] = [f"P{k}" for k in range(len(images))]
    index["split"] = [name for name, part in parts.items() for _ in part[0]]
    index["label"] = pd.Series(_labels(labels, classes), dtype=object)
    for name, values in (covariates or {}).items():
        index[name] = values
    splits = {name: len(part[0]) for name, part in parts.items()}
    facts = _facts(images, classes, [{"name": name, "kind": "continuous"} for name in covariates or {}])
    more = {"splits": splits, "patients": splits, "excluded": {}, "masks": False, "source_form": "arrays"}
    return _sealed(out, "Dataset", images, index, facts | more, 64)


def cohort(out: Path, images: Images, labels: Labels, classes: list[str], covariates: dict[str, list[float]] | None = None) -> Record:
    """Seal a Cohort."""
    index = pd.DataFrame({"row": range(len(images)), "id": [f"S{k + 1:06d}" for k in range(len(images))]})
    index["label"] = pd.Series(_labels(labels, classes), dtype=object)
    for name, values in (covariates or {}).items():
        index[name] = values
    facts = _facts(images, classes, [{"name": name, "kind": "continuous"} for name in covariates or {}])
    more = {"sampler": "dpmpp_2m", "steps": 20, "evaluations": 20, "guidance": 1.0, "composition": "as_trained", "cost": {}}
    return _sealed(out, "Cohort", images, index, facts | more, 32)


def spoiled(kind: str, images: Images, labels: Labels, draws: np.random.Generator) -> tuple[Images, Labels]:
    """Spoil good images in a known way, by name."""
    unit = images / 255

    def stored(values: NDArray[np.float64]) -> Images:
        return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)

    match kind:
        case "good":
            return images, labels
        case "collapsed":
            rows = draws.choice(len(images), 10, replace=False)[draws.integers(0, 10, len(images))]
            return images[rows], labels[rows]
        case "blurred":
            return stored(ndimage.gaussian_filter(unit, (0, 0, 1, 1))), labels
        case "grainy":
            return stored(unit + draws.normal(0, 0.06, unit.shape)), labels
        case "regraded":
            return stored(unit**1.4), labels
        case "mirrored":
            return np.ascontiguousarray(images[..., ::-1]), labels
        case "some upside down":
            some = draws.random(len(images)) < 0.2
            return np.where(some[:, None, None, None], images[:, :, ::-1], images), labels
        case "labels swapped":
            return images, 1 - labels
        case _:
            raise ValueError(kind)
