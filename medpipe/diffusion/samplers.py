"""Samplers of the reverse process: each one a function of a denoiser, a start, a schedule and fresh noise.

`denoise` maps (x, σ) to the expected clean image; `x` is the start, noise of standard deviation sigmas[0]; `sigmas`
falls and ends in 0; x is the clean image plus σ times unit noise (Karras et al. 2022), so that a method of DDPM's
coordinates reads x/√ᾱ and σ² = (1 − ᾱ)/ᾱ. A method that needs no fresh noise is deterministic: its sample is its start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal, assert_never

import torch
from torch import Tensor

from medpipe.diffusion.denoiser import Denoise

Name = Literal["dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "euler", "ddim", "ddpm"]
Noise = Callable[[], Tensor]
"""Fresh unit noise of the shape of x."""
Sampler = Callable[[Denoise, Tensor, Tensor, Noise], Tensor]


def _at(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    return denoise(x, sigma.to(x).expand(len(x)))


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, *, stochastic: bool = False) -> Tensor:
    """DPM-Solver++(2M) in λ = −ln σ (Lu et al. 2022, algorithm 2), or its SDE variant (equation 18): one evaluation a step."""
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
        damped = 2 * step if stochastic else step
        x = (following / sigma * torch.exp(step - damped)).to(x) * x - torch.expm1(-damped).to(x) * target
        if stochastic:
            x = x + (following * (-torch.expm1(-2 * step)).sqrt()).to(x) * noise()
        previous, previous_step = clean, step
    return x


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """UniPC of order 2 with B(h) = eʰ − 1, in terms of the clean image (Zhao et al. 2023, equations 3 and 8): one evaluation a step.

    The evaluation at a predicted point corrects that point and serves the next prediction.
    """
    clean = _at(denoise, x, sigmas[0])
    previous: Tensor | None = None
    step = torch.ones((), dtype=sigmas.dtype)
    for sigma, following in pairwise(sigmas):
        if following == 0:
            return clean
        last, step = step, (sigma / following).log()
        ratio = last / step
        grow = torch.expm1(-step)  # B(h), and the weight of the first order
        first = (following / sigma).to(x) * x - grow.to(x) * clean
        slope = torch.zeros_like(x) if previous is None else (clean - previous) / ratio.to(x)
        new = _at(denoise, first - (grow / 2).to(x) * slope, following)
        behind, ahead = (0.0, 0.5) if previous is None else _corrector(step, ratio, grow)
        x = first - grow.to(x) * (behind * slope + ahead * (new - clean))
        previous, clean = clean, new
    return x


def _corrector(step: Tensor, ratio: Tensor, grow: Tensor) -> tuple[float, float]:
    """Return the weights of the slope behind and of the change ahead that integrate a polynomial of order 2 exactly."""
    phi = grow / -step - 1
    powers = torch.stack((torch.ones_like(step), torch.ones_like(step), -ratio, torch.ones_like(step))).reshape(2, 2)
    behind, ahead = torch.linalg.solve(powers, torch.stack((phi, 2 * (phi / -step - 0.5))) / grow).tolist()
    return behind, ahead


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, *, churn: float = 0.0) -> Tensor:
    """Heun's second-order method with churn (Karras et al. 2022, algorithm 2): two evaluations a step, one at the last.

    `churn` is the paper's S_churn, the noise that is added anew over the whole path; 0 is algorithm 1.
    """
    steps = len(sigmas) - 1
    for sigma, following in pairwise(sigmas):
        if churn > 0:
            raised = sigma * (1 + min(churn / steps, 2**0.5 - 1))
            x = x + (raised**2 - sigma**2).sqrt().to(x) * noise()
            sigma = raised
        clean = _at(denoise, x, sigma)
        if following == 0:
            return clean
        slope = (x - clean) / sigma.to(x)
        predicted = x + slope * (following - sigma).to(x)
        corrected = (predicted - _at(denoise, predicted, following)) / following.to(x)
        x = x + (slope + corrected) / 2 * (following - sigma).to(x)
    return x


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, *, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, equations 12 and 16): one evaluation a step.

    With η = 0 it is Euler's method; with η = 1 it is ancestral sampling of DDPM (Ho et al. 2020, algorithm 2, with the
    posterior variance β̃), on any schedule.
    """
    for sigma, following in pairwise(sigmas):
        clean = _at(denoise, x, sigma)
        if following == 0:
            return clean
        fresh = eta * following / sigma * (sigma**2 - following**2).sqrt()
        x = clean + ((following**2 - fresh**2).sqrt() / sigma).to(x) * (x - clean)
        if eta > 0:
            x = x + fresh.to(x) * noise()
    return x


def invert(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Encode clean images as the start (at sigmas[0]) from which the deterministic samplers return to them.

    Heun's method along the same path upwards; the schedule's final 0 is left out, so x counts as noise of its last level.
    """
    for sigma, following in pairwise(sigmas[:-1].flip(0)):
        slope = (x - _at(denoise, x, sigma)) / sigma.to(x)
        predicted = x + slope * (following - sigma).to(x)
        ahead = (predicted - _at(denoise, predicted, following)) / following.to(x)
        x = x + (slope + ahead) / 2 * (following - sigma).to(x)
    return x


def sampler(name: Name, *, eta: float = 0.0, churn: float = 0.0) -> Sampler:
    """Return the sampler called `name`; `eta` is DDIM's, `churn` Heun's."""
    match name:
        case "dpmpp_2m":
            return dpmpp_2m
        case "dpmpp_2m_sde":
            return partial(dpmpp_2m, stochastic=True)
        case "unipc":
            return unipc
        case "heun":
            return partial(heun, churn=churn)
        case "euler":
            return ddim
        case "ddim":
            return partial(ddim, eta=eta)
        case "ddpm":
            return partial(ddim, eta=1.0)
        case _:
            assert_never(name)


def evaluations(name: Name, steps: int) -> int:
    """Return the network evaluations that `steps` steps cost."""
    return 2 * steps - 1 if name == "heun" else steps
