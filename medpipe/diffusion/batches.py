"""What each step of training computes on: images, noise and conditions, made a little ahead of the step in a thread.

What happens to image i of a training depends on the seed, i and the recipe alone, not on the process that computes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from medpipe import seeds
from medpipe.diffusion import augment, conditioning, preconditioning
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.distributed import World
from medpipe.diffusion.maps import Maps
from medpipe.diffusion.reader import Places, Reader
from medpipe.images.transforms import to_model
from medpipe.recipe import Recipe
from medpipe.store import Images

AHEAD = 2
"""Steps whose inputs are made before they are needed."""


@dataclass(frozen=True)
class Batch:
    """This process's share of a step's images: n of `size`."""

    clean: Tensor  # (n, C, …)
    sigma: Tensor  # (n,)
    noise: Tensor  # (n, C, …)
    conditions: Tensor  # (n, K)
    weights: Tensor  # (n,): 0 for an image that only keeps a process without images in step, else 1
    size: int
    maps: Tensor | None = None  # (n, M, …)
    count: int = 1
    """Parts that the share is computed in, as many as in every other process: under FSDP they move through the network together."""

    def parts(self) -> list[Batch]:
        """Cut the share into its parts, of equal size up to an image."""
        cuts = [len(self.clean) * part // self.count for part in range(self.count + 1)]
        return [self.map(partial(_rows, slice(*ends))) for ends in pairwise(cuts)]

    def pinned(self) -> Batch:
        """Return the same in memory from which a GPU copies while it computes."""
        return self.map(Tensor.pin_memory)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch of which every tensor is changed."""
        clean, sigma, noise, conditions, weights = map(change, (self.clean, self.sigma, self.noise, self.conditions, self.weights))
        maps = None if self.maps is None else change(self.maps)
        return Batch(clean, sigma, noise, conditions, weights, self.size, maps, self.count)

    @property
    def given(self) -> list[Tensor]:
        """What the loss takes, in its order."""
        return [self.clean, self.sigma, self.noise, self.conditions, *([] if self.maps is None else [self.maps])]


def parts_of(images: int, microbatch: int | None) -> int:
    """Return in how many parts a share of `images` is computed."""
    return 1 if microbatch is None else -(-images // microbatch)


def _rows(rows: slice, tensor: Tensor) -> Tensor:
    return tensor[rows]


@dataclass(frozen=True)
class Split:
    """The training split as the network sees it."""

    reader: Reader
    mean: float
    stretch: float
    """What images are multiplied by, their mean taken off: 1 but for latents, which are stored in a narrower range."""
    vectors: Tensor
    """Condition vectors (N, K) of its images, canaries last."""
    labels: list[str | None]
    """Classes of its images without the canaries, which have none."""
    masks: Tensor | None = None
    """Label maps (N, 1, …) of its images as they are stored, where the network is given masks."""

    def __getitem__(self, places: Tensor | Places) -> Tensor:
        """Return the images (n, C, …) at `places` as the network sees them."""
        return centred(self.reader.take(np.asarray(places)), self.mean, self.stretch)


def centred(stored: Images, mean: float, stretch: float) -> Tensor:
    """Return stored images as the network sees them; the decoder of a Checkpoint undoes it."""
    return (torch.from_numpy(to_model(stored)) - mean) * stretch


@dataclass(frozen=True)
class Batches:
    """The inputs of every step."""

    split: Split
    conditions: Conditions
    maps: Maps
    recipe: Recipe
    world: World
    pin: bool = False

    def after(self, images: int) -> Iterator[Batch]:
        """Yield the batches that follow after `images` images, to the end of the training."""
        settings = self.recipe.train
        starts = iter(range(images, settings.images, settings.batch))
        with ThreadPoolExecutor(1) as thread:
            waiting: deque[Future[Batch]] = deque()
            try:
                while True:
                    for start in starts:
                        waiting.append(thread.submit(self.make, start, min(settings.batch, settings.images - start)))
                        if len(waiting) >= AHEAD:
                            break
                    if not waiting:
                        return
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the noise levels σ (N,) of `count` images."""
        return preconditioning.draw(self.recipe.model, count, generator)

    def make(self, start: int, count: int) -> Batch:
        """Make this process's share of the `count` images after `start`."""
        seed, order = self.recipe.seed, self.split.reader.order
        generator = torch.Generator().manual_seed(seeds.child(seed, "step", start))
        places = order.at(start, count)
        shares = [np.flatnonzero(order.share(start, count, rank, self.world.size)) for rank in range(self.world.size)]
        parts = parts_of(max(map(len, shares)), self.recipe.train.microbatch)
        own = shares[self.world.rank]
        kept = np.concatenate((own, np.zeros(max(0, parts - len(own)), np.int64)))
        weights = (torch.arange(len(kept)) < len(own)).float()
        sigma = self.levels(count, generator)[kept]
        mirrored = torch.rand(count, generator=generator)[kept] < (0.5 if self.recipe.train.flip else 0)
        model, asked = self.recipe.model, len(self.conditions.items)
        chances = [model.covariate_dropout] * asked + [model.map_dropout] * len(self.maps.kinds)
        shown = conditioning.shown(count, model.condition_dropout, chances, generator)[kept]
        vectors = self.conditions.hide(self.split.vectors[places[kept]], shown[:, :asked])
        clean, masks = self.split[places[kept]], None if self.split.masks is None else self.split.masks[places[kept]]
        for flipped in (clean,) if masks is None else (clean, masks):
            flipped[mirrored] = flipped[mirrored].flip(-1)
        if (share := self.recipe.train.augment) > 0:
            parameters = augment.draw(count, share, clean.ndim - 2, generator)[kept]
            clean, vectors = augment.apply(clean, parameters), torch.cat((vectors, parameters), dim=1)
            masks = None if masks is None else augment.apply(masks.float(), parameters, mode="nearest").to(masks.dtype)
        maps = self._drawn(clean, masks, shown[:, asked:], start + kept)
        noise = torch.empty_like(clean)
        for target, number in zip(noise, kept, strict=True):
            generator.manual_seed(seeds.child(seed, "noise", start + int(number)))
            torch.randn(target.shape, generator=generator, out=target)
        batch = Batch(clean, sigma, noise, vectors, weights, count, maps, parts)
        return batch.pinned() if self.pin else batch

    def _drawn(self, clean: Tensor, masks: Tensor | None, shown: Tensor, numbers: Places) -> Tensor | None:
        """Make the maps of images (n, C, …), each by its number in the training, whatever process computes it."""
        if not self.maps.kinds:
            return None
        generator, rows = torch.Generator(), []
        for row, number in enumerate(numbers):
            generator.manual_seed(seeds.child(self.recipe.seed, "maps", int(number)))
            own = slice(row, row + 1)
            rows.append(self.maps.draw(clean[own], None if masks is None else masks[own], shown[own], generator))
        return torch.cat([maps for maps in rows if maps is not None])
