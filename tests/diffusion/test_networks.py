"""The networks by name: what goes in and comes out, what they cost, and that a checkpoint of each is rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from medpipe import sizes, store
from medpipe.cohort.generate import generate
from medpipe.diffusion import conditioning
from medpipe.diffusion.checkpoint import open_denoiser, open_model
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.networks import BESIDE, cost, network, step_memory
from medpipe.diffusion.train import train
from medpipe.diffusion.transformer import positions
from medpipe.errors import InputError
from medpipe.recipe import Recipe, build
from medpipe.records import Record
from medpipe.settings import ModelSettings, Network

Recipes, Datasets = Callable[..., Recipe], Callable[..., Record]
NAMES = get_args(Network)


def small(name: Network, patch: int = 2) -> ModelSettings:
    layout = {"channels": [32], "blocks": [2]} if name == "transformer" else {"channels": [32, 64], "blocks": [1, 1]}
    return ModelSettings.model_validate({"network": name, "patch": patch, **layout})


def stirred(module: nn.Module) -> nn.Module:
    """Give the weights that begin as zeros small ones, so that everything that goes in can be seen in what comes out."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return module.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("channels", "maps", "sides", "patch"), [(1, 0, (8, 8), 2), (3, 4, (8, 16), 1), (1, 2, (8, 8, 8), 2), (2, 0, (8, 8, 16), 4)]
)
def test_every_network_takes_images_of_every_form_and_hears_all_that_it_is_told(
    name: Network, channels: int, maps: int, sides: tuple[int, ...], patch: int
) -> None:
    inner = stirred(network(small(name, patch), channels, 5, len(sides), maps))
    x, given = torch.randn(2, channels, *sides), torch.randn(2, maps, *sides)

    def out(x: Tensor, noise: float = 0.1, conditions: float = 0.0, maps: float = 1.0) -> Tensor:
        with torch.no_grad():
            return inner(torch.cat((x, maps * given), dim=1), torch.full((2,), noise), torch.full((2, 5), conditions))

    whole = out(x)
    assert whole.shape == x.shape
    for other in (out(x + 1), out(x, noise=0.5), out(x, conditions=1.0)):
        assert (other - whole).abs().max() > 1e-4
    assert not maps or (out(x, maps=0.0) - whole).abs().max() > 1e-4
    far = x.clone()
    far[0, :, 0] += 1
    assert torch.allclose(out(far)[1], whole[1], atol=1e-5), "an image does not see its neighbour in the batch"


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_network_is_silent_so_that_the_denoiser_begins_as_the_linear_one(name: Network) -> None:
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    found = Denoiser(network(small(name), 1, 0, 2), 0.5)(x, sigma, torch.zeros(2, 0))
    torch.testing.assert_close(found, x * (0.25 / (0.25 + sigma**2)).reshape(2, 1, 1, 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_capacity_and_a_larger_one_costs_more(name: Network) -> None:
    with torch.device("meta"):
        found = [cost(network(ModelSettings(network=name, size=size), 1, 3, 2), (1, 32, 32), 3) for size in sizes.NAMED[name]]
    for millions, this in zip((0.5, 2, 8, 32), found, strict=True):
        assert millions / 1.5 < this.parameters / 1e6 < 1.5 * millions
    assert [this.flops for this in found] == sorted(this.flops for this in found)


def test_operations_are_counted_as_by_hand() -> None:
    """Stem, two convolutions of one block, head at 8 × 8; then the embedding's six products."""
    settings, conditions = ModelSettings(channels=[32], blocks=[1], patch=1), 5
    positions_, width = 8 * 8, 64
    convolutions = 2 * 9 * positions_ * (1 * 32 + 32 * 32 + 32 * 32 + 32 * 1)
    embedding = 2 * (32 * width + width * width + conditions * width + width * width + width * 2 * 32)
    found = cost(network(settings, 1, conditions, 2), (1, 8, 8), conditions)
    assert found.flops == convolutions + embedding
    assert str(found).endswith("GFLOP an image and evaluation")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sides", [(16, 24), (8, 16, 8)])
def test_the_memory_of_a_step_follows_what_is_really_kept(name: Network, sides: tuple[int, ...]) -> None:
    """Real tensors this time: what is kept of an image for its gradient, by autograd's own hooks."""
    facts = {"shape": [1, *sides], "classes": ["a", "b"], "covariates": []}
    tree = {"images": {"sides": list(sides), "dimensions": len(sides)}, "model": small(name).model_dump()}
    one, four, parts, shared = (
        step_memory(build(tree | {"train": {"batch": batch, "microbatch": some}, "compute": {"processes": processes}}), facts)
        for batch, some, processes in ((1, None, 1), (4, None, 1), (4, 1, 1), (4, None, 2))
    )
    width = conditioning.width(facts["classes"], [])
    module = network(small(name), 1, width, len(sides))
    kept: dict[int, torch.UntypedStorage] = {}
    weights = {weight.untyped_storage() for weight in module.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(torch.rand(2, 1, *sides), torch.rand(2), torch.rand(2, width))
    real = sum(storage.nbytes() for storage in kept.values() if storage not in weights) / 2
    assert (four - one) / 3 == pytest.approx(BESIDE * real, rel=0.1)
    assert parts == one
    assert one < shared < four


def test_no_two_patches_of_a_transformer_have_one_position() -> None:
    for shape in ((14, 14), (4, 5, 6)):
        found = positions(shape, 96, torch.zeros(()))
        assert found.shape == (torch.Size(shape).numel(), 96)
        assert torch.cdist(found, found).fill_diagonal_(1.0).min() > 0.1


def test_what_a_transformer_cannot_be_is_refused() -> None:
    for model in ({"channels": [64, 128], "blocks": [2, 4]}, {"channels": [40], "blocks": [2]}):
        with pytest.raises(InputError, match=r"one width.*model\.size"):
            build({"model": {"network": "transformer", **model}})
    assert build({"images": {"size": 30}, "model": {"network": "transformer", "size": "tiny"}}).model.size == "tiny"
    with pytest.raises(InputError, match="multiple of 4"):
        build({"images": {"size": 30}, "model": {"size": "tiny"}})


@pytest.mark.parametrize(("name", "preconditioning"), [("monai_unet", "velocity"), ("transformer", "flow"), ("lean_unet", "epsilon")])
def test_a_checkpoint_of_each_is_trained_rebuilt_and_sampled(
    tmp_path: Path, dataset: Datasets, recipe: Recipes, name: Network, preconditioning: str
) -> None:
    model = {**small(name).model_dump(exclude_unset=True), "preconditioning": preconditioning}
    settings = recipe(train={"images": 128}, model=model, cohort={"images": 8, "sampler": "heun", "sigma_min": 0.02})
    made = train(dataset().path, tmp_path / "out", settings)
    assert (made.facts["network"], made.facts["preconditioning"]) == (name, preconditioning)
    rebuilt = open_denoiser(made.path)
    assert made.facts["parameters"] == sum(weight.numel() for weight in rebuilt.parameters())
    assert made.facts["flops"] > 0
    assert rebuilt.preconditioning == preconditioning
    assert open_model(made.path)["settings"]["network"] == name
    assert store.read(generate(made.path, tmp_path / "cohort", settings).path).std() > 0
