"""What diffusion must beat: a conditional variational autoencoder and a conditional GAN, made of MONAI's networks, in 2D and 3D.

Both see the same condition vector c (N, K) as the denoiser: beside the latent vector, and, where an image is read, as maps of
one value beside its channels.
"""

from __future__ import annotations

from typing import Protocol

import torch
from monai.networks.nets import Discriminator, Generator, Regressor
from torch import Tensor, nn
from torch.nn import functional

LATENT = 64
"""Width of the latent vector z."""
WIDTHS = (128, 64, 32)
"""Channels from the smallest grid to the largest."""
PENALTY = 1.0
"""Weight γ of the gradient penalty R1 (Mescheder et al. 2018, eq. 9): γ/2·E‖∇D‖²."""
PENALTY_EVERY = 8
"""Steps between two gradient penalties, each then counted for all of them (Karras et al. 2020, section 3.1)."""


class Baseline(Protocol):
    """What training and sampling need of a baseline."""

    def step(self, clean: Tensor, conditions: Tensor, generator: torch.Generator) -> float:
        """Take one optimiser step on clean images (N, C, …) in [-1, 1]; return the loss that is shown."""
        ...

    def sample(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Map latent vectors z ~ N(0, I) (N, LATENT) and conditions (N, K) to images (N, C, …) in [-1, 1]."""
        ...

    def settle(self, clean: Tensor, conditions: Tensor) -> None:
        """Measure on images (N, C, …) after training what sampling needs."""
        ...

    def sampling(self) -> nn.Module:
        """Return the part that samples, with the weights to keep."""
        ...


def _grid(shape: tuple[int, ...]) -> tuple[int, list[int]]:
    """Return how often the sides (of equal parity) are halved, at most as often as there are widths, and the smallest grid."""
    halvings = 0
    while halvings < len(WIDTHS) and all(side % 2 ** (halvings + 1) == 0 and side // 2 ** (halvings + 1) >= 4 for side in shape[1:]):
        halvings += 1
    return halvings, [side // 2**halvings for side in shape[1:]]


def decoder(shape: tuple[int, ...], conditions: int) -> nn.Module:
    """Return z and c (N, LATENT + K) to an image before tanh (N, C, …)."""
    halvings, start = _grid(shape)
    channels = (*WIDTHS[len(WIDTHS) - max(halvings, 1) :], shape[0])
    strides = (*[2] * halvings, *[1] * (len(channels) - halvings))
    net: nn.Module = Generator(LATENT + conditions, (WIDTHS[0], *start), channels, strides, num_res_units=1)
    return net


def _with_maps(images: Tensor, conditions: Tensor) -> Tensor:
    maps = conditions.reshape(*conditions.shape, *[1] * (images.ndim - 2)).expand(-1, -1, *images.shape[2:])
    return torch.cat((images, maps), dim=1)


class Autoencoder(nn.Module):
    """A conditional VAE (Kingma and Welling 2014; Sohn et al. 2015) with the optimal variance of its pixels (Rybkin et al. 2021).

    Its samples begin at a Gaussian that is fitted to the encoded training images (Ghosh et al. 2020, section 4), since where the
    prior alone would begin, hardly any of them lie.
    """

    def __init__(self, shape: tuple[int, ...], conditions: int) -> None:
        super().__init__()
        halvings, _ = _grid(shape)
        channels = tuple(reversed(WIDTHS[len(WIDTHS) - max(halvings, 1) :]))
        strides = (*[2] * halvings, *[1] * (len(channels) - halvings))
        self.encoder = Regressor((shape[0] + conditions, *shape[1:]), (2 * LATENT,), channels, strides, num_res_units=1)
        self.decoder = decoder(shape, conditions)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.0)
        self.centre, self.factor, self.effects = torch.zeros(LATENT), torch.eye(LATENT), torch.zeros(conditions, LATENT)

    def step(self, clean: Tensor, conditions: Tensor, generator: torch.Generator) -> float:
        """Lower -ELBO = D/2·ln MSE + KL(q(z|x, c) ‖ N(0, I)), per image (Rybkin et al. 2021, eq. 6)."""
        mean, log_variance = self.encoder(_with_maps(clean, conditions)).chunk(2, dim=1)
        log_variance = log_variance.clamp(-12, 8)
        latent = mean + torch.randn(mean.shape, generator=generator) * (log_variance / 2).exp()
        error = (self._decoded(latent, conditions) - clean).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean()
        loss = clean[0].numel() / 2 * error.clamp_min(1e-8).log() + divergence
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1000.0)
        self.optimizer.step()
        return float(error.detach())

    def _decoded(self, latent: Tensor, conditions: Tensor) -> Tensor:
        return torch.tanh(self.decoder(torch.cat((latent, conditions), dim=1)))

    @torch.no_grad()
    def settle(self, clean: Tensor, conditions: Tensor) -> None:
        """Fit the Gaussian that samples begin at to encoded images: how c moves its mean, what spread that leaves, their mean variance."""
        parts = [self.encoder(_with_maps(clean[k : k + 256], conditions[k : k + 256])) for k in range(0, len(clean), 256)]
        mean, log_variance = torch.cat(parts).double().chunk(2, dim=1)
        given = torch.cat((torch.ones(len(clean), 1), conditions), dim=1).double()
        effects = torch.linalg.solve(given.T @ given + 1e-3 * torch.eye(given.shape[1]), given.T @ mean)
        spread = torch.cov((mean - given @ effects).T) + torch.diag(log_variance.clamp(-12, 8).exp().mean(dim=0))
        self.centre, self.effects = effects[0].float(), effects[1:].float()
        self.factor = torch.linalg.cholesky(spread).float()

    def sample(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Return the mean image of z, carried to the fitted Gaussian of c, and c."""
        return self._decoded(self.centre + conditions @ self.effects + latent @ self.factor.T, conditions)

    def sampling(self) -> nn.Module:
        """Return the decoder."""
        return self.decoder


class Adversarial(nn.Module):
    """A conditional GAN with the non-saturating loss (Goodfellow et al. 2014) and the R1 gradient penalty (Mescheder et al. 2018)."""

    def __init__(self, shape: tuple[int, ...], conditions: int) -> None:
        super().__init__()
        halvings, _ = _grid(shape)
        channels = tuple(reversed(WIDTHS[len(WIDTHS) - max(halvings, 1) :]))
        strides = (*[2] * halvings, *[1] * (len(channels) - halvings))
        self.generator = decoder(shape, conditions)
        self.average = decoder(shape, conditions)
        self.average.load_state_dict(self.generator.state_dict())
        critic = Discriminator(
            (shape[0] + conditions, *shape[1:]), channels, strides, num_res_units=1, norm=None, dropout=None, last_act=None
        )
        self.critic: nn.Module = critic
        self.steps = 0
        self.optimizers = [torch.optim.Adam(part.parameters(), lr=4e-4, betas=(0.0, 0.99)) for part in (self.generator, self.critic)]

    def step(self, clean: Tensor, conditions: Tensor, generator: torch.Generator) -> float:
        """One step of the critic and one of the generator."""
        latent = torch.randn(2, len(clean), LATENT, generator=generator)
        with torch.no_grad():
            made = self._made(self.generator, latent[0], conditions)
        loss = functional.softplus(self.critic(_with_maps(made, conditions))).mean()
        loss = loss + functional.softplus(-self.critic(_with_maps(clean, conditions))).mean()
        if self.steps % PENALTY_EVERY == 0:
            real = clean.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.critic(_with_maps(real, conditions)).sum(), real, create_graph=True)
            loss = loss + PENALTY / 2 * PENALTY_EVERY * slope.square().flatten(1).sum(dim=1).mean()
        self._lower(loss, 1)
        made = self._made(self.generator, latent[1], conditions)
        self._lower(functional.softplus(-self.critic(_with_maps(made, conditions))).mean(), 0)
        self.steps += 1
        keep = min(0.999, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        return float(loss.detach())

    def _lower(self, loss: Tensor, part: int) -> None:
        self.optimizers[part].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers[part].step()

    @staticmethod
    def _made(net: nn.Module, latent: Tensor, conditions: Tensor) -> Tensor:
        return torch.tanh(net(torch.cat((latent, conditions), dim=1)))

    def settle(self, clean: Tensor, conditions: Tensor) -> None:
        """A GAN has nothing to measure."""

    def sample(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Return the image that the generator's average makes of z and c."""
        return self._made(self.average, latent, conditions)

    def sampling(self) -> nn.Module:
        """Return the generator's average."""
        return self.average
