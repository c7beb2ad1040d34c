"""A diffusion transformer (DiT) with adaLN-Zero: attention over patches, in 2D and 3D (Peebles and Xie 2023, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from medpipe.diffusion.network import Embedded, fold, unfold
from medpipe.settings import ModelSettings
from medpipe.sizes import layout


def positions(shape: tuple[int, ...], width: int, like: Tensor) -> Tensor:
    """Return fixed sines and cosines of each axis's position (T, width), side by side, on the device of `like`.

    An axis has ⌊width / 2 axes⌋ frequencies; what the division leaves over is 0. Any grid fits, so weights do not name one.
    """
    count = width // (2 * len(shape))
    frequencies = torch.exp(torch.linspace(0, -math.log(1e4), count, device=like.device))
    grid = torch.meshgrid(*(torch.arange(side, device=like.device, dtype=torch.float32) for side in shape), indexing="ij")
    angles = torch.stack(grid, dim=-1).reshape(-1, len(shape), 1) * frequencies
    out = torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)
    return functional.pad(out, (0, width - out.shape[1]))


class Block(nn.Module):
    """Attention, then a perceptron, each scaled, shifted and gated by the embedding; it begins as the identity (adaLN-Zero)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head_width = 64 if width % 64 == 0 and width >= 256 else 32
        self.heads = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        x = x + gate * self._attention(_normal(x) * (1 + scale) + shift)
        out: Tensor = x + gate2 * self.perceptron(_normal(x) * (1 + scale2) + shift2)
        return out

    def _attention(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        query, key, value = self.heads(x).reshape(n, tokens, 3, -1, self.head_width).permute(2, 0, 3, 1, 4)
        mixed: Tensor = functional.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.joined(mixed.transpose(1, 2).reshape(n, tokens, width))
        return joined


def _normal(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


class Transformer(Embedded):
    """F(x, c_noise, c) as a transformer over the patches of the image; sides must be multiples of the patch."""

    def __init__(self, settings: ModelSettings, channels: int, conditions: int, dimensions: int, maps: int = 0) -> None:
        (width,), (depth,) = layout(settings)
        super().__init__(conditions, width)
        self.patch, pixels = settings.patch, settings.patch**dimensions
        self.stem = nn.Linear((channels + maps) * pixels, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * pixels)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        """Map x (N, C + M, …), c_noise (N,) and conditions (N, K) to the network's output (N, C, …)."""
        embedding = self.embed(noise, conditions)
        folded = fold(x, self.patch)
        grid = folded.shape[2:]
        tokens = self.stem(folded.flatten(2).transpose(1, 2))  # (N, T, width)
        tokens = tokens + positions(tuple(grid), tokens.shape[-1], tokens)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        out = self.head(_normal(tokens) * (1 + scale) + shift)
        return unfold(out.transpose(1, 2).unflatten(2, grid), self.patch)
