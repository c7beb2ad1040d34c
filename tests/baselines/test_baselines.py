"""The baselines learn something, obey their conditions, and stand beside diffusion in one table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders_gates import CLASSES, QUICK, dataset, people

from medpipe import cli, recipe, store
from medpipe.baselines.networks import LATENT, Adversarial, Autoencoder
from medpipe.baselines.synthesize import Kind, synthesize
from medpipe.comparison import COLUMNS
from medpipe.errors import MedpipeError

TINY = {
    "train": {"images": 1600, "batch": 32},
    "cohort": {"images": 80, "spare": 0, "steps": 3, "shard": 32, "batch": 16},
    "model": {"channels": [32, 32], "blocks": [1, 1]},
    "gates": QUICK,
    "compute": {"threads": 1, "workers": 1},
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dataset of 260 people."""
    parts = {name: people(n, seed, 24) for seed, (name, n) in enumerate({"train": 130, "holdout": 90, "test": 40}.items())}
    return dataset(tmp_path_factory.mktemp("real") / "dataset", parts, CLASSES).path


@pytest.mark.parametrize("kind", ["vae", "gan"])
def test_a_baseline_comes_nearer_to_the_data_and_shows_the_class_that_was_asked_for(kind: Kind, real: Path, tmp_path: Path) -> None:
    made = synthesize(kind, real, tmp_path / kind, recipe.build(TINY))
    images = store.read(made.path).astype(float)
    train = store.read(real)[:130].astype(float)
    untrained = synthesize(kind, real, tmp_path / "untrained", recipe.build(TINY | {"train": {"images": 32, "batch": 32}}))
    before = np.abs(store.read(untrained.path).mean(0) - train.mean(0)).mean()
    assert np.abs(images.mean(0) - train.mean(0)).mean() < before / 2
    assert images.std(0).mean() > 1
    labels = pd.read_parquet(made.path / "index.parquet")["label"]
    if kind == "vae":  # where the shadow lies, images of its class are brighter; a GAN needs longer for it
        place = np.s_[:, 0, 12:16, 14:18]
        assert images[place][labels == "shadow"].mean() > images[place][labels == "clear"].mean() + 10


def test_the_same_seed_makes_the_same_bytes(real: Path, tmp_path: Path) -> None:
    small = recipe.build(TINY | {"train": {"images": 64, "batch": 32}})
    one, two = (synthesize("gan", real, tmp_path / name, small) for name in ("one", "two"))
    assert np.array_equal(store.read(one.path), store.read(two.path))
    assert synthesize("gan", real, tmp_path / "one", small).content == one.content


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 16, 16), (1, 7, 7)])
@pytest.mark.parametrize("of", [Autoencoder, Adversarial])
def test_images_and_volumes_of_every_size_come_back_in_their_shape(of: type[Autoencoder | Adversarial], shape: tuple[int, ...]) -> None:
    net = of(shape, 3)
    draws = torch.Generator().manual_seed(0)
    clean = torch.rand(2, *shape, generator=draws) * 2 - 1
    assert np.isfinite(net.step(clean, torch.eye(3)[:2], draws))
    made = net.sample(torch.randn(2, LATENT, generator=draws), torch.eye(3)[:2])
    assert made.shape == (2, *shape)
    assert made.abs().max() <= 1


def test_a_loss_that_is_no_number_ends_in_one_sentence(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Autoencoder, "step", lambda *_: float("nan"))
    with pytest.raises(MedpipeError, match="loss of the vae is not a number at image 32"):
        synthesize("vae", real, tmp_path / "vae", recipe.build(TINY))


def test_compare_writes_one_table_and_one_page(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY | {"train": {"images": 128, "batch": 32}}))
    where = [str(real), str(tmp_path / "out"), "--recipe", str(tmp_path / "tiny.yaml")]
    assert cli.main(["compare", *where, "--methods", "vae", "diffusion"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "out" / "comparison.html")
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["vae", "diffusion"]
    assert all(set(row) == {"method", *(column.name for column in COLUMNS)} for row in rows)
    assert all(row["frechet"] > 0 and row["training_seconds"] > 0 for row in rows)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "://" not in page
    assert cli.main(["compare", *where, "--methods", "magic"]) == 2
    assert "there is no method 'magic'" in capsys.readouterr().err
