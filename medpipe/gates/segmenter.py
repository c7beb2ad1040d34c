"""A small segmentation network, the same for every arm, and the Dice score that judges it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medpipe import seeds
from medpipe.gates.features import batches
from medpipe.images.transforms import to_model
from medpipe.threads import threads

Stored = NDArray[np.unsignedinteger[Any]]
Masks = NDArray[np.integer[Any]]
HALVINGS = 4
"""Sides are padded to multiples of it: the network halves them twice."""
BATCH_PIXELS = 2**16
"""Pixels or voxels of a batch: what bounds memory for volumes."""
PASSES = 60
"""Most passes over the training images of an arm."""


def build(shape: Sequence[int], labels: int) -> nn.Module:
    """Return a residual U-Net of MONAI (Kerfoot et al. 2019) for images (C, H, W) or (C, D, H, W), to `labels` + 1 maps."""
    from monai.networks.nets.unet import UNet  # MONAI takes seconds to import

    net: nn.Module = UNet(
        spatial_dims=len(shape) - 1,
        in_channels=shape[0],
        out_channels=labels + 1,
        channels=(16, 32, 48),
        strides=(2, 2),
        num_res_units=1,
        norm=("group", {"num_groups": 1}),
    )
    return net


def _padded(images: Tensor) -> Tensor:
    """Pad the far ends of (N, C, …) so that the network can halve every side."""
    ends = [end for side in reversed(images.shape[2:]) for end in (0, -side % HALVINGS)]
    return functional.pad(images, ends, mode="replicate") if any(ends) else images


def _logits(net: nn.Module, images: Tensor) -> Tensor:
    """Return the network's maps (N, labels + 1, …) on the images' own grid."""
    maps: Tensor = net(_padded(images))
    return maps[(slice(None), slice(None), *(slice(side) for side in images.shape[2:]))]


def loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice (Milletari et al. 2016, over the batch) of maps (N, K, …) and class numbers (N, …)."""
    wanted = functional.one_hot(truth, logits.shape[1]).movedim(-1, 1).float()
    axes = (0, *range(2, logits.ndim))
    likely = logits.softmax(1)
    overlap, total = (likely * wanted).sum(axes), (likely + wanted).sum(axes)
    return functional.cross_entropy(logits, truth) + 1 - ((2 * overlap + 1) / (total + 1))[1:].mean()


def numbered(masks: Masks, labels: Sequence[int]) -> NDArray[np.int64]:
    """Turn label maps (N, 1, …) into class numbers (N, …): 0 for the background and for labels that are not of `labels`."""
    lookup = np.zeros(256, dtype=np.int64)
    lookup[list(labels)] = np.arange(1, len(labels) + 1)
    return np.asarray(lookup[masks[:, 0]])


def train(images: Stored, truth: NDArray[np.int64], labels: int, *, budget: int, seed: int, names: tuple[str, ...]) -> nn.Module:
    """Train a network on `images` (N, C, …) and their class numbers (N, …) over `budget` images; deterministic for (seed, names)."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.child(seed, "gates", "segment", "weights", *names))
        net = build(images.shape[1:], labels).train()
        size = batch_size(images.shape[1:])
        budget = min(budget, PASSES * len(images))
        steps = max(1, math.ceil(budget / min(size, len(images))))
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps + 1)
        for rows in batches(len(images), budget, seeds.generator(seed, "gates", "segment", "order", *names), size):
            value = loss(_logits(net, torch.from_numpy(to_model(images[rows]))), torch.from_numpy(truth[rows]))
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval()


def batch_size(shape: Sequence[int]) -> int:
    """Return how many images (C, …) are computed at once."""
    return int(np.clip(BATCH_PIXELS // math.prod(shape[1:]), 2, 32))


def dice(net: nn.Module, images: Stored, truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each image's Dice score (N,) against `truth` (N, …): 2 |A ∩ B| / (|A| + |B|), mean over the labels that are in the truth."""
    found = []
    size = batch_size(images.shape[1:])
    with threads(1), torch.inference_mode():
        for start in range(0, len(images), size):
            drawn = _logits(net, torch.from_numpy(to_model(images[start : start + size]))).argmax(1).numpy()
            found += [_dice(one, other) for one, other in zip(drawn, truth[start : start + size], strict=True)]
    return np.array(found)


def _dice(drawn: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    scores = []
    for label in np.unique(truth[truth > 0]):
        one, other = drawn == label, truth == label
        scores.append(2 * np.sum(one & other) / (one.sum() + other.sum()))
    return float(np.mean(scores)) if scores else math.nan
