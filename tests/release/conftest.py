"""Builders of a Cohort and a Report in their real formats, made from procedural images in a second.

`cohort(path)` and `report(path, cohort)` write records as the verbs do; every argument bends one thing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders_release import blobs

from medpipe import records, seeds, store
from medpipe.gates.verdict import Verdict, judge
from medpipe.recipe import Recipe, build
from medpipe.records import MadeFrom, Record
from medpipe.release import report_page

CLASSES = ("NORMAL", "PNEUMONIA")
DATASET, CHECKPOINT, COLLECTION = "d" * 64, "c" * 64, "a" * 64

Build = Callable[..., Record]


def make_cohort(
    path: Path,
    *,
    images: int = 24,
    shape: Sequence[int] = (1, 16, 16),
    dtype: str = "uint8",
    classes: Sequence[str] = CLASSES,
    shard: int = 8,
    seed: int = 7,
    masks: bool = False,
    checkpoint: str = CHECKPOINT,
    site: str = "site-3f9a",
    asked: int | None = None,
    planted: Callable[[store.Images], store.Images] = lambda images: images,
) -> Record:
    made_from = MadeFrom("Cohort", {"checkpoint": checkpoint}, Recipe().settings("cohort"), seed, "0.1.0")
    with records.making(path, made_from) as making:
        store.create(path, images, tuple(shape), dtype, shard=shard, masks=masks, attributes={"synthetic": True})
        pixels = planted(blobs(images, shape, dtype, seed))
        mask = (pixels[:, :1] > np.iinfo(dtype).max // 2).astype("uint8") if masks else None
        for rows in store.shards(path):
            span = slice(rows.start, rows.stop)
            store.write_shard(path, rows, pixels[span], None if mask is None else mask[span])
        store.consolidate(path)
        draws = seeds.generator(seed, "index")
        pd.DataFrame(
            {
                "row": range(images),
                "id": [f"S{i + 1:06d}" for i in range(images)],
                "label": [classes[i % len(classes)] for i in range(images)] if classes else [None] * images,
                "age": np.round(draws.uniform(20, 89, images), 1),
                "site": [site] * images,
            }
        ).to_parquet(path / "index.parquet", index=False)
        records.write_json(path / "model.json", {"shape": list(shape), "dtype": dtype, "parameters": 1000})
        steps = np.arange(1, 61)
        losses = 0.9 * np.exp(-steps / 12) + 0.08 + 0.01 * np.sin(steps)
        held = [value + 0.02 if i % 6 == 0 else math.nan for i, value in enumerate(losses)]
        pd.DataFrame({"images": steps * 2000, "loss": losses, "validation_loss": held}).to_parquet(path / "training.parquet", index=False)
        facts = {
            "images": images,
            "asked": asked or images,
            "shape": list(shape),
            "dtype": dtype,
            "dimensions": len(shape) - 1,
            "classes": list(classes),
            "covariates": [{"name": "age", "kind": "continuous"}, {"name": "site", "kind": "categorical", "values": [site]}],
            "sampler": "dpmpp_2m",
            "steps": 20,
            "guidance": 1.0,
            "evaluations": 20,
            "composition": "as_trained",
            "spacing_mm": None,
            "modality": "CR",
            "licence": "CC BY 4.0",
            "cost": {"seconds": 1.0},
        }
        return making.seal(facts)


def verdicts(failed: Sequence[str] = ()) -> list[Verdict]:
    """One verdict of each kind and direction; those named in `failed` get a value on the wrong side."""
    plan: list[tuple[str, Any, float, tuple[float, float], float, Any, float, int, str]] = [
        ("exact_copies", "privacy", 0, (0, 0.004), 0, "at most", 0, 960, "No synthetic image equals a training image, mirrored or turned."),
        (
            "near_copies",
            "privacy",
            0.004,
            (0.001, 0.011),
            0.03,
            "at most",
            0.01,
            960,
            "Share of synthetic images that come as near to a training image as a copy would.",
        ),
        (
            "frechet_ratio",
            "fidelity",
            1.31,
            (1.22, 1.4),
            1.5,
            "at most",
            1.0,
            512,
            "How far synthetic images as a whole lie from real ones.",
        ),
        (
            "recall",
            "fidelity",
            0.71,
            (0.66, 0.75),
            0.58,
            "at least",
            0.78,
            512,
            "Share of real images that look like some synthetic image.",
        ),
        (
            "utility",
            "utility",
            0.931,
            (0.917, 0.944),
            0.921,
            "at least",
            0.951,
            624,
            "AUC on real test images of a classifier trained on these.",
        ),
        ("value_range", "table", 1, (1, 1), 1, "at least", 1, 960, "Every value in the table is one that was asked for."),
    ]
    out = []
    for name, kind, value, interval, bound, direction, baseline, n, meaning in plan:
        if name in failed:
            value = bound * 1.6 + 0.1 if direction == "at most" else bound * 0.6
            interval = (0.9 * value, 1.1 * value)
        out.append(judge(name, kind, value, interval, bound=bound, direction=direction, baseline=baseline, n=n, meaning=meaning))
    return out


def report_text(cohort: Record, failed: Sequence[str] = ()) -> dict[str, Any]:
    """The text of a report.json on `cohort`."""
    index = pd.read_parquet(cohort.path / "index.parquet")
    found = verdicts(failed)
    ages, edges = np.histogram(index["age"], bins=np.arange(20, 95, 5))
    classes = list(cohort.facts["classes"])
    return {
        "passed": all(verdict.passed for verdict in found),
        "verdicts": [verdict.as_json() for verdict in found],
        "not_assessed": [
            {"what": "membership inference", "why": "No attack was run that uses the model's weights; the weights are not released."},
            {"what": "fairness", "why": "There are fewer than two groups that are large enough to be compared."},
        ],
        "distributions": {
            "age": {
                "kind": "continuous",
                "edges": [float(edge) for edge in edges],
                "real": [None, None, 15, 22, 31, 44, 58, 71, 80, 66, 42, 23, None, None],
                "synthetic": [int(count) for count in ages],
            },
            "sex": {"kind": "categorical", "edges": ["female", "male"], "real": [230, 250], "synthetic": [11, 13]},
        },
        "composition": [
            {"label": name, "real": 1214 if i == 0 else 3494, "synthetic": int((index["label"] == name).sum())}
            for i, name in enumerate(classes)
        ],
        "copy_detector": [
            {"what": "exact", "recall": 1.0, "low": 0.912, "high": 1.0, "n": 40, "required": True},
            {"what": "mirrored", "recall": 1.0, "n": 40},
            {"what": "strong_grain", "recall": 0.65, "low": 0.483, "high": 0.794, "n": 40, "required": False},
        ],
        "small_cell": 11,
        "cohort": {"images": cohort.facts["images"]},
        "dataset": {"licence": "CC BY 4.0", "modality": "CR", "images": 4708},
        "training": {},
    }


def make_report(
    path: Path,
    cohort: Record,
    *,
    failed: Sequence[str] = (),
    withheld: Sequence[int] = (),
    hidden: Mapping[int, str] | None = None,
    dataset: str = DATASET,
    **changes: Any,
) -> Record:
    settings = Recipe().settings("gates")
    made_from = MadeFrom("Report", {"cohort": cohort.content, "dataset": dataset}, settings, 0, "0.1.0")
    text = {**report_text(cohort, failed), **changes}
    rows = int(cohort.facts["images"])
    with records.making(path, made_from) as making:
        records.write_json(path / "report.json", text)
        frame = pd.DataFrame({"row": range(rows), "withheld": [row in withheld for row in range(rows)], "reason": [""] * rows})
        if hidden is not None:
            frame["hidden"] = [hidden.get(row, "") for row in range(rows)]
        frame.to_parquet(path / "images.parquet", index=False)
        pd.DataFrame(text["verdicts"]).to_parquet(path / "metrics.parquet", index=False)
        records.write_json(path / "expectations.json", {"success": True})
        (path / "report.html").write_text(report_page.render(text, cohort.path, withheld=withheld))
        failing = [verdict["name"] for verdict in text["verdicts"] if not verdict["passed"]]
        facts = {"passed": text["passed"], "gates": len(text["verdicts"]), "failed": failing, "withheld": len(withheld), "images": rows}
        return making.seal(facts)


@pytest.fixture
def cohort() -> Build:
    return make_cohort


@pytest.fixture
def report() -> Build:
    return make_report


@pytest.fixture
def recipe() -> Recipe:
    return build(
        {
            "release": {
                "name": "chest-demo",
                "title": "Synthetic chest radiographs",
                "creator": "Demo Hospital",
                "contact": "data@hospital.example",
            }
        }
    )


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a Cohort, a Report that withheld two images, and their Release; tests copy it before they alter it."""
    from medpipe.release.release import made_from, release

    root = tmp_path_factory.mktemp("workspace")
    chosen = build({"release": {"name": "chest-demo", "title": "Synthetic chest radiographs", "creator": "Demo Hospital"}})
    first = MadeFrom("Cohort", {"checkpoint": CHECKPOINT}, Recipe().settings("cohort"), 7, "0.1.0")
    drawn = make_cohort(first.place(root))
    second = MadeFrom("Report", {"cohort": drawn.content, "dataset": DATASET}, Recipe().settings("gates"), 0, "0.1.0")
    judged = make_report(second.place(root), drawn, withheld=(3, 9))
    key = root / "private" / "signing.key"
    release(drawn.path, judged.path, made_from(drawn.path, judged.path, chosen, key_file=key).place(root), chosen, key_file=key)
    return root


def release_folder(workspace: Path) -> Path:
    """The one shareable folder of a workspace."""
    (found,) = sorted((workspace / "release").glob("*/*/SHA256SUMS"))
    return found.parent


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
