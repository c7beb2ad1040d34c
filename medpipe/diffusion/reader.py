"""The images of the training split: read as they are needed, in an order that the seed and the images seen decide.

A split that fits in `train.buffer_mib` is kept in memory as it is stored, and each pass over it is a permutation of all.
A larger one is cut into blocks, runs of neighbours within one shard; a pass is a permutation of the blocks and of the images
within each. That sequence is laid out as `lanes` streams of equal length which every batch draws from in turn: a batch
holds images of as many blocks as there are lanes, and a process reads the blocks of its own lanes only. The order does not
depend on how many processes there are.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds, store
from medpipe.errors import InputError

MIB = 2**20
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """Which image training sees when; an image is its place in the training split.

    `starts` holds the first image of each block and, last, their number; `lanes` is 0 where every pass permutes all.
    """

    seed: int
    starts: tuple[int, ...]
    lanes: int = 0

    @property
    def images(self) -> int:
        """Images in the split."""
        return self.starts[-1]

    def at(self, start: int, count: int) -> Places:
        """Return the images (count,) that training sees after `start` images."""
        numbers = np.arange(start, start + count)
        out = np.empty(count, np.int64)
        for epoch in np.unique(numbers // self.images):
            here = numbers // self.images == epoch
            place = numbers[here] % self.images
            if self.lanes:
                lane, step = place % self.lanes, place // self.lanes
                place = lane * (self.images // self.lanes) + np.minimum(lane, self.images % self.lanes) + step
            out[here] = _pass(self, int(epoch))[place]
        return out

    def share(self, start: int, count: int, rank: int, processes: int) -> NDArray[np.bool_]:
        """Say which of the next `count` images after `start` process `rank` computes: a range of the batch, or its own lanes'."""
        numbers = np.arange(start, start + count)
        lanes = self.lanes or count
        lane = numbers % self.images % lanes if self.lanes else numbers - start
        own: NDArray[np.bool_] = (lane >= lanes * rank // processes) & (lane < lanes * (rank + 1) // processes)
        return own


@lru_cache(maxsize=4)
def _pass(order: Order, epoch: int) -> Places:
    """Return the sequence of one pass over all images."""
    generator = seeds.generator(order.seed, "order", epoch)
    if not order.lanes:
        return generator.permutation(order.images)
    sizes = np.diff(order.starts)
    rank = np.argsort(generator.permutation(len(sizes)))  # of each block
    return np.lexsort((generator.random(order.images), np.repeat(rank, sizes)))


class Reader:
    """The training split of the store in `folder`: stored images by their place in `rows`, the split's rows in order.

    `more` are images that follow after them; for these a split has to fit in memory.
    """

    def __init__(self, folder: Path, rows: Places, seed: int, batch: int, buffer_mib: int, more: store.Images | None = None) -> None:
        self._array = store.open_array(folder)
        self.rows, self.budget = rows, buffer_mib * MIB
        self.image_bytes = int(np.prod(self._array.shape[1:])) * self._array.dtype.itemsize
        shard, chunk = (self._array.shards or self._array.chunks)[0], self._array.chunks[0]
        whole = len(rows) * self.image_bytes <= self.budget
        lanes = min(batch, max(1, self.budget // (2 * chunk * self.image_bytes)))
        block = max(1, min(shard, self.budget // (2 * lanes * self.image_bytes)) // chunk) * chunk
        self.shards = len(np.unique(rows // shard))
        cuts = np.flatnonzero(np.diff(rows // shard * shard + rows % shard // block * block)) + 1
        self.more = more
        self.order = Order(seed, (0, *cuts.tolist(), len(rows) + (0 if more is None else len(more))), 0 if whole else lanes)
        self._blocks: OrderedDict[int, store.Images] = OrderedDict()
        self.streamed, self._folder = not whole, folder

    @cached_property
    def _all(self) -> store.Images:
        stored = store.read(self._folder, self.rows)
        return stored if self.more is None else np.concatenate([stored, self.more])

    @property
    def largest(self) -> int:
        """The largest stored value of the images' type."""
        return int(np.iinfo(self._array.dtype).max)

    def check(self, processes: int) -> None:
        """Raise InputError where there is not enough for every process to read its own."""
        if self.streamed and processes > min(self.shards, self.order.lanes):
            raise InputError(
                f"{processes} processes are more than the {self.shards} shards of training images ({self.order.lanes} can be open in "
                "train.buffer_mib): lower compute.processes, raise train.buffer_mib, or preprocess with a smaller images.shard"
            )

    def take(self, places: Places) -> store.Images:
        """Return the stored images (n, C, …) at `places` of the split, in that order."""
        if not self.streamed:
            kept: store.Images = self._all[places]
            return kept
        out = np.empty((len(places), *self._array.shape[1:]), self._array.dtype)
        blocks = np.searchsorted(self.order.starts, places, side="right") - 1
        for number in np.unique(blocks):
            here = blocks == number
            out[here] = self._block(int(number))[places[here] - self.order.starts[number]]
        return out

    def _block(self, number: int) -> store.Images:
        """Return a block from the buffer, or read it and let go of those that were not used for longest."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        rows = self.rows[self.order.starts[number] : self.order.starts[number + 1]]
        stored: store.Images = np.asarray(self._array[int(rows[0]) : int(rows[-1]) + 1])[rows - rows[0]]
        self._blocks[number] = stored
        while len(self._blocks) > 1 and sum(block.nbytes for block in self._blocks.values()) > self.budget:
            self._blocks.popitem(last=False)
        return stored

    def totals(self, rank: int = 0, processes: int = 1) -> tuple[int, int, int]:
        """Return number, sum and sum of squares of the stored values in this process's share of the split: exact integers."""
        count = total = squares = 0
        bounds = [len(self.rows) * part // processes for part in (rank, rank + 1)]
        for places in self.parts(*bounds):
            values = self.take(places).astype(np.uint64)
            count, total, squares = count + values.size, total + int(values.sum()), squares + int((values * values).sum())
        return count, total, squares

    def parts(self, start: int = 0, stop: int | None = None) -> list[Places]:
        """Cut the places from `start` to `stop` into runs of at most 16 MiB, for one pass over them in their own order."""
        stop, step = self.order.images if stop is None else stop, max(1, 16 * MIB // self.image_bytes)
        return [np.arange(first, min(first + step, stop)) for first in range(start, stop, step)]


def scale(totals: tuple[int, int, int], largest: int) -> dict[str, Any]:
    """Return mean and standard deviation of the images in the model's range, of their `totals` as stored."""
    count, total, squares = totals
    half = largest / 2
    variance = max(0, count * squares - total * total) / (count * max(count - 1, 1))  # exact up to the division
    return {"data_mean": total / count / half - 1, "sigma_data": float(variance**0.5 / half) or 1.0}
