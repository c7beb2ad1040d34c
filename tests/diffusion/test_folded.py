"""The folded network against the network that it was folded from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medpipe import store
from medpipe.cohort.generate import generate
from medpipe.diffusion import folded
from medpipe.diffusion.augment import Unaugmented
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.network import LeanUNet
from medpipe.diffusion.train import train
from medpipe.recipe import Recipe
from medpipe.records import Record
from medpipe.settings import ModelSettings

pytestmark = pytest.mark.skipif(not folded.works(2, torch.float32), reason="torch has no fused convolutions here")
SHAPES = [(8, 8), (8, 16), (8, 8, 8)]


@pytest.fixture(autouse=True)
def _sampling() -> Iterator[None]:
    with torch.no_grad():
        yield


def trained(dimensions: int, conditions: int = 3, *, maps: int = 0, **settings: Any) -> Denoiser:
    """Build a denoiser of which every weight counts, as after training."""
    torch.manual_seed(0)
    network = LeanUNet(ModelSettings(**{"channels": [32, 64], "blocks": [1, 2]} | settings), 1, conditions, dimensions, maps)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    return Denoiser(network, 0.5).eval()


def differ(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [{}, {"patch": 1}, {"channels": [32, 32, 64], "blocks": [1, 1, 1], "patch": 1}])
def test_folded_and_plain_agree(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    plain = trained(len(shape), **settings)
    fast = folded.folded(plain, torch.float32)
    assert isinstance(fast.network, folded.Folded)
    for level in (80.0, 1.0, 0.005):
        x, sigma, asked = level * torch.randn(9, 1, *shape), torch.full((9,), level), torch.randn(1, 3).expand(9, 3)
        assert differ(fast(x, sigma, asked), plain(x, sigma, asked)) < 1e-4
        assert differ(fast(x[:5], sigma[:5], asked[:5]), plain(x[:5], sigma[:5], asked[:5])) < 1e-4, "packed for 9 images"


@pytest.mark.skipif(not folded.works(2, torch.bfloat16), reason="no bf16 in hardware")
def test_folded_and_plain_agree_in_bf16() -> None:
    plain = trained(2)
    x, sigma, asked = torch.randn(9, 1, 8, 8), torch.ones(9), torch.randn(1, 3).expand(9, 3)
    exact = plain(x, sigma, asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert differ(folded.folded(plain, torch.bfloat16)(x, sigma, asked), exact) < 2 * differ(plain(x, sigma, asked), exact)


def test_images_that_are_asked_for_other_things_are_folded_apart() -> None:
    plain = trained(2)
    fast = folded.folded(plain, torch.float32)
    kinds = torch.randn(3, 3)
    asked, x, sigma = kinds[torch.arange(36) % 3], torch.randn(36, 1, 8, 8), torch.full((36,), 0.7)
    assert differ(fast(x, sigma, asked), plain(x, sigma, asked)) < 1e-4
    assert len(fast.network.firsts) == 3  # type: ignore[arg-type]
    guiding = (guided(denoiser, asked, 3.0)(x, sigma) for denoiser in (fast, plain))
    assert differ(*guiding) < 1e-4
    assert len(fast.network.firsts) == 4, "that of nothing asked for"  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["levels", "conditions", "gradient"])
def test_what_cannot_be_folded_is_computed_plainly(change: str) -> None:
    plain = trained(2)
    fast = folded.folded(plain, torch.float32)
    x, sigma, asked = torch.randn(16, 1, 8, 8), torch.ones(16), torch.zeros(16, 3)
    if change == "levels":
        sigma[3] = 0.5
    if change == "conditions":
        asked = torch.randn(16, 3)
    with torch.set_grad_enabled(change == "gradient"):
        assert torch.equal(fast(x, sigma, asked), plain(x, sigma, asked))
    assert not fast.network.firsts


def test_maps_and_augmentation_are_folded_too() -> None:
    plain = trained(2, maps=2)
    given = torch.randn(9, 1, 8, 8), torch.ones(9), torch.randn(1, 3).expand(9, 3), torch.randn(9, 2, 8, 8)
    assert differ(folded.folded(plain, torch.float32)(*given), plain(*given)) < 1e-4
    inner = trained(2, conditions=7)
    augmented = Denoiser(Unaugmented(inner.network, 7), 0.5)
    fast = folded.folded(augmented, torch.float32)
    assert isinstance(fast.network.network, folded.Folded)
    assert differ(fast(*given[:3]), augmented(*given[:3])) < 1e-4


def test_no_more_is_kept_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "KEPT_BYTES", 1)
    fast = folded.folded(trained(2), torch.float32)
    for level in (1.0, 0.5):
        fast(torch.randn(9, 1, 8, 8), torch.full((9,), level), torch.zeros(9, 3))
    assert len(fast.network.firsts) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", ["absent", "wrong"])
def test_without_the_operators_or_with_wrong_ones_the_network_itself_is_used(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def operator(name: str) -> Callable[..., Any]:
        if fault == "absent":
            raise AttributeError(name)
        found: Callable[..., Any] = getattr(torch.ops.mkldnn, name)
        return found if name != "_convolution_pointwise" else lambda *given: 1.1 * found(*given)

    monkeypatch.setattr(folded, "_operator", operator)
    folded.works.cache_clear()
    plain = trained(2)
    assert folded.folded(plain, torch.float32) is plain
    monkeypatch.undo()
    folded.works.cache_clear()
    assert folded.folded(plain, torch.float32) is not plain


def test_a_cohort_is_the_same_either_way_but_for_rounding(
    tmp_path: Path, dataset: Callable[..., Record], recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(cohort={"batch": 32, "images": 32, "shard": 32})
    source = dataset()
    with torch.enable_grad():
        made = train(source.path, tmp_path / "checkpoint", settings)
    one = generate(made.path, tmp_path / "one", settings)
    monkeypatch.setattr(folded, "works", lambda *_: False)
    other = generate(made.path, tmp_path / "other", settings)
    assert np.abs(store.read(one.path).astype(int) - store.read(other.path)).max() <= 1
