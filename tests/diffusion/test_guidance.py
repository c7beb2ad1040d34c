"""Guidance against laws that are known exactly: Gaussians, and mixtures of them, with their exact denoisers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from medpipe.diffusion import samplers, schedules
from medpipe.diffusion.guidance import guided

CENTRES, SD = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.3
NARROW, WIDE = 0.3, 0.5


def log_density(x: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
    """Return ln p(x; σ) of the two classes with shares (N, 2), noised to σ."""
    spread = (SD**2 + sigma**2)[:, None]
    each = share.log() - (x - CENTRES) ** 2 / (2 * spread) - spread.log() / 2
    return torch.logsumexp(each, dim=1)


def shares(conditions: Tensor) -> Tensor:
    """Read conditions (N, 3), two slots of the class and its flag: without it both classes are as frequent."""
    return torch.where(conditions[:, 2:] > 0, conditions[:, :2], torch.full_like(conditions[:, :2], 0.5))


def mixture(x: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
    """Return the exact denoiser of the two classes, or of the one asked for."""
    spread = (SD**2 + sigma**2)[:, None]
    weight = torch.softmax(shares(conditions).log() - (x - CENTRES) ** 2 / (2 * spread), dim=1)
    return (weight * (CENTRES + SD**2 / spread * (x - CENTRES))).sum(dim=1, keepdim=True)


def gaussian(sd: float):  # type: ignore[no-untyped-def]
    """Return the exact denoiser of N(0, sd²)."""
    return lambda x, sigma, conditions: (sd**2 / (sd**2 + sigma**2))[:, None] * x


SECOND = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_guided_score_is_that_of_the_two_laws_to_their_powers(weight: float) -> None:
    """∇ ln p(x; σ)^(1−w)·p(x | c; σ)^w, by differentiation of the densities."""
    sigma = torch.logspace(-1, 1, 40, dtype=torch.float64)
    x = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None].requires_grad_()
    given, nothing = SECOND.expand(40, 3), torch.zeros(40, 3, dtype=torch.float64)
    both = (1 - weight) * log_density(x, sigma, shares(nothing)) + weight * log_density(x, sigma, shares(given))
    (score,) = torch.autograd.grad(both.sum(), x)
    found = guided(mixture, given, weight)(x.detach(), sigma)
    torch.testing.assert_close((found - x.detach()) / sigma[:, None] ** 2, score)


def test_guidance_pushes_a_class_away_from_the_others_and_an_interval_less() -> None:
    start = 20.0 * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given, sigmas = SECOND.expand(2000, 3), schedules.karras(60, 0.005, 20.0)

    def mean(**how: float) -> float:
        return float(samplers.heun(guided(mixture, given, **how), start, sigmas, lambda: start).mean())

    plain, full, part = mean(guidance=1.0), mean(guidance=3.0), mean(guidance=3.0, low=0.1, high=0.6)
    assert plain == pytest.approx(1.0, abs=0.02)
    assert full > part + 0.1 > plain + 0.1


def end(sigma: float, weight: float) -> float:
    """Return x(σ) of the guided path up to a factor: d ln x / dσ = (1−w)·σ/(b² + σ²) + w·σ/(a² + σ²), integrated."""
    return (WIDE**2 + sigma**2) ** ((1 - weight) / 2) * (NARROW**2 + sigma**2) ** (weight / 2)


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (0.2, 1.0), (0.0, 0.5), (0.5, math.inf)])
@pytest.mark.parametrize("weight", [1.5, 3.0])
def test_autoguidance_reaches_the_closed_form_on_and_off_its_interval(weight: float, low: float, high: float) -> None:
    """A good model N(0, 0.3²) guided by a weaker one that is too wide, N(0, 0.5²): the spread shrinks to b^(1−w)·a^w."""
    highest = 10.0
    edges = [highest, *(edge for edge in (high, low) if 0 < edge < highest), 0.0]
    expected = 1.0
    for above, below in pairwise(edges):
        inside = low < (above + below) / 2 <= high
        expected *= end(below, weight if inside else 1.0) / end(above, weight if inside else 1.0)
    x = torch.tensor([[highest], [-2.0]], dtype=torch.float64)
    denoise = guided(gaussian(NARROW), torch.zeros(2, 0), weight, weaker=gaussian(WIDE), low=low, high=high)
    found = samplers.heun(denoise, x, schedules.karras(300, 0.002, highest), lambda: x)
    assert (found / x - expected).abs().max() < 0.01 * expected


def test_outside_of_the_interval_nothing_is_evaluated_twice() -> None:
    rows: list[int] = []

    def counted(x: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
        rows.append(len(x))
        return mixture(x, sigma, conditions)

    x = torch.zeros(4, 1, dtype=torch.float64)
    denoise = guided(counted, SECOND.expand(4, 3), 2.0, low=0.1, high=1.0)
    for sigma in (0.05, 0.1, 0.5, 1.0, 2.0):
        denoise(x, torch.full((4,), sigma, dtype=torch.float64))
    assert rows == [4, 4, 8, 8, 4], "the lower end is outside, the upper end inside"


def test_each_row_is_guided_at_its_own_level() -> None:
    x, sigma = torch.full((3, 1), 0.4, dtype=torch.float64), torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    given = SECOND.expand(3, 3)
    mixed = guided(mixture, given, 2.0, low=0.1, high=1.0)(x, sigma)
    torch.testing.assert_close(mixed[[0, 2]], mixture(x, sigma, given)[[0, 2]])
    torch.testing.assert_close(mixed[1], guided(mixture, given, 2.0)(x, sigma)[1])


def test_without_conditions_the_maps_are_empty_too() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, sigma: Tensor, conditions: Tensor, maps: Tensor) -> Tensor:
        seen.append(maps)
        return x + maps[:, :1]

    x, maps = torch.zeros(2, 1, 3, 3), torch.ones(2, 2, 3, 3)
    found = guided(network, torch.ones(2, 1), 3.0, maps=maps)(x, torch.ones(2))
    assert torch.equal(found, torch.full_like(x, 3.0)), "0 + 3·(1 − 0)"
    assert torch.equal(seen[0], torch.cat((torch.zeros_like(maps), maps)))
    weaker = guided(network, torch.ones(2, 1), 3.0, maps=maps, weaker=lambda x, s, c, m: x + m[:, :1] / 2)
    assert torch.equal(weaker(x, torch.ones(2)), torch.full_like(x, 2.0)), "½ + 3·(1 − ½), under the same maps"
