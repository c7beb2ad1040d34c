"""The denoiser and its network."""

from __future__ import annotations

import pytest
import torch

from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.network import LeanUNet, fold, unfold
from medpipe.settings import ModelSettings


def network(channels: int = 1, conditions: int = 5, dimensions: int = 2, **settings: object) -> LeanUNet:
    model = ModelSettings.model_validate({"channels": [32, 64], "blocks": [1, 1], **settings})
    torch.manual_seed(0)
    return LeanUNet(model, channels, conditions, dimensions)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 1, 8, 4, 12)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_folding_and_unfolding_are_inverse(shape: tuple[int, ...], patch: int) -> None:
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    folded = fold(x, patch)
    assert folded.shape[2:] == torch.Size(side // patch for side in shape[2:])
    assert torch.equal(unfold(folded, patch), x)


@pytest.mark.parametrize(("channels", "dimensions", "patch"), [(1, 2, 2), (3, 2, 1), (1, 3, 2), (2, 3, 4)])
def test_the_denoised_image_has_the_shape_of_the_noisy_one(channels: int, dimensions: int, patch: int) -> None:
    denoiser = Denoiser(network(channels, 5, dimensions, patch=patch), 0.5)
    x = torch.randn(3, channels, *[8] * dimensions)
    assert denoiser(x, torch.tensor([0.1, 1.0, 50.0]), torch.zeros(3, 5)).shape == x.shape


def test_an_untrained_denoiser_is_the_best_linear_one() -> None:
    """With a head of zeros D = c_skip·x, the optimal linear estimate for data of variance σ_data²."""
    denoiser = Denoiser(network(), 0.5)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    expected = x * (0.25 / (0.25 + sigma**2)).reshape(2, 1, 1, 1)
    torch.testing.assert_close(denoiser(x, sigma, torch.zeros(2, 5)), expected)


def test_the_untrained_loss_is_one_at_every_noise_level() -> None:
    denoiser = Denoiser(network(), 0.5)
    clean = 0.5 * torch.randn(64, 1, 8, 8)
    for sigma in (0.01, 0.3, 5.0):
        loss = denoiser.loss(clean, torch.full((64,), sigma), torch.randn_like(clean), torch.zeros(64, 5)).mean()
        assert loss.item() == pytest.approx(1.0, rel=0.1)


def test_guidance_one_is_the_condition_alone_and_more_goes_further() -> None:
    conditions = torch.ones(2, 3)

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return x + given.sum(dim=1)[:, None]

    x, sigma = torch.zeros(2, 4), torch.ones(2)
    assert torch.equal(guided(denoiser, conditions, 1.0)(x, sigma), torch.full((2, 4), 3.0))
    assert torch.equal(guided(denoiser, conditions, 2.5)(x, sigma), torch.full((2, 4), 7.5))
    assert torch.equal(guided(denoiser, conditions, 0.0)(x, sigma), torch.zeros(2, 4))
