"""Preconditionings: one denoiser, whatever the network is asked to predict."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from medpipe.diffusion import preconditioning, samplers, schedules
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.network import LeanUNet
from medpipe.settings import ModelSettings, Preconditioning

NAMES = get_args(Preconditioning)
MEAN, SD = 0.3, 0.2


def posterior(x: Tensor, sigma: Tensor) -> Tensor:
    """Return E[y | y + σn = x] for y ~ N(MEAN, SD²)."""
    return MEAN + (SD**2 / (SD**2 + sigma**2))[:, None] * (x - MEAN)


class Perfect(nn.Module):
    """The best possible network: what the paper's own target is expected to be, given its own input and its own time.

    In z = αy + sn with y ~ N(MEAN, SD²), y and n are jointly Gaussian with z, so both expectations are linear in z.
    """

    def __init__(self, name: Preconditioning, sigma_data: float) -> None:
        super().__init__()
        self.name, self.sigma_data = name, sigma_data

    def forward(self, z: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
        time = time[:, None]
        match self.name:
            case "epsilon":  # Song et al. 2021, equation 33: ln α = −¼t²(β_max − β_min) − ½tβ_min
                alpha = torch.exp(-0.25 * time**2 * (20.0 - 0.1) - 0.5 * time * 0.1)
                s = (1 - alpha**2).sqrt()
            case "velocity":
                alpha, s = torch.cos(math.pi / 2 * time), torch.sin(math.pi / 2 * time)
            case "flow":
                alpha, s = 1 - time, time
            case "karras":  # z = c_in·(y + σn)
                sigma = torch.exp(4 * time)
                alpha = 1 / (sigma**2 + self.sigma_data**2).sqrt()
                s = alpha * sigma
        off = (z - alpha * MEAN) / (alpha**2 * SD**2 + s**2)
        clean, noise = MEAN + alpha * SD**2 * off, s * off
        match self.name:
            case "epsilon":
                return noise
            case "velocity":
                return alpha * noise - s * clean
            case "flow":
                return noise - clean
            case "karras":  # equation 8: (y − c_skip·(y + σn)) / c_out
                skip = self.sigma_data**2 * alpha**2
                return (clean - skip * z / alpha) / (s * self.sigma_data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma_data", [0.5, 0.2])
def test_the_perfect_network_makes_the_exact_posterior_mean(name: Preconditioning, sigma_data: float) -> None:
    """Through the float that `forward` casts to, hence the tolerance."""
    sigma = torch.logspace(-2, 2, 200, dtype=torch.float64)
    x = MEAN + torch.linspace(-3, 3, 5, dtype=torch.float64) * (SD**2 + sigma[:, None] ** 2).sqrt()
    found = Denoiser(Perfect(name, sigma_data), sigma_data, name)(x, sigma, torch.zeros(200, 0))
    assert ((found - posterior(x, sigma)).abs() < 2e-6 * (1 + x.abs())).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_reaches_the_law_over_the_same_denoiser(name: Preconditioning) -> None:
    denoise = guided(Denoiser(Perfect(name, 0.5), 0.5, name), torch.zeros(4000, 0))
    start = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = MEAN + (start - start.mean()) / start.std() * math.hypot(20.0, SD)
    drawn = samplers.sampler("dpmpp_2m")(denoise, start, schedules.karras(60, 0.01, 20.0), lambda: torch.zeros(()))
    assert drawn.mean().item() == pytest.approx(MEAN, rel=0.01)
    assert drawn.std().item() == pytest.approx(SD, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_counts_as_the_networks_own(name: Preconditioning) -> None:
    by = preconditioning.coefficients(name, torch.logspace(-2, 2, 50, dtype=torch.float64), 0.5)
    torch.testing.assert_close(by.weight * by.out**2, torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_an_untrained_network_is_a_number_at_every_level_that_training_draws(name: Preconditioning) -> None:
    settings = ModelSettings(preconditioning=name, channels=[32], blocks=[1])
    denoiser = Denoiser(LeanUNet(settings, 1, 0, 2), 0.5, name)
    sigma = preconditioning.draw(settings, 20_000, torch.Generator().manual_seed(0))
    assert (sigma > 0).all()
    ends = torch.stack((sigma.min(), sigma.max())).repeat(32)
    loss = denoiser.loss(0.5 * torch.randn(64, 1, 4, 4), ends, torch.randn(64, 1, 4, 4), torch.zeros(64, 0))
    assert loss.isfinite().all()
    assert loss.mean() < 3


def test_training_draws_the_levels_of_the_papers() -> None:
    def drawn(name: Preconditioning) -> tuple[Tensor, Tensor]:
        sigma = preconditioning.draw(ModelSettings(preconditioning=name), 50_000, torch.Generator().manual_seed(1))
        return sigma, preconditioning.coefficients(name, sigma, 0.5).noise

    sigma, _ = drawn("karras")
    assert (sigma.log().mean().item(), sigma.log().std().item()) == pytest.approx((-1.2, 1.2), abs=0.02)
    for name in ("epsilon", "velocity"):
        _, time = drawn(name)
        assert (time.mean().item(), time.std().item()) == pytest.approx((0.5, 12**-0.5), abs=0.01), "time is uniform"
        assert time.min() >= 0
        assert time.max() <= 1
    _, time = drawn("flow")
    logit = (time / (1 - time)).log()
    assert (logit.mean().item(), logit.std().item()) == pytest.approx((0, 1), abs=0.02)


class Perceptron(nn.Module):
    """A network for single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 1))

    def forward(self, x: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
        waves = time[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0])
        out: Tensor = self.layers(torch.cat((x, time[:, None], waves.sin(), waves.cos()), dim=1))
        return out


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_short_training_learns_a_toy_law(name: Preconditioning) -> None:
    """A quarter of the numbers about -0.5 and three quarters about 0.5."""
    torch.manual_seed(0)
    settings, draws = ModelSettings(preconditioning=name), torch.Generator().manual_seed(0)
    denoiser = Denoiser(Perceptron(), 0.45, name)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 1000)
    for _ in range(1000):
        clean = torch.where(torch.rand(128, 1, generator=draws) < 0.25, -0.5, 0.5) + 0.1 * torch.randn(128, 1, generator=draws)
        sigma = preconditioning.draw(settings, 128, draws)
        loss = denoiser.loss(clean, sigma, torch.randn(128, 1, generator=draws), torch.zeros(128, 0)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        start = 10.0 * torch.randn(4000, 1, generator=draws)
        denoise = guided(denoiser, torch.zeros(4000, 0))
        drawn = samplers.sampler("heun")(denoise, start, schedules.karras(20, 0.01, 10.0), lambda: torch.zeros(()))
    light = drawn[drawn > 0]
    assert len(light) / 4000 == pytest.approx(0.75, abs=0.08)
    assert light.mean().item() == pytest.approx(0.5, abs=0.05)
    assert drawn[drawn < 0].mean().item() == pytest.approx(-0.5, abs=0.12)
    assert light.std().item() < 0.2
