"""A model that learned a few patients by heart, from the source to the verdict, and the same patients with a careful training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders_gates import QUICK

from medpipe import chain
from medpipe.errors import GateFailed
from medpipe.recipe import Recipe

KNOWN, OTHERS, TESTED = 200, 380, 300
SETTINGS = {
    "source": {"form": "arrays", "classes": ["normal", "pneumonia"]},
    "images": {"size": 28, "split": "given", "holdout": 0.52, "validation": 0.13, "test": 0},
    "model": {"patch": 4, "channels": [128], "blocks": [3]},
    "cohort": {"images": 300},
    "gates": QUICK,
    "compute": {"threads": 1, "workers": 1},
}
BY_HEART = {"images": 40_000, "batch": 64, "deduplicate": "off", "preview_images": 0}
CAREFUL = {"images": 40_000, "batch": 64, "augment": 0.8, "stop_gap": 0.1, "preview_images": 0}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_model_that_knows_its_patients_by_heart_is_refused_for_that_and_a_careful_one_is_not(data_dir: Path, tmp_path: Path) -> None:
    with np.load(data_dir / "pneumoniamnist.npz") as held:
        images, places = np.unique(held["train_images"], axis=0, return_index=True)
        some = np.random.default_rng(0).permutation(len(images))[: KNOWN + OTHERS]
        labels = held["train_labels"][places, 0]
        source = tmp_path / "few.npz"
        tested = {"test_images": held["test_images"][:TESTED], "test_labels": held["test_labels"][:TESTED, 0]}
        np.savez(source, train_images=images[some], train_labels=labels[some], **tested)
    workspace = tmp_path / "work"
    keys = chain.keys(workspace)
    keys.pseudonym.parent.mkdir(parents=True)
    keys.pseudonym.write_text("0" * 64)  # a key of chance splits the patients by chance
    keys.pseudonym.chmod(0o600)
    verdicts = {}
    for name, training in (("by heart", BY_HEART), ("careful", CAREFUL)):
        recipe = Recipe.model_validate(SETTINGS | {"train": training})
        with pytest.raises(GateFailed) as refused:  # so few images make no cohort that passes every gate
            chain.run(source, workspace, recipe, keys)
        assert refused.value.report is not None
        report = json.loads((refused.value.report / "report.json").read_text())
        verdicts[name] = {verdict["name"]: verdict for verdict in report["verdicts"]}
    known, careful = (verdicts[name]["membership_model"] for name in ("by heart", "careful"))
    assert not known["passed"]
    assert known["value"] > 0.75
    assert "whether its patient was trained on" in known["meaning"]
    assert careful["value"] < known["value"] - 0.1
    assert verdicts["careful"]["membership_cohort"]["passed"]
    assert verdicts["careful"]["copies_exact"]["passed"]
