"""Moving average of the weights: what is sampled from."""

from __future__ import annotations

import torch
from torch import nn

RAMP = 0.05
"""The half-life never exceeds this share of the images seen, so that early weights are forgotten (EDM's ramp-up)."""


@torch.no_grad()
def update(average: nn.Module, current: nn.Module, batch: int, seen: int, half_life: int) -> None:
    """Move `average` towards `current` after `batch` images, `seen` in all, with a half-life counted in images."""
    decay = 0.5 ** (batch / max(min(half_life, seen * RAMP), 1e-8))
    for slow, fast in zip(average.parameters(), current.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
