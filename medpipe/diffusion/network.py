"""The lean U-Net: what the denoiser D(x; σ, c) is made of, in 2D and 3D.

Few convolutions at full resolution (a patch stem), no normalisation, skips that are added: measured as fast as it is
simple. A block is x + conv(SiLU(conv(x)·(1 + a) + b)), where a and b come from σ and the conditions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from medpipe.settings import ModelSettings
from medpipe.sizes import layout


def _convolution(dimensions: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dimensions == 2 else nn.Conv3d


def fold(x: Tensor, patch: int) -> Tensor:
    """Fold each patch of pixels into channels: (N, C, H, W) to (N, C·p², H/p, W/p), likewise in 3D."""
    if patch == 1:
        return x
    if x.ndim == 4:
        return functional.pixel_unshuffle(x, patch)
    n, c, d, h, w = x.shape
    x = x.reshape(n, c, d // patch, patch, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, c * patch**3, d // patch, h // patch, w // patch)


def unfold(x: Tensor, patch: int) -> Tensor:
    """Undo `fold`."""
    if patch == 1:
        return x
    if x.ndim == 4:
        return functional.pixel_shuffle(x, patch)
    n, c, d, h, w = x.shape
    x = x.reshape(n, c // patch**3, patch, patch, patch, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(n, c // patch**3, d * patch, h * patch, w * patch)


class Block(nn.Module):
    """x + conv(SiLU(conv(x)·(1 + a) + b)); it begins as the identity."""

    def __init__(self, channels: int, width: int, dimensions: int) -> None:
        super().__init__()
        convolution = _convolution(dimensions)
        self.first = convolution(channels, channels, 3, padding=1)
        self.second = convolution(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * channels)
        for layer in (self.second, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # both have one

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        change: Tensor = self.second(functional.silu(torch.addcmul(shift, self.first(x), 1 + scale)))
        return x + change


class Embedded(nn.Module):
    """A network that is told of c_noise and of the condition vector by one embedding of them."""

    def __init__(self, conditions: int, width: int) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(1000.0), width // 4))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.noise = nn.Sequential(nn.Linear(2 * len(frequencies), width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Sequential(nn.Linear(conditions, width), nn.SiLU(), nn.Linear(width, width)) if conditions else None

    def embed(self, noise: Tensor, conditions: Tensor) -> Tensor:
        """Embed c_noise (N,) and conditions (N, K): (N, width)."""
        angles = noise[:, None] * self.frequencies[None]  # type: ignore[index]  # a buffer is a tensor
        embedding: Tensor = self.noise(torch.cat((angles.cos(), angles.sin()), dim=1))
        if self.condition is not None:
            embedding = embedding + self.condition(conditions)
        return functional.silu(embedding)


class LeanUNet(Embedded):
    """F(x, c_noise, c): the network inside the denoiser.

    `channels` are the image's, `maps` further ones of the input; `conditions` is the width of the condition vector. Sides
    must be multiples of patch · 2^(levels - 1).
    """

    def __init__(self, settings: ModelSettings, channels: int, conditions: int, dimensions: int, maps: int = 0) -> None:
        widths, counts = layout(settings)
        width = 2 * max(widths)
        super().__init__(conditions, width)
        convolution = _convolution(dimensions)
        self.patch = settings.patch
        positions = settings.patch**dimensions
        self.stem = convolution((channels + maps) * positions, widths[0], 3, padding=1)
        self.head = convolution(widths[0], channels * positions, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.down = nn.ModuleList(convolution(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(convolution(b, a * 2**dimensions, 1) for a, b in pairwise(widths))
        *outer, deepest = ([Block(w, width, dimensions) for _ in range(n)] for w, n in zip(widths, counts, strict=True))
        self.encode = nn.ModuleList(nn.ModuleList(blocks) for blocks in outer)
        self.middle = nn.ModuleList(deepest)
        self.decode = nn.ModuleList(
            nn.ModuleList(Block(w, width, dimensions) for _ in range(n)) for w, n in zip(widths[:-1], counts[:-1], strict=True)
        )

    def forward(self, x: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        """Map x (N, C + M, …), c_noise (N,) and conditions (N, K) to the network's output (N, C, …)."""
        embedding = self.embed(noise, conditions)
        x = self.stem(fold(x, self.patch))
        skips = []
        for blocks, down in zip(self.encode, self.down, strict=True):
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList iterates
                x = block(x, embedding)
            skips.append(x)
            x = down(x)
        for block in self.middle:
            x = block(x, embedding)
        for blocks, up in zip(reversed(self.decode), reversed(self.up), strict=True):
            x = unfold(up(x), 2) + skips.pop()
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, embedding)
        return unfold(self.head(x), self.patch)
