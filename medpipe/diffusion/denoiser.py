"""The denoiser D(x; σ, c): Karras preconditioning around a network that knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, …), σ (N,)) to the expected clean image (N, C, …): all that a sampler needs to know."""


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


class Denoiser(nn.Module):
    """D(x; σ, c) = c_skip·x + c_out·F(c_in·x; c_noise, c) (Karras et al. 2022, eq. 7 and table 1, last column)."""

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
        """Return the expected clean image for x (N, C, …) at noise σ (N,) under conditions (N, K)."""
        variance = sigma**2 + self.sigma_data**2
        skip, out = self.sigma_data**2 / variance, sigma * self.sigma_data * variance.rsqrt()
        inner: Tensor = self.network(_like(variance.rsqrt(), x) * x, sigma.log() / 4, conditions)
        return _like(skip, x) * x + _like(out, x) * inner.float()

    def loss(self, clean: Tensor, sigma: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        """Return λ(σ)·mean‖D(y + σn; σ, c) − y‖² per image (N,) (Karras et al. 2022, eq. 2 with table 1's λ)."""
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        error: Tensor = self(clean + _like(sigma, clean) * noise, sigma, conditions) - clean
        return weight * error.square().flatten(1).mean(dim=1)


def guided(denoiser: Callable[[Tensor, Tensor, Tensor], Tensor], conditions: Tensor, guidance: float) -> Denoise:
    """Fix the conditions (N, K); with `guidance` w ≠ 1 return D(∅) + w·(D(c) − D(∅)) (Ho and Salimans 2022, eq. 6).

    The empty condition is the zero vector: all presence flags down.
    """
    if guidance == 1:
        return lambda x, sigma: denoiser(x, sigma, conditions)
    nothing = torch.zeros_like(conditions)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        both = denoiser(torch.cat((x, x)), torch.cat((sigma, sigma)), torch.cat((nothing, conditions)))
        without, given = both.chunk(2)
        return without + guidance * (given - without)

    return denoise
