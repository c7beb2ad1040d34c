"""Guidance: from a denoiser under conditions to what a sampler follows.

A guided denoiser goes beyond the good estimate D₁, away from a poor one: D₀ + w·(D₁ − D₀), whose score is that of
p₀^(1−w)·p₁^w at every noise level. Classifier-free guidance takes the same network without its conditions for D₀ (Ho and
Salimans 2022), autoguidance a smaller or less trained one under the same conditions (Karras et al. 2024), which sharpens
without pulling a sample away from where its condition puts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medpipe.diffusion.denoiser import Denoise

Conditional = Callable[..., Tensor]
"""(x (N, C, …), σ (N,), conditions (N, K)[, maps (N, M, …)]) to the expected clean image: a Denoiser, or an exact one."""


def guided(
    denoiser: Conditional,
    conditions: Tensor,
    guidance: float = 1.0,
    *,
    maps: Tensor | None = None,
    weaker: Conditional | None = None,
    low: float = 0.0,
    high: float = math.inf,
) -> Denoise:
    """Fix the conditions (N, K) and maps (N, M, …) of `denoiser` and guide it by `guidance` w at noise levels low < σ ≤ high.

    With w = 1 that is D(c). Else D₀ is `weaker` under the same conditions, or without it `denoiser` under none: the zero
    vector and zero maps, which is all presence flags down. Outside of the interval nothing is guided, which costs one
    evaluation and not two (Kynkäänniemi et al. 2024: high noise loses variety to guidance, low noise gains nothing by it).
    """

    def plain(x: Tensor, sigma: Tensor) -> Tensor:
        return denoiser(x, sigma, *given)

    def pair(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if weaker is not None:
            return weaker(x, sigma, *given), plain(x, sigma)
        both = denoiser(torch.cat((x, x)), torch.cat((sigma, sigma)), *(torch.cat((torch.zeros_like(part), part)) for part in given))
        poor, good = both.chunk(2)
        return poor, good

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        inside = (sigma > low) & (sigma <= high)
        if not inside.any():
            return plain(x, sigma)
        poor, good = pair(x, sigma)
        beyond = poor + guidance * (good - poor)
        return beyond if inside.all() else torch.where(inside.reshape(-1, *[1] * (x.ndim - 1)), beyond, good)

    given = (conditions,) if maps is None else (conditions, maps)
    return plain if guidance == 1 else denoise
