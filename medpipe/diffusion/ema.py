"""Moving averages of the weights, of several widths at once: what is sampled from.

The average at time t weighs the past by τ^γ (the power function of Karras et al. 2024, "Analyzing and improving the
training dynamics of diffusion models", section 3.1), so that its width is a share of the training whatever its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def exponent(width: float) -> float:
    """Return γ for a relative width σ_rel = √(γ + 1) / ((γ + 2)·√(γ + 3)) (there, equation 126 and algorithm 2)."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class Averages:
    """The averages of `weights`, the tensors that training changes in place, for each of `widths`."""

    def __init__(self, weights: Sequence[Tensor], widths: Sequence[float]) -> None:
        self.weights = [weight.detach() for weight in weights]
        self.widths = list(widths)
        self.tracks = [[weight.clone() for weight in self.weights] for _ in self.widths]

    @torch.no_grad()
    def update(self, batch: int, seen: int) -> None:
        """Move every average towards the weights after `batch` images, `seen` in all: β = (1 − batch/seen)^(γ + 1)."""
        for width, track in zip(self.widths, self.tracks, strict=True):
            decay = (1 - batch / seen) ** (exponent(width) + 1)
            torch._foreach_lerp_(track, self.weights, 1 - decay)

    @contextmanager
    def inside(self, number: int) -> Iterator[None]:
        """Put the average of that number in the place of the weights while inside."""
        kept = [weight.clone() for weight in self.weights]
        try:
            torch._foreach_copy_(self.weights, self.tracks[number])
            yield
        finally:
            torch._foreach_copy_(self.weights, kept)
