"""What the cohort is good for: a classifier trained on it, and only on it, tested on real images (TSTR against TRTR)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional

from medpipe import seeds
from medpipe.gates.features import BATCH, WIDTH, Encoder, batches
from medpipe.images.transforms import to_model
from medpipe.threads import threads

Stored = NDArray[np.unsignedinteger[Any]]
Labels = NDArray[np.int64]
PASSES = 60
"""Most passes over the training images of an arm: a small set needs no more."""


class Classifier(nn.Module):
    """The encoder of the gates with a linear head: small, fixed, the same for every arm."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(shape), nn.Linear(WIDTH, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(functional.relu(self.encoder(images)))
        return logits


def probabilities(
    images: Stored, labels: Labels, tested: Stored, classes: int, *, budget: int, seed: int, names: tuple[str, ...]
) -> NDArray[np.float32]:
    """Train a classifier on `images` (N, C, …) with `labels` (N,) and return its probabilities for `tested` (M, classes).

    `budget` images are seen in training, whatever N is, so that arms differ in what they saw and in nothing else.
    Deterministic for (seed, names).
    """
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.child(seed, "gates", "utility", "weights", *names))
        net = Classifier(images.shape[1:], classes).train()
        budget = min(budget, PASSES * len(images))
        steps = max(1, math.ceil(budget / min(BATCH, len(images))))
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)
        for rows in batches(len(images), budget, seeds.generator(seed, "gates", "utility", "order", *names)):
            loss = functional.cross_entropy(net(torch.from_numpy(to_model(images[rows]))), torch.from_numpy(labels[rows]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.inference_mode():
            parts = [net(torch.from_numpy(to_model(tested[k : k + BATCH]))).softmax(1) for k in range(0, len(tested), BATCH)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def auc(predicted: NDArray[np.floating[Any]], labels: Labels) -> float:
    """Area under the ROC curve of probabilities (N, classes), one class against the rest, mean over the classes.

    A class without both kinds of image is left out; NaN where none remains. By ranks (Mann-Whitney), ties count half.
    """
    found = []
    for number in range(predicted.shape[1]):
        own = labels == number
        positive, negative = int(own.sum()), int((~own).sum())
        if positive and negative:
            ranks = rankdata(predicted[:, number])
            found.append((ranks[own].sum() - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(found)) if found else math.nan


def intervals(
    arms: list[NDArray[np.floating[Any]]], labels: Labels, resamples: int, draws: np.random.Generator
) -> tuple[float, float, float]:
    """Return the mean AUC of the classifiers `arms` and its 95 % interval over test images drawn with replacement."""
    value = float(np.mean([auc(arm, labels) for arm in arms]))
    found = []
    for _ in range(resamples):
        rows = draws.integers(0, len(labels), len(labels))
        found.append(np.mean([auc(arm[rows], labels[rows]) for arm in arms]))
    low, high = np.nanpercentile(found, [2.5, 97.5]) if not np.isnan(found).all() else (math.nan, math.nan)
    return value, float(low), float(high)
