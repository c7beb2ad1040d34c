"""The order of training images, and reading them within bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.diffusion.reader import Order, Reader, scale
from medpipe.errors import InputError
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model
from medpipe.records import Record

Datasets = Callable[..., Record]


@st.composite
def orders(draw: st.DrawFn) -> Order:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    return Order(draw(st.integers(0, 9)), (0, *np.cumsum(sizes).tolist()), draw(st.integers(0, 12)))


@given(orders(), st.integers(1, 17))
@settings(max_examples=80, deadline=None)
def test_every_pass_shows_every_image_once_however_it_is_cut(order: Order, batch: int) -> None:
    n = order.images
    seen = np.concatenate([order.at(start, min(batch, 3 * n - start)) for start in range(0, 3 * n, batch)])
    for epoch in range(3):
        assert sorted(seen[n * epoch : n * epoch + n]) == list(range(n))
    assert np.array_equal(seen, order.at(0, 3 * n))


@given(orders(), st.integers(1, 17), st.integers(1, 5), st.integers(0, 50))
@settings(max_examples=80, deadline=None)
def test_the_processes_share_every_batch_without_a_rest(order: Order, batch: int, processes: int, start: int) -> None:
    shares = np.stack([order.share(start, batch, rank, processes) for rank in range(processes)])
    assert (shares.sum(0) == 1).all()


def test_two_passes_and_two_seeds_differ() -> None:
    for lanes in (0, 4):
        order = Order(1, (0, 10, 20, 30), lanes)
        assert not np.array_equal(order.at(0, 30), order.at(30, 30))
        assert not np.array_equal(order.at(0, 30), Order(2, (0, 10, 20, 30), lanes).at(0, 30))


def test_a_batch_of_a_streamed_split_holds_images_of_many_blocks() -> None:
    order = Order(0, tuple(range(0, 1001, 50)), 10)
    blocks = [len(set((order.at(start, 10) // 50).tolist())) for start in range(0, 1000, 10)]
    assert min(blocks) >= 8


def test_a_streamed_split_gives_the_images_of_a_whole_one(monkeypatch: pytest.MonkeyPatch, dataset: Datasets) -> None:
    data = Dataset.open(dataset(images=400).path)
    rows = data.rows("train")
    whole = Reader(data.record.path, rows, 0, 8, 16)
    monkeypatch.setattr("medpipe.diffusion.reader.MIB", 256)  # 16 of these is 4 KiB: 64 images of 64 bytes
    streamed = Reader(data.record.path, rows, 0, 8, 16)
    assert streamed.streamed
    assert not whole.streamed
    kept = 0
    for start in range(0, 3 * len(rows), 8):
        places = streamed.order.at(start, 8)
        assert np.array_equal(streamed.take(places), whole.take(places))
        kept = max(kept, sum(block.nbytes for block in streamed._blocks.values()))
    assert 0 < kept <= 16 * 256 < whole.take(np.arange(len(rows))).nbytes


def test_a_process_reads_only_the_blocks_of_its_own_lanes(monkeypatch: pytest.MonkeyPatch, dataset: Datasets) -> None:
    monkeypatch.setattr("medpipe.diffusion.reader.MIB", 256)
    data = Dataset.open(dataset(images=400).path)
    rows = data.rows("train")
    read = []
    for rank in range(2):
        reader = Reader(data.record.path, rows, 0, 8, 16)
        fetched = []
        monkeypatch.setattr(reader, "_block", lambda number, fetch=reader._block, seen=fetched: (seen.append(number), fetch(number))[1])
        for start in range(0, len(rows) // 8 * 8, 8):
            places = reader.order.at(start, 8)
            reader.take(places[reader.order.share(start, 8, rank, 2)])
        read.append(set(fetched))
    blocks = len(reader.order.starts) - 1
    assert read[0] | read[1] == set(range(blocks))
    assert len(read[0] & read[1]) <= 2  # a block may lie across the border of two lanes


def test_more_processes_than_shards_are_refused_where_they_would_read_the_same(monkeypatch: pytest.MonkeyPatch, dataset: Datasets) -> None:
    data = Dataset.open(dataset(images=400).path)
    Reader(data.record.path, data.rows("train"), 0, 64, 16).check(64)  # kept whole: nothing is read twice
    monkeypatch.setattr("medpipe.diffusion.reader.MIB", 900)
    reader = Reader(data.record.path, data.rows("train"), 0, 64, 16)
    limit = min(reader.shards, reader.order.lanes)
    reader.check(limit)
    with pytest.raises(InputError, match=rf"{limit + 1} processes are more than the {reader.shards} shards.*compute\.processes"):
        reader.check(limit + 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_mean_and_spread_are_those_of_the_images_whoever_counts(dataset: Datasets, dtype: str) -> None:
    data = Dataset.open(dataset(images=96, dtype=dtype).path)
    reader = Reader(data.record.path, data.rows("train"), 0, 8, 16)
    parts = [reader.totals(rank, 3) for rank in range(3)]
    measured = scale(tuple(sum(part[i] for part in parts) for i in range(3)), reader.largest)  # type: ignore[arg-type]
    images = to_model(data.images(data.rows("train"))).astype(float)
    assert measured == pytest.approx({"data_mean": images.mean(), "sigma_data": images.std(ddof=1)}, rel=1e-5)
    assert measured == scale(reader.totals(), reader.largest)
