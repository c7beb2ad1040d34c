"""Schedules: the falling noise levels that a sampler visits, the last of them 0."""

from __future__ import annotations

import math
from typing import Literal, assert_never

import numpy as np
import torch
from torch import Tensor

Name = Literal["karras", "exponential", "ddpm"]


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Return (steps + 1,) levels, even in σ^(1/ρ) (Karras et al. 2022, equation 5): dense where detail is made."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _ended((high + ramp * (low - high)) ** rho)


def exponential(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Return (steps + 1,) levels, even in ln σ."""
    return _ended(torch.linspace(math.log(sigma_max), math.log(sigma_min), steps, dtype=torch.float64).exp())


def ddpm(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Return (steps + 1,) levels, even in the time of DDPM's linear β from 1e-4 to 0.02 over 1,000 steps (Ho et al. 2020, section 4).

    σ² = (1 − ᾱ)/ᾱ; times between the 1,000 are interpolated in ln σ, and the ends are those asked for, within DDPM's own.
    """
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    levels = np.log(np.sqrt((1 - kept) / kept))
    first, last = np.interp(np.log([sigma_max, sigma_min]), levels, np.arange(1000.0))
    return _ended(torch.from_numpy(np.exp(np.interp(np.linspace(first, last, steps), np.arange(1000.0), levels))))


def schedule(name: Name, steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Return the schedule called `name`."""
    match name:
        case "karras":
            return karras(steps, sigma_min, sigma_max)
        case "exponential":
            return exponential(steps, sigma_min, sigma_max)
        case "ddpm":
            return ddpm(steps, sigma_min, sigma_max)
        case _:
            assert_never(name)


def _ended(levels: Tensor) -> Tensor:
    return torch.cat((levels, levels.new_zeros(1)))
