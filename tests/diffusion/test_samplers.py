"""Samplers against laws that are known exactly: with the exact denoiser only the solver's own error is left."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medpipe.diffusion import samplers, schedules

MEAN, SD = 0.3, 0.2
ALL = ["dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "euler", "ddim", "ddpm"]


def fresh(like: torch.Tensor, seed: int = 3) -> samplers.Noise:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def gaussian(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return E[y | y + σn = x] for y ~ N(MEAN, SD²): the exact denoiser of a Gaussian."""
    gain = SD**2 / (SD**2 + sigma**2)
    return MEAN + gain[:, None] * (x - MEAN)


def mixture(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the exact denoiser of ¼·N(−0.5, 0.1²) + ¾·N(0.5, 0.1²)."""
    centres, weights, variance = torch.tensor([-0.5, 0.5]), torch.tensor([0.25, 0.75]), 0.1**2
    spread = (variance + sigma**2)[:, None, None]
    offset = x[:, :, None] - centres
    share = torch.softmax(weights.log() - offset**2 / (2 * spread), dim=-1)
    return (share * (centres + variance / spread * offset)).sum(-1)


@pytest.mark.parametrize(
    ("name", "steps", "more"),
    [("dpmpp_2m", 60, {}), ("dpmpp_2m_sde", 150, {}), ("unipc", 60, {}), ("heun", 60, {}), ("heun", 120, {"churn": 20.0}),
     ("euler", 400, {}), ("ddim", 400, {}), ("ddim", 1500, {"eta": 0.5}), ("ddpm", 1000, {})],
)  # fmt: skip
def test_mean_and_sd_of_a_gaussian_are_reached_within_one_percent(name: samplers.Name, steps: int, more: dict[str, float]) -> None:
    start = 80.0 * torch.randn(40_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = (start - start.mean()) / start.std() * 80
    drawn = samplers.sampler(name, **more)(gaussian, start, schedules.karras(steps, 0.002, 80.0), fresh(start))
    assert drawn.mean().item() == pytest.approx(MEAN, rel=0.01)
    assert drawn.std().item() == pytest.approx(SD, rel=0.01)


@pytest.mark.parametrize(
    ("name", "steps"), [("dpmpp_2m", 40), ("dpmpp_2m_sde", 100), ("unipc", 40), ("heun", 40), ("ddim", 200), ("ddpm", 400)]
)
def test_both_modes_of_a_mixture_get_their_share(name: samplers.Name, steps: int) -> None:
    start = 80.0 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(2))
    drawn = samplers.sampler(name)(mixture, start, schedules.karras(steps, 0.002, 80.0), fresh(start))
    assert (drawn > 0).float().mean().item() == pytest.approx(0.75, abs=0.015)
    assert drawn[drawn > 0].mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn[drawn > 0].std().item() == pytest.approx(0.1, rel=0.06)


@pytest.mark.parametrize(("name", "order"), [("dpmpp_2m", 2), ("unipc", 3), ("heun", 2), ("euler", 1), ("ddim", 1)])
def test_the_error_falls_with_the_order_of_the_method(name: samplers.Name, order: int) -> None:
    start = 80.0 * torch.linspace(-2, 2, 101, dtype=torch.float64)[:, None]
    exact = MEAN + SD / (SD**2 + 80**2) ** 0.5 * (start - MEAN)
    coarse, fine = (
        (samplers.sampler(name)(gaussian, start, schedules.karras(steps, 0.0002, 80.0), fresh(start)) - exact).abs().max().item()
        for steps in (80, 160)
    )
    assert coarse / fine == pytest.approx(2**order, rel=0.25)


@given(st.sampled_from(["karras", "exponential", "ddpm"]), st.integers(2, 200), st.floats(0.011, 0.5), st.floats(1.0, 150.0))
def test_a_schedule_falls_from_the_largest_level_to_zero(name: schedules.Name, steps: int, low: float, high: float) -> None:
    sigmas = schedules.schedule(name, steps, low, high)
    assert len(sigmas) == steps + 1
    assert sigmas[0].item() == pytest.approx(high, rel=1e-4)
    assert sigmas[-2].item() == pytest.approx(low, rel=1e-4)
    assert sigmas[-1] == 0
    assert all(a > b for a, b in pairwise(sigmas))


def test_the_ddpm_schedule_has_the_levels_of_its_thousand_steps() -> None:
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cumprod(1 - beta, 0)
    levels = ((1 - kept) / kept).sqrt()
    sigmas = schedules.ddpm(1000, levels[0].item(), levels[-1].item())
    assert torch.allclose(sigmas[:-1].flip(0), levels, rtol=1e-6)


def test_an_image_is_encoded_and_comes_back() -> None:
    images = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None]
    sigmas = schedules.karras(80, 0.002, 80.0)
    code = samplers.invert(gaussian, images, sigmas)
    assert code.std().item() > 50 * images.std().item()
    again = samplers.sampler("heun")(gaussian, code, sigmas, fresh(code))
    assert torch.allclose(again, images, atol=5e-3)


def test_stochastic_samplers_draw_what_deterministic_ones_do_not() -> None:
    start = 80.0 * torch.ones(64, 1)
    for name in ALL:
        sample, sigmas = samplers.sampler(name), schedules.karras(8, 0.02, 80.0)
        spread = sample(gaussian, start, sigmas, fresh(start)).std().item()
        assert (spread > 0.01) == (name in ("dpmpp_2m_sde", "ddpm"))


@pytest.mark.parametrize("name", ALL)
def test_the_stated_evaluations_are_those_that_are_made(name: samplers.Name) -> None:
    calls = 0

    def counting(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gaussian(x, sigma)

    samplers.sampler(name)(counting, torch.ones(1, 1), schedules.karras(7, 0.02, 80.0), fresh(torch.ones(1, 1)))
    assert calls == samplers.evaluations(name, 7)
