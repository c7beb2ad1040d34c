"""A source and a recipe on which the whole chain takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import zoom

TINY: dict[str, Any] = {
    "name": "tiny",
    "source": {"form": "arrays", "classes": ["dark", "bright"], "licence": "CC0-1.0"},
    "images": {"size": 16, "split": "given", "validation": 0.1, "holdout": 0.2, "test": 0.1, "shard": 64, "patients_per_class_min": 1},
    "model": {"channels": [32, 32], "blocks": [1, 1]},
    "train": {"images": 512, "batch": 64, "warmup_images": 64, "state_images": 128, "compile": "off"},
    "cohort": {"images": 64, "spare": 0, "steps": 2, "shard": 32, "batch": 32},
    "gates": {
        "resamples": 20,
        "feature_images": 512,
        "frechet_ratio_max": 1e6,
        "kid_ratio_max": 1e6,
        "precision_drop_max": 1,
        "recall_drop_max": 1,
        "intensity_excess_max": 1,
        "class_shortfall_max": 1,
        "mmd_excess_max": 2,
        "spectrum_excess_max": 1e6,
        "repeats_excess_max": 1,
        "outlier_false_positive": 0,
        "too_good_excess_max": 1e6,
        "condition_drop_max": 1,
        "covariate_drop_max": 1,
        "disclosure_risk_max": 1,
        "utility_images": 512,
        "utility_drop_max": 1,
        "utility_seeds": 1,
        "curve_shares": [],
        "copy_excess_max": 1,
        "copy_false_positive": 1e-9,  # two sampling steps make noise, of which a detector with so little practice knows nothing
        "copy_recall_min": 0,
        "membership_model_excess_max": 0.5,
        "membership_cohort_excess_max": 0.5,
        "copy_planted": 10,
        "copy_practice": 50,
    },
    "compute": {"workers": 1, "threads": 1},
}
IMPOSSIBLE: dict[str, Any] = {"frechet_ratio_max": 1, "kid_ratio_max": 1, "precision_drop_max": 0, "recall_drop_max": 0}
"""Bounds of gates that images of two sampling steps cannot reach."""


def blots(path: Path) -> Path:
    """Write an .npz file in MedMNIST's form: smooth blots, each image its own, brighter in one class than in the other."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for split, count in (("train", 300), ("val", 60), ("test", 60)):
        labels = np.arange(count) % 2
        coarse = rng.normal(0, 1, (count, 5, 5))
        fine = np.stack([zoom(image, 16 / 5, order=3) for image in coarse]) * 45 + rng.normal(0, 3, (count, 16, 16))
        parts[f"{split}_images"] = np.clip(fine + np.where(labels == 1, 150, 100)[:, None, None], 0, 255).astype(np.uint8)
        parts[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(path, **parts)
    return path
