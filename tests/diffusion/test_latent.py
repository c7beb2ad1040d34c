"""Latent diffusion: an autoencoder is trained, judged and cached before the same training runs on its latents."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medpipe import records, store
from medpipe.cohort.generate import generate
from medpipe.diffusion import autoencoder_losses, autoencoder_training, latents, reconstruction
from medpipe.diffusion.autoencoder import PART_PIXELS, Autoencoder, open_autoencoder
from medpipe.diffusion.checkpoint import open_denoiser, open_model
from medpipe.diffusion.train import train
from medpipe.errors import GateFailed, InputError, MedpipeError, RecordError
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Record
from medpipe.settings import AutoencoderSettings

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]
OPEN = {"psnr_min_db": 0, "ssim_min": -1, "detail_min": 0, "detail_max": 1e6}
TINY: dict[str, Any] = {"channels": [8, 16], "latent_channels": 2, "images": 96, "batch": 8, "codes": 16, "state_images": 24}
MODEL = {"space": "latent", "patch": 1, "channels": [32], "blocks": [1]}


@pytest.fixture
def latent(recipe: Recipes) -> Callable[..., Recipe]:
    """A small recipe in latent space whose gate lets everything pass, but for what is given."""

    def make(autoencoder: dict[str, Any] | None = None, **sections: Any) -> Recipe:
        return recipe(model=MODEL, autoencoder={**TINY, **OPEN, **(autoencoder or {})}, **sections)

    return make


def built(kind: str = "kl", shape: tuple[int, ...] = (1, 16, 16), **settings: Any) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderSettings.model_validate({**TINY, "kind": kind, **settings}), shape[0], len(shape) - 1).eval()


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 16), (1, 8, 8, 8)])
def test_a_latent_checkpoint_makes_images_of_the_datasets_form(
    tmp_path: Path, dataset: Datasets, latent: Recipes, kind: str, shape: tuple[int, ...]
) -> None:
    settings = latent({"kind": kind}, images={"dimensions": len(shape) - 1}, train={"images": 64}, cohort={"images": 12, "steps": 3})
    made = train(dataset(shape=shape, images=48, dtype="uint16").path, tmp_path / "checkpoint", settings)
    assert {"autoencoder.safetensors", "autoencoder.parquet", "weights.safetensors", "gaussian.safetensors"} <= set(made.files)
    assert (made.facts["shape"], made.facts["dtype"]) == (list(shape), "uint16")
    assert made.facts["autoencoder"]["latent_shape"] == [2, *(side // 2 for side in shape[1:])]
    assert made.facts["sigma_data"] == pytest.approx(0.5, rel=0.25), "as images have it, on the training split as a whole"
    cohort = generate(made.path, tmp_path / "cohort", settings)
    images = store.read(cohort.path)
    assert (images.shape, images.dtype) == ((12, *shape), np.uint16)
    assert cohort.facts["shape"] == list(shape)
    assert images.std() > 0


def test_latents_are_cached_as_a_dataset_of_the_two_splits(tmp_path: Path, dataset: Datasets, latent: Recipes) -> None:
    source = Dataset.open(dataset(dtype="uint8").path)
    settings = latent(train={"flip": True})
    with records.making(tmp_path / "out", MadeFrom("Checkpoint", {}, {}, 0, "test")) as making:
        cached, unmirrored = latents.prepare(source, settings, making, lambda *_: None)
        assert not unmirrored.train.flip, "mirrored latents would be no latents of mirrored images"
        assert cached.facts["shape"] == [2, 4, 4]
        train_rows, validation_rows = source.rows("train"), source.rows("validation")
        assert len(cached.rows("train")) == 2 * len(train_rows)
        assert set(cached.index["split"]) == {"train", "validation"}, "the gates' own images stay unseen"
        autoencoder = open_autoencoder(making.path, cached.facts["latent"])
        expected = np.concatenate([source.images(train_rows), source.images(train_rows)[..., ::-1], source.images(validation_rows)])
        found = torch.from_numpy(to_model(cached.images()))
        assert torch.allclose(found, autoencoder.encode(torch.from_numpy(to_model(expected))).clamp(-1, 1), atol=1e-4)
        labels = source.index.set_index("row").loc[np.concatenate([train_rows, train_rows, validation_rows]), "label"]
        assert cached.index["label"].tolist() == labels.tolist()
        before = cached.record
        assert latents.prepare(source, settings, making, lambda *_: pytest.fail("worked again"))[0].record == before


def test_an_autoencoder_that_learned_nothing_is_refused_with_its_figures(tmp_path: Path, dataset: Datasets, latent: Recipes) -> None:
    settings = latent({"images": 8, "psnr_min_db": 30, "ssim_min": 0.9, "detail_min": 0.7, "detail_max": 1.4})
    source = dataset().path
    for _ in range(2):  # asked again, it says no again
        with pytest.raises(GateFailed, match=r"PSNR [\d.]+ dB \(at least 30; .*\), SSIM .* \(at least 0\.9\).*autoencoder\.images"):
            train(source, tmp_path / "out", settings)
    assert not (tmp_path / "out" / "record.json").exists()
    assert not (tmp_path / "out" / "state" / "training.safetensors").exists(), "no diffusion before the gate"


def test_an_autoencoder_that_learned_passes_the_bounds_that_it_failed(recipe: Recipes, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 16)
    towards = generator.uniform(-1, 1, (64, 2, 1, 1))
    waves = np.sin(3 * (towards[:, :1] * ramp[:, None] + towards[:, 1:] * ramp)) * 100 + 128
    images = waves.astype(np.uint8)
    settings = recipe(model=MODEL, autoencoder={**TINY, "images": 800, "learning_rate": 4e-3, "adversarial_start": 0.95})
    trained = autoencoder_training.AutoencoderTraining(settings, images, tmp_path / "state").fit(lambda *_: None)
    trained.measure(torch.from_numpy(to_model(images)))
    found = reconstruction.measure(trained, images)
    bounds = AutoencoderSettings(psnr_min_db=18, ssim_min=0.8, detail_min=0, detail_max=1e6)
    assert reconstruction.judge(found, bounds)["psnr_db"] > 18
    fresh = reconstruction.measure(built(), images)
    assert fresh.psnr_db < 14 < 18 < found.psnr_db
    with pytest.raises(GateFailed):
        reconstruction.judge(fresh, bounds)


def _train(source: Path, out: Path, text: str) -> None:
    train(source, out, Recipe.model_validate_json(text))


@pytest.mark.parametrize(
    ("kind", "there"), [("vq", "autoencoder.safetensors"), pytest.param("kl", "training.safetensors", marks=pytest.mark.slow)]
)
def test_a_killed_training_ends_in_the_same_bytes(tmp_path: Path, dataset: Datasets, latent: Recipes, kind: str, there: str) -> None:
    settings = latent(
        {"kind": kind, "images": 480, "state_images": 64, "adversarial_start": 0.3}, train={"images": 640, "state_images": 64}
    )
    source = dataset(images=48).path
    whole = train(source, tmp_path / "whole", settings)
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(source, tmp_path / "cut", settings.model_dump_json()))
    process.start()
    state = tmp_path / "cut" / "state" / there
    while process.is_alive() and not state.exists():
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "cut" / "record.json").exists(), "killed too late to test anything"
    assert state.exists()
    resumed = train(source, tmp_path / "cut", settings)
    assert resumed.content == whole.content


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_an_autoencoder_goes_on_exactly(tmp_path: Path, latent: Recipes, kind: str) -> None:
    settings = latent({"kind": kind, "images": 80, "state_images": 16, "adversarial_start": 0.3}, train={"flip": True})
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)

    def stop(what: str, done: int, total: int) -> None:
        if done == 40:  # the last state is of image 32
            raise KeyboardInterrupt

    whole = autoencoder_training.AutoencoderTraining(settings, images, tmp_path / "whole").fit(lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        autoencoder_training.AutoencoderTraining(settings, images, tmp_path / "cut").fit(stop)
    resumed = autoencoder_training.AutoencoderTraining(settings, images, tmp_path / "cut")
    assert resumed.state.images == 32
    found = resumed.fit(lambda *_: None).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.state_dict().items())
    assert [row[0] for row in resumed.state.curve] == list(range(8, 81, 8)), "the curve has every point once"


def test_an_interrupted_encoding_makes_only_the_missing_shards(
    tmp_path: Path, dataset: Datasets, latent: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "SHARD", 16)
    source, settings = dataset().path, latent({"images": 16}, train={"images": 64})
    whole = train(source, tmp_path / "whole", settings)
    encode, made = latents._encode_shard, []

    def interrupted(*given: Any) -> None:
        if len(made) == 2:
            raise OSError("the disk went away")
        encode(*given)
        made.append(given[-1])

    monkeypatch.setattr(latents, "_encode_shard", interrupted)
    with pytest.raises(OSError, match="went away"):
        train(source, tmp_path / "cut", settings)
    first = list(made)
    monkeypatch.setattr(latents, "_encode_shard", lambda *given: (encode(*given), made.append(given[-1])))
    assert train(source, tmp_path / "cut", settings).content == whole.content
    assert len(set(made)) == len(made) > len(first), "no shard was made twice"


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("shape", [(1, 16, 24), (2, 8, 8, 16)])
def test_a_patch_stem_shortens_the_latents_and_gives_the_same_form_back(kind: str, shape: tuple[int, ...]) -> None:
    autoencoder = built(kind, shape, patch=2)
    images = torch.rand(3, *shape) * 2 - 1
    autoencoder.measure(images)
    latents_ = autoencoder.encode(images)
    assert autoencoder.settings.factor == 4
    assert latents_.shape == (3, 2, *(side // 4 for side in shape[1:]))
    assert autoencoder.decode(latents_).shape == images.shape
    made, penalty = autoencoder.train()(images, torch.Generator().manual_seed(0))
    assert made.shape == images.shape
    assert torch.isfinite(penalty)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_parts_change_nothing_but_the_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = built(kind)
    images = torch.rand(5, 1, 16, 16) * 2 - 1
    autoencoder.measure(images)
    assert autoencoder.encode(images).std() == pytest.approx(0.2, rel=0.05)
    whole = autoencoder.encode(images), autoencoder.decode(torch.zeros(5, 2, 8, 8))
    monkeypatch.setattr("medpipe.diffusion.autoencoder.PART_PIXELS", 2 * 16 * 16)
    sizes: list[int] = []
    autoencoder.network.decoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    parts = autoencoder.encode(images), autoencoder.decode(torch.zeros(5, 2, 8, 8))
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert max(sizes) == 2
    assert PART_PIXELS >= 256 * 256


def test_the_codebook_of_vq_decides_what_is_decoded() -> None:
    autoencoder = built("vq")
    autoencoder.begin(torch.rand(8, 1, 16, 16) * 2 - 1, torch.Generator().manual_seed(0))
    codes = autoencoder.network.quantizer.quantizer.embedding.weight
    near = codes[:1].reshape(1, -1, 1, 1).expand(1, -1, 8, 8)
    step = (codes[1:] - codes[0]).norm(dim=1).min()
    assert torch.equal(autoencoder.decode(near), autoencoder.decode(near + 0.3 * step / len(codes[0]) ** 0.5))


def test_the_losses_see_blur_and_noise_that_pixels_hardly_show() -> None:
    torch.manual_seed(0)
    real = torch.rand(4, 1, 32, 32) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    assert autoencoder_losses.detail(real, real) == 0
    assert autoencoder_losses.detail(real + 0.5, real) < 1e-6, "a shift of brightness has no edges"
    assert autoencoder_losses.detail(blurred, real) > 0.2
    assert reconstruction.energy(blurred) < 0.5 * reconstruction.energy(real) < reconstruction.energy(real + 0.5 * torch.randn(real.shape))


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 8, 8), (1, 8, 8, 8), (1, 16, 8, 8)])
def test_the_critic_learns_to_tell_blurred_images(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    critic = autoencoder_losses.Critic(shape)
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3)
    real = torch.rand(8, *shape) * 2 - 1
    pool = torch.nn.functional.avg_pool2d if len(shape) == 3 else torch.nn.functional.avg_pool3d
    made = pool(real, 3, 1, 1)
    before = critic.loss(made, real).item()
    for _ in range(20):
        optimizer.zero_grad()
        critic.loss(made, real).backward()
        optimizer.step()
    assert critic.loss(made, real).item() < 0.5 * before
    fooled, apart = critic.fooled(made, real)
    assert fooled > 0.2
    assert apart > 0
    assert critic.fooled(real, real)[1] == 0


def test_figures_of_reconstruction_are_what_they_are_called() -> None:
    real = torch.zeros(2, 1, 16, 16)
    assert reconstruction.psnr(real + 0.2, real) == pytest.approx(20, abs=1e-4)  # 10 log10(2² / 0.2²)
    assert reconstruction.psnr(real, real) == pytest.approx(100)
    noise = torch.rand(2, 1, 16, 16) * 2 - 1
    assert reconstruction.ssim(noise, noise) == pytest.approx(1, abs=1e-4)
    assert reconstruction.ssim(noise, -noise) < 0.1
    assert torch.allclose(reconstruction.resampled(torch.full((1, 1, 8, 8, 8), 0.3), 2), torch.tensor(0.3))


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path: Path, dataset: Datasets, latent: Recipes) -> None:
    with pytest.raises(MedpipeError, match=r"autoencoder's loss is not a number at image \d+.*autoencoder\.learning_rate"):
        train(dataset().path, tmp_path / "out", latent({"learning_rate": 1e30}))


@pytest.mark.parametrize(("shape", "says"), [((1, 10, 12), "multiples of 4"), ((1, 4, 8), "at least 8")])
def test_images_that_do_not_divide_are_refused_before_anything_is_trained(
    tmp_path: Path, dataset: Datasets, latent: Recipes, shape: tuple[int, ...], says: str
) -> None:
    settings = latent({"channels": [8, 16, 16]})
    with pytest.raises(InputError, match=says):
        train(dataset(shape=shape).path, tmp_path / "out", settings)
    assert not (tmp_path / "out" / "state" / "autoencoder.safetensors").exists()


def test_a_recipe_counts_the_halvings_of_both_networks(latent: Recipes, recipe: Recipes) -> None:
    assert latent().side == 2
    assert recipe().side == 4
    with pytest.raises(InputError, match="multiple of 16"):
        latent({"channels": [8] * 5}, images={"size": 24})


def test_without_a_validation_split_there_is_no_judge(tmp_path: Path, dataset: Datasets, latent: Recipes) -> None:
    source = Dataset.open(dataset().path)
    source.index.loc[source.index["split"] == "validation", "split"] = "holdout"
    with (
        records.making(tmp_path / "out", MadeFrom("Checkpoint", {}, {}, 0, "test")) as making,
        pytest.raises(InputError, match="judged by"),
    ):
        latents.prepare(source, latent(), making, lambda *_: None)


def test_weights_that_do_not_fit_their_settings_are_refused(tmp_path: Path, dataset: Datasets, latent: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", latent({"images": 16}, train={"images": 64}))
    model = open_model(made.path)
    assert open_denoiser(made.path).network.stem.in_channels == model["latent"]["latent_shape"][0]
    model["latent"]["autoencoder"]["channels"] = [8, 8]
    with pytest.raises(RecordError, match="train again"):
        open_autoencoder(made.path, model["latent"])


def test_a_pixel_checkpoint_says_nothing_of_latents(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    made = train(dataset().path, tmp_path / "out", recipe(train={"images": 64}))
    assert "latent" not in json.loads((made.path / "model.json").read_text())
    assert "autoencoder" not in made.facts
    assert "autoencoder" not in made.made_from["settings"]
