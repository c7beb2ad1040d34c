"""Preconditionings: what the network F is asked to predict, and at which noise levels it learns to.

Each turns the same network into the same denoiser D(x; σ, c) = c_skip·x + c_out·F(c_in·x; c_noise, c), with x the clean
image plus σ times unit noise, so that every sampler works over each. They differ in what c_out leaves for the network to
predict, in the levels drawn in training, and so in where training spends its effort. Their usual coordinates become these
by dividing: a variance-preserving αy + sn is x = (αy + sn)/α at σ = s/α.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from medpipe.settings import ModelSettings, Preconditioning

BETA_MIN, BETA_MAX, VP_TIME_MIN = 0.1, 20.0, 1e-5
"""DDPM's linear β in continuous time (Song et al. 2021, appendix C): σ from 0.001 to 152."""
TIME_MARGIN = 1e-3
"""v-prediction leaves this much of the time out at both ends, where σ would be 0 and infinite: σ from 0.0016 to 637."""


@dataclass(frozen=True)
class Coefficients:
    """The factors around the network at noise levels σ (N,), and the weight of the squared error there; each (N,)."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor
    """c_noise: what the network is told of σ, between about -2 and 2."""
    weight: Tensor
    """λ(σ) = 1 / c_out²: the error counts as the network's own, of a target that is of unit size."""


def coefficients(name: Preconditioning, sigma: Tensor, sigma_data: float) -> Coefficients:
    """Return the factors of the preconditioning `name` at noise levels σ (N,); `sigma_data` matters to Karras's only."""
    match name:
        case "karras":
            return _karras(sigma, sigma_data)
        case "epsilon":
            return _epsilon(sigma)
        case "velocity":
            return _velocity(sigma)
        case "flow":
            return _flow(sigma)
        case _:
            assert_never(name)


def draw(settings: ModelSettings, images: int, generator: torch.Generator) -> Tensor:
    """Draw the noise levels σ (images,) of one training step."""
    match settings.preconditioning:
        case "karras":
            return (torch.randn(images, generator=generator) * settings.sigma_sd + settings.sigma_mean).exp()
        case "epsilon":
            time = VP_TIME_MIN + (1 - VP_TIME_MIN) * torch.rand(images, generator=generator)
            return torch.expm1((BETA_MAX - BETA_MIN) / 2 * time**2 + BETA_MIN * time).sqrt()
        case "velocity":
            time = TIME_MARGIN + (1 - 2 * TIME_MARGIN) * torch.rand(images, generator=generator)
            return torch.tan(math.pi / 2 * time)
        case "flow":
            return torch.randn(images, generator=generator).exp()  # t = σ/(1 + σ) is logit-normal
        case _:
            assert_never(settings.preconditioning)


def _karras(sigma: Tensor, sigma_data: float) -> Coefficients:
    """F predicts what gives input and target unit variance (Karras et al. 2022, table 1, last column)."""
    variance = sigma**2 + sigma_data**2
    skip, out = sigma_data**2 / variance, sigma * sigma_data * variance.rsqrt()
    return Coefficients(skip, out, variance.rsqrt(), sigma.log() / 4, variance / (sigma * sigma_data) ** 2)


def _epsilon(sigma: Tensor) -> Coefficients:
    """F predicts the noise n of DDPM (Ho et al. 2020, equation 14, in continuous time: Karras et al. 2022, table 1, VP).

    c_noise is the time in [0, 1] at which DDPM's linear β has reached σ.
    """
    span = BETA_MAX - BETA_MIN
    time = ((BETA_MIN**2 + 2 * span * torch.log1p(sigma**2)).sqrt() - BETA_MIN) / span
    return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), time, sigma**-2)


def _velocity(sigma: Tensor) -> Coefficients:
    """F predicts v = αn − sy, with α² + s² = 1 (Salimans and Ho 2022, section 4 and appendix D); time is the angle of (α, s)."""
    alpha = (1 + sigma**2).rsqrt()
    return Coefficients(alpha**2, -sigma * alpha, alpha, 2 / math.pi * sigma.atan(), 1 + sigma**-2)


def _flow(sigma: Tensor) -> Coefficients:
    """F predicts n − y, the straight line's velocity in (1 − t)·y + t·n (Liu et al. 2023, equation 1; Lipman et al. 2023).

    Levels are drawn as in Esser et al. 2024, section 3.1: t logit-normal (0, 1).
    """
    time = sigma / (1 + sigma)
    return Coefficients(1 - time, -time, 1 - time, time, time**-2)
