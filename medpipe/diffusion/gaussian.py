"""The closed-form start: where noise drowns all but mean and covariance, the noisy images are Gaussian and need no network.

Above a noise level well beyond the data's own spread, the denoiser of the data is that of N(μ(c), C) (Wang and Vastola
2024), so a sample may begin there as a draw of N(μ(c), C + σ²I) instead of being carried down from pure noise by network
evaluations. μ is the mean of the training split plus a linear effect of what is asked for (ridge regression on classes and
covariates); C is the covariance of what that leaves, by its leading components, per class where a class is large enough.
They are parameters of the model as its weights are: whatever is said of the privacy of the weights has to hold for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "gaussian.safetensors"
ALL, REST = "all", "rest"
"""The covariance about the plain mean, for samples of which nothing is asked, and that of what the conditions leave."""
GROUP_MIN = 100
"""A class with fewer training images has no covariance of its own."""
COMPONENTS_MAX, VALUES_MAX, ROWS_MAX = 256, 2**24, 4096
_BYTES_MAX = 2**30


@dataclass(frozen=True)
class Covariance:
    """A covariance of images of d values about 0, by its leading directions."""

    components: Tensor  # (k, d), orthonormal
    variances: Tensor  # (k,)
    rest: Tensor  # (1,): the variance along every direction that is no component

    @classmethod
    def fit(cls, centred: Tensor) -> Covariance:
        """Measure images (N, d) whose mean was taken off: at most ROWS_MAX of them, evenly spread."""
        some = centred[_spread(torch.arange(len(centred)), centred.shape[1])].float()
        rows, d = some.shape
        if d <= rows:
            values, vectors = torch.linalg.eigh(some.T @ some / rows)
            directions = vectors.T.flip(0)
        else:
            values, vectors = torch.linalg.eigh(some @ some.T / rows)
            directions = vectors.T.flip(0) @ some
        values = values.flip(0).clamp(min=0)
        k = min(COMPONENTS_MAX, max(1, VALUES_MAX // d), max(1, int((values > 1e-6 * values[0]).sum())))
        components = torch.nn.functional.normalize(directions[:k], dim=1).contiguous()
        rest = (values.sum() - values[:k].sum()).clamp(min=0) / max(d - k, 1)
        return cls(components, values[:k].contiguous(), rest.reshape(1))

    def draw(self, noise: Tensor, sigma: float) -> Tensor:
        """Turn unit noise (N, d) into draws of N(0, C + σ²I)."""
        along = noise @ self.components.T
        beyond = math.sqrt(float(self.rest) + sigma**2)
        out: Tensor = beyond * noise + (along * ((self.variances + sigma**2).sqrt() - beyond)) @ self.components
        return out


@dataclass(frozen=True)
class Moments:
    """What the closed-form start knows of the training split: images of d values, conditions of w values."""

    mean: Tensor  # (d,)
    effects: Tensor  # (w, d): how the mean moves with a condition's value
    centre: Tensor  # (w,): mean of the conditions' values, where they are known
    covariances: Mapping[str, Covariance]
    """ALL, REST, and `class:` with the name of each large class."""

    def start(self, noise: Tensor, values: Tensor, present: Tensor, classes: Sequence[str | None], sigma: float) -> Tensor:
        """Return where samples begin at noise level `sigma`, of unit noise (N, …), conditions (N, w) and which of them are present."""
        flat = noise.flatten(1)
        out = self.mean + (present * (values - self.centre)) @ self.effects
        names = [self._name(name, bool(known)) for name, known in zip(classes, present.any(1), strict=True)]
        for name in set(names):
            rows = [row for row, other in enumerate(names) if other == name]
            out[rows] += self.covariances[name].draw(flat[rows], sigma)
        return out.reshape(noise.shape)

    def _name(self, name: str | None, known: bool) -> str:
        own = f"class:{name}"
        return own if own in self.covariances else REST if known else ALL


class Images(Protocol):
    """Images that are read when they are asked for: a tensor is one, and so is a training split on disk."""

    def __getitem__(self, places: Tensor, /) -> Tensor:
        """Return the images (n, …) at `places` (n,)."""
        ...


def fit(images: Images, values: Tensor, present: Tensor, classes: Sequence[str | None]) -> Moments:
    """Measure images (N, …) with conditions (N, w), which of them are `present` (N, w), and their classes.

    One pass over all images for the mean and the effects, then at most ROWS_MAX of them for each covariance.
    """
    n = len(values)
    d = images[torch.zeros(1, dtype=torch.long)].numel()
    centre = (present * values).sum(0) / present.sum(0).clamp(min=1)
    known = present * (values - centre)
    total, products = torch.zeros(d, dtype=torch.float64), torch.zeros(known.shape[1], d, dtype=torch.float64)
    step = max(1, _BYTES_MAX // (64 * d))
    for first in range(0, n, step):
        places = torch.arange(first, min(first + step, n))
        flat = images[places].flatten(1)
        total += flat.double().sum(0)
        products += known[places].T @ flat
    mean = (total / n).float()
    ridge = known.T @ known + torch.eye(known.shape[1])
    effects = torch.linalg.solve(ridge, (products - torch.outer(known.sum(0).double(), total / n)).float())

    def left(places: Tensor) -> Tensor:
        out: Tensor = images[places].flatten(1) - mean - known[places] @ effects
        return out

    some = _spread(torch.arange(n), d)
    covariances = {ALL: Covariance.fit(images[some].flatten(1) - mean), REST: Covariance.fit(left(some))}
    for name in sorted({name for name in classes if name is not None}):
        rows = torch.tensor([row for row, other in enumerate(classes) if other == name])
        if len(rows) >= GROUP_MIN:
            own = left(_spread(rows, d))
            covariances[f"class:{name}"] = Covariance.fit(own - own.mean(0))
    return Moments(mean, effects, centre, covariances)


def _spread(rows: Tensor, d: int) -> Tensor:
    """Return as many of `rows` as a covariance of d values is measured on, evenly spread."""
    count = min(len(rows), ROWS_MAX, max(2, _BYTES_MAX // (4 * d)))
    return rows[torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()]


def save(folder: Path, moments: Moments) -> list[str]:
    """Write the moments of a Checkpoint; return the names of the covariances, in the order in which the file numbers them."""
    tensors = {"mean": moments.mean, "effects": moments.effects, "centre": moments.centre}
    names = sorted(moments.covariances)
    for number, name in enumerate(names):
        tensors |= {f"{number}/{part}": value for part, value in vars(moments.covariances[name]).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FILE)
    return names


def load(folder: Path, names: Sequence[str]) -> Moments:
    """Read the moments of a Checkpoint whose covariances are `names`."""
    tensors = load_file(folder / FILE)
    parts = ("components", "variances", "rest")
    covariances = {name: Covariance(*(tensors[f"{number}/{part}"] for part in parts)) for number, name in enumerate(names)}
    return Moments(tensors["mean"], tensors["effects"], tensors["centre"], covariances)
