"""Masks: images that show what their masks say pass, images that do not fail, in two and three dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders_diffusion import sealed

from medpipe import records, store
from medpipe.gates import segmentation, segmenter
from medpipe.gates.job import PLAN, save
from medpipe.gates.verdict import Verdict
from medpipe.images.dataset import Dataset
from medpipe.recipe import build
from medpipe.records import MadeFrom, Record
from medpipe.settings import GatesSettings

GATES = {"segmentation_images": 1500, "curve_seeds": 1, "resamples": 20}


def cohort(out: Path, images: Any, masks: Any) -> Record:
    with records.making(out, MadeFrom("Cohort", {}, {"of": out.name}, 0, "test")) as making:
        store.create(out, len(images), images.shape[1:], images.dtype.name, shard=len(images), masks=True)
        store.write_shard(out, range(len(images)), images, masks)
        pd.DataFrame({"row": range(len(images)), "id": [f"S{k:06d}" for k in range(len(images))], "label": None}).to_parquet(
            out / "index.parquet", index=False
        )
        return making.seal({"images": len(images), "shape": list(images.shape[1:])})


def judged(folder: Path, data: Dataset, images: Any, masks: Any) -> tuple[dict[str, Verdict], dict[str, Any]]:
    recipe, place = build({"gates": GATES}), cohort(folder / "cohort", images, masks).path
    rows = segmentation.parts(place, data, data.rows("holdout"), 0)
    save(folder, PLAN, rows)
    work = segmentation.jobs(place, data.record.path, folder, recipe, rows)
    for job in work:
        save(job.state, job.name, segmentation.perform(job))
    verdicts, table = segmentation.assess(work, recipe.gates, 0)
    assert table is not None
    return {verdict.name: verdict for verdict in verdicts}, table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(sealed(tmp_path_factory.mktemp("masks") / "dataset", shape=(1, 16, 16), masks=True, images=360).path)


def test_other_images_with_their_masks_pass(tmp_path: Path, data: Dataset) -> None:
    rows = np.arange(0, 360, 2)  # real pairs stand for a cohort that is as good as can be
    verdicts, table = judged(tmp_path, data, data.images(rows), data.masks(rows))
    assert {name: verdict.passed for name, verdict in verdicts.items()} == {"mask_fidelity": True, "utility_segmentation": True}
    assert verdicts["mask_fidelity"].baseline > 0.7
    assert verdicts["mask_fidelity"].bound == pytest.approx(0.9 * verdicts["mask_fidelity"].baseline)
    assert len(table["rows"]) == 3


def test_masks_of_other_images_fail_both(tmp_path: Path, data: Dataset) -> None:
    rows = np.arange(0, 360, 2)
    verdicts, _ = judged(tmp_path, data, data.images(rows), np.roll(data.masks(rows), 1, axis=0))
    assert not any(verdict.passed for verdict in verdicts.values())


def test_volumes_of_sides_that_cannot_be_halved_are_segmented() -> None:
    draws = np.random.default_rng(0)
    truth = np.zeros((20, 6, 10, 9), np.int64)
    truth[:, 1:4, 2:7, 3:8] = 1
    images = np.rint(60 + 120 * truth + draws.normal(0, 10, truth.shape)).astype(np.uint8)[:, None]
    net = segmenter.train(images, truth, 1, budget=200, seed=0, names=("a",))
    assert segmenter.dice(net, images, truth).mean() > 0.9
    again = segmenter.train(images, truth, 1, budget=200, seed=0, names=("a",))
    assert np.array_equal(segmenter.dice(net, images, truth), segmenter.dice(again, images, truth))


def test_dice_counts_overlap_over_the_labels_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = np.zeros((3, 4, 4), np.int64)
    truth[0, :2], truth[1, :1], truth[1, 3:] = 1, 1, 2
    drawn = np.zeros_like(truth)
    drawn[0, 1:3] = 1  # half of it, and as much beside: 2 * 4 / (8 + 8)
    drawn[1, :1] = 1  # the first label found, the second not
    maps = torch.nn.functional.one_hot(torch.from_numpy(drawn), 3).movedim(-1, 1).float()
    monkeypatch.setattr(segmenter, "_logits", lambda net, images: maps)
    found = segmenter.dice(torch.nn.Identity(), np.zeros((3, 1, 4, 4), np.uint8), truth)
    assert found[:2].tolist() == [0.5, 0.5]
    assert np.isnan(found[2])


def test_labels_become_classes_and_strange_ones_background() -> None:
    masks = np.array([[[[0, 2, 7, 9]]]], np.uint8)
    assert segmenter.numbered(masks, [2, 9]).tolist() == [[[0, 1, 0, 2]]]


def test_too_few_masks_or_a_network_that_learned_nothing_certify_nothing(tmp_path: Path) -> None:
    recipe = build({"gates": GATES})
    rows = {name: np.arange(3) for name in ("segment_real", "segment_synthetic", "segment_tested")}
    work = segmentation.jobs(tmp_path, tmp_path, tmp_path, recipe, rows)
    for tested in (np.full(10, 0.9), np.full(100, 0.1)):
        for job in work:
            save(tmp_path, job.name, {"tested": tested, "asked": tested})
        verdicts, _ = segmentation.assess(work, recipe.gates, 0)
        assert [verdict.passed for verdict in verdicts] == [False, False]
        assert all("Cannot be certified" in verdict.meaning for verdict in verdicts)


def test_without_masks_there_is_nothing_to_do(tmp_path: Path) -> None:
    plain = Dataset.open(sealed(tmp_path / "dataset", images=40).path)
    assert segmentation.parts(tmp_path, plain, plain.rows("holdout"), 0) == {}
    assert segmentation.jobs(tmp_path, tmp_path, tmp_path, build({}), {}) == []
    assert segmentation.assess([], GatesSettings(), 0) == ([], None)
