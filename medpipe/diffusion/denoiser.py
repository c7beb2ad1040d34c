"""The denoiser D(x; σ, c): a preconditioning around a network that knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medpipe.diffusion.preconditioning import Coefficients, coefficients
from medpipe.settings import Preconditioning

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, …), σ (N,)) to the expected clean image (N, C, …): all that a sampler needs to know."""


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


class Denoiser(nn.Module):
    """D(x; σ, c) = c_skip·x + c_out·F(c_in·x; c_noise, c) (Karras et al. 2022, equation 7), by any of the preconditionings.

    The network's input is c_in·x, with the maps of spatial conditions, where there are any, as further channels.
    """

    def __init__(self, network: nn.Module, sigma_data: float, preconditioning: Preconditioning = "karras") -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.preconditioning: Preconditioning = preconditioning

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in, c_noise and λ at σ (N,)."""
        return coefficients(self.preconditioning, sigma, self.sigma_data)

    def forward(self, x: Tensor, sigma: Tensor, conditions: Tensor, maps: Tensor | None = None) -> Tensor:
        """Return the expected clean image for x (N, C, …) at noise σ (N,) under conditions (N, K) and maps (N, M, …)."""
        by = self.coefficients(sigma)
        scaled = _like(by.into, x) * x
        inner: Tensor = self.network(scaled if maps is None else torch.cat((scaled, maps), dim=1), by.noise, conditions)
        return _like(by.skip, x) * x + _like(by.out, x) * inner.float()

    def loss(self, clean: Tensor, sigma: Tensor, noise: Tensor, conditions: Tensor, maps: Tensor | None = None) -> Tensor:
        """Return λ(σ)·mean‖D(y + σn; σ, c) − y‖² per image (N,) (Karras et al. 2022, equation 2)."""
        error: Tensor = self(clean + _like(sigma, clean) * noise, sigma, conditions, maps) - clean
        return self.coefficients(sigma).weight * error.square().flatten(1).mean(dim=1)
