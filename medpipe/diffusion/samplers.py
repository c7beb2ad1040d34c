"""Samplers of the probability-flow ODE: each one a function of a denoiser, a start and a schedule.

`denoise` maps (x, σ) to the expected clean image; `x` is the start, noise of standard deviation sigmas[0]; `sigmas`
falls and ends in 0. All are deterministic: the randomness of a sample is its start.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, assert_never

import torch
from torch import Tensor

from medpipe.diffusion.denoiser import Denoise

Name = Literal["dpmpp_2m", "heun", "ddim"]
Sampler = Callable[[Denoise, Tensor, Tensor], Tensor]


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Return the noise levels (steps + 1,) from sigma_max to sigma_min, then 0 (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat(((high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)))


def _at(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    return denoise(x, sigma.to(x).expand(len(x)))


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) in λ = −ln σ (Lu et al. 2022, algorithm 2): one evaluation a step."""
    previous, previous_step = None, None
    for sigma, following in pairwise(sigmas):
        clean = _at(denoise, x, sigma)
        if following == 0:
            return clean
        step = (sigma / following).log()
        target = clean
        if previous is not None and previous_step is not None:
            ratio = (step / previous_step).to(x)  # 1 / r of the paper
            target = clean + (clean - previous) * ratio / 2
        x = (following / sigma).to(x) * x - torch.expm1(-step).to(x) * target
        previous, previous_step = clean, step
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's second-order method (Karras et al. 2022, algorithm 1): two evaluations a step, one at the last."""
    for sigma, following in pairwise(sigmas):
        clean = _at(denoise, x, sigma)
        if following == 0:
            return clean
        slope = (x - clean) / sigma.to(x)
        predicted = x + slope * (following - sigma).to(x)
        corrected = (predicted - _at(denoise, predicted, following)) / following.to(x)
        x = x + (slope + corrected) / 2 * (following - sigma).to(x)
    return x


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """DDIM with η = 0 (Song et al. 2021, eq. 12), which in x/α and σ is Euler's method: one evaluation a step."""
    for sigma, following in pairwise(sigmas):
        clean = _at(denoise, x, sigma)
        x = clean + (following / sigma).to(x) * (x - clean)
    return x


def sampler(name: Name) -> Sampler:
    """Return the sampler called `name`."""
    match name:
        case "dpmpp_2m":
            return dpmpp_2m
        case "heun":
            return heun
        case "ddim":
            return ddim
        case _:
            assert_never(name)


def evaluations(name: Name, steps: int) -> int:
    """Return the network evaluations that `steps` steps cost."""
    return 2 * steps - 1 if name == "heun" else steps
