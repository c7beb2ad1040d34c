"""Canaries: made-up outliers that are trained on so that it can be measured how much a model gives away of such as they.

An outlier is what a model memorises first. Some are planted in training, as many of the same kind are held back, and afterwards
each planted one is ranked by its loss among those held back: its exposure (Carlini et al. 2019, "The Secret Sharer", definition
4). Nobody is hurt, for a canary is no patient: it is a training image cut into blocks that were shuffled and turned over, so that
its grey levels are those of the images and its structure is nobody's. It is trained without conditions, and no sample is asked for like it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.diffusion.duplicates import DUPLICATE
from medpipe.images.dataset import Dataset
from medpipe.store import Images


def made(data: Dataset, count: int, seed: int) -> Images:
    """Return stored images (2·count, C, …): first the canaries that are planted, then those held back."""
    rows = data.index.loc[data.index["split"].isin(["train", DUPLICATE]), "row"].to_numpy(np.int64)
    draws = seeds.generator(seed, "canaries")
    sources = data.images(rows[draws.integers(0, len(rows), 2 * count)])
    return np.stack([_shuffled(image, draws) for image in sources]) if count else sources


def _shuffled(image: Images, draws: np.random.Generator) -> Images:
    """Cut each side into four (two, one) and put the blocks back in another order, each turned over or not."""
    sides = image.shape[1:]
    parts = next(parts for parts in (4, 2, 1) if all(side % parts == 0 for side in sides))
    places = [
        (slice(None), *(slice(at * side // parts, (at + 1) * side // parts) for at, side in zip(block, sides, strict=True)))
        for block in product(range(parts), repeat=len(sides))
    ]
    out = np.empty_like(image)
    for place, source in zip(places, draws.permutation(len(places)), strict=True):
        block = image[places[source]]
        out[place] = block[..., ::-1] if draws.random() < 0.5 else block
    return out


def exposures(planted: NDArray[np.float64], held_back: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log₂ of the number of canaries over each planted one's rank by loss among those held back: (n,).

    It reaches log₂(m + 1) for m that were held back; of a model that knows none the mean is about log₂ e = 1.44.
    """
    ranks = 1 + (held_back[None] < planted[:, None]).sum(1)
    return np.asarray(np.log2(len(held_back) + 1) - np.log2(ranks))


def by_chance(held_back: int) -> float:
    """Return the mean exposure of canaries that the model does not know."""
    return float(np.log2(held_back + 1) - np.log2(np.arange(1, held_back + 2)).mean())
