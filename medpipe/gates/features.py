"""Feature spaces in which images are compared: one learned on the training split, one of random convolutions, one of pixels.

No single space sees everything (docs/gates.md has the measured table), and features of a two-class classifier collapse
to a line and rank nothing. So the learned network is made to name what was done to an image: each training image is
turned, moved, blurred, made noisy and regraded by a known amount, and the network tells all amounts, and the class,
from one vector. Random convolutions need no training and carry texture; principal components of the pixels carry layout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medpipe import seeds
from medpipe.images.transforms import to_model
from medpipe.progress import Progress, silent
from medpipe.threads import threads

Features = NDArray[np.float64]
Stored = NDArray[np.unsignedinteger[Any]]
WIDTH = 64
"""Length of the learned vector."""
COMPONENTS = 32
"""Leading directions that are kept of random convolutions and of pixels."""
BATCH = 128
SHRINKING = 0.45
"""Blur before an image is read at fewer points, in units of their distance."""
TOLD = 6
"""Amounts that the learned network tells: blur, noise, gamma, contrast, angle, zoom."""


def conv(dimensions: int, before: int, after: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv2d | nn.Conv3d:
    """Return a padded convolution over images (2) or volumes (3)."""
    kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return kind(before, after, kernel, stride=stride, padding=kernel // 2, bias=bias)


class Encoder(nn.Module):
    """Images (N, C, H, W) or (N, C, D, H, W) to vectors (N, WIDTH): a strided stem, then two resolutions."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        dimensions, side = len(shape) - 1, max(shape[1:])
        a, b = (24, 32) if dimensions == 2 else (12, 24)
        stride = max(1, round(side / 16))
        layers: list[nn.Module] = []
        plan = ((shape[0], a, 2 * stride + 1, stride), (a, b, 3, 1), (b, WIDTH, 3, 2), (WIDTH, WIDTH, 3, 1))
        for before, after, kernel, step in plan:
            layers += [conv(dimensions, before, after, kernel, step), nn.GroupNorm(4, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(2 * WIDTH, WIDTH)
        self.memory_format = torch.channels_last if dimensions == 2 else torch.channels_last_3d
        nn.Module.to(self, memory_format=self.memory_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers(images.contiguous(memory_format=self.memory_format)).flatten(2)  # (N, WIDTH, positions)
        vector: Tensor = self.out(torch.cat([maps.mean(2), maps.std(2, unbiased=False)], 1))
        return vector


class Pretext(nn.Module):
    """The encoder with the heads that train it: orientation, amounts, class."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(shape)
        self.orientation, self.amounts = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, TOLD)
        self.classes = nn.Linear(WIDTH, max(1, classes))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, separably, with mirrored edges; any number of axes."""
    for axis in range(2, images.ndim):
        blur, shape = torch.from_numpy(_blur(images.shape[axis], sigma)).to(images), images.shape
        last = axis == images.ndim - 1
        images = images @ blur.T if last else (blur @ images.reshape(*shape[: axis + 1], -1)).reshape(shape)
    return images


@lru_cache(maxsize=128)
def _blur(size: int, sigma: float) -> NDArray[np.float32]:
    """Return the blur of a line of `size` pixels as a matrix: one product, where a sum over taps reads the images once for each."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    lines, places = np.arange(size)[:, None], (np.arange(size)[:, None] + offsets) % (2 * size)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.broadcast_to(lines, places.shape), np.minimum(places, 2 * size - 1 - places)), taps / taps.sum())
    return matrix.astype(np.float32)


def distorted(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Turn, move, blur, grain and regrade a batch in [-1, 1] by random amounts.

    Returns the images, the orientation (N,) in 0..7, and the amounts (N, TOLD), each scaled to about [-1, 1].
    """
    n, shape = len(images), (len(images),) + (1,) * (images.ndim - 1)
    draw = torch.rand(n, 8, generator=generator) * 2 - 1
    angle, zoom, gamma, contrast = draw[:, 0], draw[:, 1], draw[:, 2], draw[:, 3]
    level, grain = torch.randint(0, 4, (2, n), generator=generator)
    untouched = torch.rand(n, generator=generator) < 0.15
    for amount in (angle, zoom, gamma, contrast, level, grain):
        amount[untouched] = 0
    images = _moved(images, angle * 0.25, torch.exp(zoom * 0.15), draw[:, 4:7] * 0.15)
    orientation = torch.randint(0, 8, (n,), generator=generator)
    if images.shape[-1] == images.shape[-2]:
        turned = torch.empty_like(images)
        for k in range(8):
            here = orientation == k
            turned[here] = torch.rot90(images[here].flip(-1) if k & 4 else images[here], k & 3, (-2, -1))
        images = turned
    else:
        orientation = (orientation & 1) * 4
        images = torch.where((orientation == 4).view(shape), images.flip(-1), images)
    unit = ((images + 1) / 2).clamp(0, 1) ** torch.exp(gamma * 0.5).view(shape)
    unit = (unit - 0.5) * torch.exp(contrast * 0.3).view(shape) + 0.5
    blurs = torch.stack([unit, *(blurred(unit, sigma) for sigma in (0.5, 0.8, 1.2))])
    unit = blurs[level, torch.arange(n)]
    noise = torch.randn(unit.shape, generator=generator)
    unit = unit + noise * (torch.tensor([0.0, 0.015, 0.03, 0.08])[grain]).view(shape)
    # to whole grey levels, as stored images are: otherwise the network would tell noise by its fractions
    unit = torch.round(unit.clamp(0, 1) * 255) / 255
    amounts = torch.stack([level / 1.5 - 1, grain / 1.5 - 1, gamma, contrast, angle, zoom], 1)
    return unit * 2 - 1, orientation, amounts


def _moved(images: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Turn in the plane of the last two axes by `angle` rad, scale and shift (parts of half the side), mirrored edges."""
    n, dimensions = len(images), images.ndim - 2
    matrix = torch.zeros(n, dimensions, dimensions + 1)
    for axis in range(2, dimensions):
        matrix[:, axis, axis] = zoom
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom * torch.cos(angle)
    aspect = images.shape[-2] / images.shape[-1]  # the grid is 2 wide along every axis, however long
    matrix[:, 0, 1], matrix[:, 1, 0] = -zoom * torch.sin(angle) * aspect, zoom * torch.sin(angle) / aspect
    matrix[:, :, -1] = shift[:, :dimensions]
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def batches(n: int, images: int, generator: np.random.Generator, most: int = BATCH) -> Iterator[NDArray[np.int64]]:
    """Yield batches of at most `most` positions below `n`, shuffled anew each pass, until `images` have been seen."""
    seen, left = 0, np.empty(0, dtype=np.int64)
    while seen < images:
        size = min(most, n)
        while len(left) < size:
            left = np.concatenate([left, generator.permutation(n)])
        yield left[:size]
        left, seen = left[size:], seen + size


def train(
    images: Stored, labels: NDArray[np.int64], classes: int, *, budget: int, seed: int, progress: Progress = silent
) -> dict[str, Tensor]:
    """Train the learned space over `budget` images of the training split and return the encoder's weights.

    `images` (N, C, …) as stored; `labels` (N,) class numbers, -1 where there is none. Deterministic for a seed.
    """
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.child(seed, "gates", "features", "weights"))
        net = Pretext(images.shape[1:], classes).train()
        draws = torch.Generator().manual_seed(seeds.child(seed, "gates", "features", "distortions"))
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
        steps = max(1, math.ceil(budget / min(BATCH, len(images))))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)
        for step, rows in enumerate(batches(len(images), budget, seeds.generator(seed, "gates", "features", "order"))):
            seen, orientation, amounts = distorted(torch.from_numpy(to_model(images[rows])), draws)
            vector = functional.relu(net.encoder(seen))
            loss = functional.cross_entropy(net.orientation(vector), orientation)
            loss = loss + 2 * functional.mse_loss(net.amounts(vector), amounts)
            known = torch.from_numpy(labels[rows])
            if classes > 1 and bool((known >= 0).any()):
                loss = loss + functional.cross_entropy(net.classes(vector), known, ignore_index=-1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress("feature network", min(step + 1, steps) * BATCH, steps * BATCH)
        return {name: value.detach().clone() for name, value in net.encoder.state_dict().items()}


class Texture(nn.Module):
    """Random convolutions: three layers of fixed random weights, mean and spread of each layer's maps."""

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        super().__init__()
        dimensions = len(shape) - 1
        widths = (shape[0], 24, 48, 64) if dimensions == 2 else (shape[0], 12, 24, 48)
        draws = torch.Generator().manual_seed(seeds.child(seed, "gates", "texture"))
        self.layers = nn.ModuleList()
        for before, after in itertools.pairwise(widths):
            layer = conv(dimensions, before, after, 3, bias=False)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=draws) * math.sqrt(2 / layer.weight[0].numel()))
            self.layers.append(layer)
        self.pool = functional.avg_pool2d if dimensions == 2 else functional.avg_pool3d

    def forward(self, images: Tensor) -> Tensor:
        found = []
        for layer in self.layers:
            images = functional.leaky_relu(layer(images), 0.2)
            flat = images.flatten(2)
            found += [flat.mean(2), flat.std(2, unbiased=False)]
            images = self.pool(images, 2) if min(images.shape[2:]) >= 4 else images
        return torch.cat(found, 1)


def shrunk(images: Tensor, side: int) -> Tensor:
    """Bring images down to at most `side` pixels on the longest axis.

    Averages of blocks where all sides divide evenly. Else blurred, then read between pixels: averages of blocks that overlap here
    and not there would lay a pattern over an image, which a moved or zoomed copy of it does not share.
    """
    old = images.shape[2:]
    if max(old) <= side:
        return images
    factor = max(old) / side
    new = [max(1, round(axis / factor)) for axis in old]
    if all(axis % fewer == 0 for axis, fewer in zip(old, new, strict=True)):
        return functional.interpolate(images, size=new, mode="area")
    mode = "bilinear" if len(new) == 2 else "trilinear"
    return functional.interpolate(blurred(images, SHRINKING * factor), size=new, mode=mode)


@dataclass(frozen=True)
class Directions:
    """Leading principal directions, each scaled to unit variance over the training split."""

    mean: Features
    matrix: Features  # (features, components)

    @classmethod
    def fit(cls, features: Features) -> Directions:
        """Fit to `features` (N, d) of the training split; directions of almost no variance are left out."""
        mean = features.mean(0)
        values, vectors = np.linalg.eigh(np.cov(features - mean, rowvar=False))
        order = [k for k in np.argsort(values)[::-1][:COMPONENTS] if values[k] > 1e-6 * values[-1]]
        return cls(mean, vectors[:, order] / np.sqrt(values[order]))

    def __call__(self, features: Features) -> Features:
        return (features - self.mean) @ self.matrix


SPACES = ("learned", "texture", "pixels")


def raw(images: Stored, weights: dict[str, Tensor], seed: int) -> dict[str, Features]:
    """Map stored images (N, C, …) to each space before `Directions`: name to (N, d)."""
    encoder, texture = Encoder(images.shape[1:]), Texture(images.shape[1:], seed)
    encoder.load_state_dict(weights)
    found: dict[str, list[Tensor]] = {name: [] for name in SPACES}
    with threads(1), torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(to_model(images[start : start + BATCH]))
            found["learned"].append(encoder(batch))
            found["texture"].append(texture(shrunk(batch, 64)))
            found["pixels"].append(shrunk(batch, 16 if batch.ndim == 4 else 8).flatten(1))
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}
