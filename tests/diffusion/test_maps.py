"""Spatial conditions: masks, known channels, degraded copies, known regions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medpipe.diffusion import glimpse
from medpipe.diffusion.checkpoint import open_denoiser, open_model
from medpipe.diffusion.conditioning import shown
from medpipe.diffusion.maps import Maps, regions
from medpipe.diffusion.train import train
from medpipe.errors import InputError
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe, build
from medpipe.records import Record
from medpipe.settings import MapKind, ModelSettings

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]
ALL: tuple[MapKind, ...] = ("mask", "channels", "degraded", "known")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_mask_is_a_map_per_label_and_its_flag() -> None:
    labels = torch.tensor([[[[0, 3], [1, 0]]], [[[0, 0], [0, 0]]]], dtype=torch.uint8)
    found = Maps(("mask",), 1, labels=(1, 3)).mask(labels)
    assert found[0].tolist() == [[[0, 0], [1, 0]], [[0, 1], [0, 0]], [[1, 1], [1, 1]]]
    assert not found[1].any(), "an empty mask is none"


def test_a_degraded_copy_is_the_mean_of_blocks() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    found = Maps(("degraded",), 1, factor=2).degraded(images)
    assert found[0, 0].tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2
    assert found[0, 1].eq(1).all()
    volume = torch.randn(2, 1, 8, 8, 8)
    large = Maps(("degraded",), 1, factor=4).degraded(volume)[:, :1]
    torch.testing.assert_close(large.mean((1, 2, 3, 4)), volume.mean((1, 2, 3, 4)))


@pytest.mark.parametrize("sides", [(20, 24), (10, 12, 16)])
def test_known_regions_are_boxes_slabs_and_what_lies_around_them(sides: tuple[int, ...]) -> None:
    n = 400
    where = regions(torch.zeros(n, 1, *sides), generator())
    share = where.flatten(1).float().mean(1)
    assert where.shape == (n, 1, *sides)
    assert ((share > 0) & (share < 1)).all(), "something is known, something is to be made"
    corner = where[(slice(None), 0, *[0] * len(sides))]
    assert 0.2 < corner.float().mean() < 0.8, "inside and outside take turns"
    axes = torch.arange(2, 2 + len(sides)).tolist()
    slabs = [where.eq(where.narrow(axis, 0, 1)).flatten(1).all(1) for axis in axes]
    cut = len(sides) - torch.stack(slabs).sum(0)
    assert set(cut.tolist()) == {1, len(sides)}
    assert (cut == 1).float().mean().item() == pytest.approx(1 / 3, abs=0.08)


def test_what_is_hidden_is_zero_and_what_is_shown_is_the_image() -> None:
    images, masks = torch.randn(64, 2, 8, 8), torch.ones(64, 1, 8, 8, dtype=torch.uint8)
    maps = Maps(ALL, 2, labels=(1,), factor=2)
    show = shown(64, 0.2, [0.3] * 4, generator())
    found = maps.draw(images, masks, show, generator(1))
    assert found is not None
    assert found.shape == (64, maps.channels, 8, 8)
    parts = dict(zip(ALL, found.split([maps.width(kind) for kind in ALL], dim=1), strict=True))
    for place, kind in enumerate(ALL):
        hidden = ~show[:, place]
        assert hidden.any()
        assert not parts[kind][hidden].any()
        if kind != "channels":
            assert parts[kind][show[:, place]].flatten(1).any(1).all()
    values, flags = parts["channels"].chunk(2, dim=1)
    assert torch.equal(values, images * flags)
    assert (flags.amax((2, 3)) == flags.amin((2, 3))).all(), "a channel is known as a whole"
    assert flags.mean(1).max() == 0.5, "never both"
    known = parts["known"]
    assert torch.equal(known[:, :2], images * known[:, 2:])


def test_maps_join_in_their_order_with_zeros_for_what_is_not_given() -> None:
    maps = Maps(("mask", "known"), 1, labels=(1, 2))
    region = maps.known(torch.ones(3, 1, 4, 4), torch.ones(3, 1, 4, 4, dtype=torch.bool))
    joined = maps.join((3, 1, 4, 4), {"known": region})
    assert joined is not None
    assert torch.equal(joined, torch.cat((torch.zeros(3, 3, 4, 4), region), dim=1))
    assert Maps((), 1).join((3, 1, 4, 4), {}) is None
    with pytest.raises(InputError, match=r"the known maps are \(3, 2, 4, 4\)"):
        maps.join((3, 1, 8, 8), {"known": region})
    with pytest.raises(InputError, match="takes no degraded maps"):
        maps.join((3, 1, 4, 4), {"degraded": region})


def test_maps_survive_json_and_an_older_checkpoint_has_none() -> None:
    maps = Maps(ALL, 2, labels=(1, 5), factor=8)
    assert Maps.from_json(maps.as_json(), 2) == maps
    assert Maps.from_json(None, 1).channels == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [({"maps": ["mask"]}, "no masks"), ({"maps": ["channels"]}, "only one"), ({"maps": ["degraded"], "degraded_factor": 8}, "divide")],
)
def test_maps_that_the_images_do_not_have_are_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Maps.fit(ModelSettings.model_validate(model), (1, 12, 12), None)
    with pytest.raises(InputError, match="twice"):
        build({"model": {"maps": ["known", "known"]}})


def test_a_training_without_masks_in_the_dataset_is_refused(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    with pytest.raises(InputError, match=r"model\.maps has 'mask'"):
        train(dataset().path, tmp_path / "out", recipe(model={"maps": ["mask"]}))


def test_one_checkpoint_serves_unconditional_partial_and_full_conditioning(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    """From a noise that drowns the image, what is given decides how much of it comes back; everything may be left out."""
    settings = recipe(
        model={"maps": ["mask", "degraded", "known"], "degraded_factor": 2, "map_dropout": 0.4},
        train={"images": 6000, "flip": True, "learning_rate": 0.005},
    )
    data = dataset(masks=True, images=400)
    made = train(data.path, tmp_path / "out", settings)
    assert made.facts["maps"] == ["mask", "degraded", "known"]
    model, denoiser = open_model(made.path), open_denoiser(made.path)
    maps = Maps.from_json(model["maps"], 1)
    assert maps.labels == (1, 2)
    labels = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
    labels[:, :, 2:6, 1:5] = 1
    image = torch.where(labels > 0, 0.2, -0.3) - model["data_mean"]  # a dark image with a lighter box
    x = image + 5.0 * torch.randn(image.shape, generator=generator())
    half = torch.zeros(32, 1, 8, 8, dtype=torch.bool)
    half[..., :4] = True

    def error(where: torch.Tensor = half | True, **given: torch.Tensor) -> float:
        found = denoiser(x, torch.full((32,), 5.0), torch.zeros(32, denoiser.network.condition[0].in_features), maps.join(x.shape, given))  # type: ignore[arg-type,index,union-attr]
        return float((found - image)[where].square().mean())

    nothing, mask = error(), error(mask=maps.mask(labels))
    coarse, region = error(degraded=maps.degraded(image)), error(half, known=maps.known(image, half))
    everything = error(mask=maps.mask(labels), known=maps.known(image, half), degraded=maps.degraded(image))
    assert mask < 0.85 * nothing
    assert region < 0.75 * error(half), "what is known is taken over"
    assert coarse < 0.8 * nothing
    assert everything < mask


def test_previews_are_made_to_masks_of_the_validation_split(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    settings = recipe(model={"maps": ["mask"]}, train={"images": 1024, "preview_images": 1024, "ema_widths": [0.1]})
    data = Dataset.open(dataset(masks=True, images=200).path)
    made = train(data.record.path, tmp_path / "out", settings)
    model, denoiser = open_model(made.path), open_denoiser(made.path)
    masks = torch.from_numpy(data.masks(data.rows("validation")))
    free, bound, few = (glimpse.draw(denoiser, model, made.path, settings.seed, "cpu", given) for given in (None, masks, masks[:1]))
    (kept,) = (made.path / "previews").glob("*.png")
    assert kept.read_bytes() == bound
    assert len({free, bound, few}) == 3


def test_other_channels_of_an_image_tell_the_one_that_is_missing(tmp_path: Path, dataset: Datasets, recipe: Recipes) -> None:
    settings = recipe(model={"maps": ["channels"]}, train={"images": 256})
    made = train(dataset(shape=(3, 8, 8)).path, tmp_path / "out", settings)
    maps = Maps.from_json(open_model(made.path)["maps"], 3)
    assert maps.channels == 6
    x = torch.randn(2, 3, 8, 8)
    two = maps.known(x, torch.tensor([True, True, False]).reshape(1, 3, 1, 1).expand(2, -1, 8, 8))
    vector = torch.zeros(2, open_denoiser(made.path).network.condition[0].in_features)  # type: ignore[index,union-attr,arg-type]
    assert open_denoiser(made.path)(x, torch.ones(2), vector, maps.join(x.shape, {"channels": two})).shape == x.shape
