from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe import store
from medpipe.errors import RecordError

RNG = np.random.default_rng(2)


def digits(n: int, shape: tuple[int, ...] = (1, 8, 8), dtype: str = "uint8") -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, (n, *shape)).astype(dtype)


def filled(folder: Path, images: np.ndarray, shard: int, masks: np.ndarray | None = None) -> Path:
    store.create(folder, len(images), images.shape[1:], images.dtype.name, shard=shard, masks=masks is not None)
    for rows in store.shards(folder):
        store.write_shard(folder, rows, images[rows.start : rows.stop], None if masks is None else masks[rows.start : rows.stop])
    store.consolidate(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("shape", "names"), [((3, 8, 8), ("y", "x")), ((1, 4, 8, 8), ("z", "y", "x"))])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_is_written_is_read_with_its_dimension_names(
    tmp_path: Path, shape: tuple[int, ...], names: tuple[str, ...], dtype: str
) -> None:
    images = digits(21, shape, dtype)
    masks = (images[:, :1] > 9).astype(np.uint8)
    filled(tmp_path, images, 8, masks)
    assert np.array_equal(store.read(tmp_path), images)
    assert np.array_equal(store.read(tmp_path, name="mask"), masks)
    assert store.open_array(tmp_path).metadata.dimension_names == ("subject", "channel", *names)
    assert zarr.open_group(tmp_path / store.NAME, mode="r", use_consolidated=True)["image"].shape == images.shape


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), shard=st.integers(1, 50), seed=st.integers(0, 99))
def test_any_rows_in_any_order_with_repeats_are_read(tmp_path_factory: pytest.TempPathFactory, n: int, shard: int, seed: int) -> None:
    images = digits(n, (1, 3, 5))
    folder = filled(tmp_path_factory.mktemp("store"), images, shard)
    rows = np.random.default_rng(seed).integers(0, n, 2 * n)
    assert np.array_equal(store.read(folder, rows), images[rows])
    assert [row for span in store.shards(folder) for row in span] == list(range(n))
    blocks = {span.start: read() for span, read in store.blocks(folder)}
    assert np.array_equal(np.concatenate([blocks[start] for start in sorted(blocks)]), images)


def test_two_writes_are_identical_in_every_byte_and_one_shard_is_one_file(tmp_path: Path) -> None:
    images = digits(40)
    one, two = files(filled(tmp_path / "a", images, 16)), files(filled(tmp_path / "b", images, 16))
    assert one == two
    assert sum("/c/" in name for name in one) == 3


def test_a_shard_of_zeros_is_a_file_too(tmp_path: Path) -> None:
    filled(tmp_path, np.zeros((8, 1, 4, 4), np.uint8), 4, np.zeros((8, 1, 4, 4), np.uint8))
    assert sum("/c/" in name for name in files(tmp_path)) == 4


@pytest.mark.parametrize("rows", [range(4), range(4, 12), range(8, 20), range(16, 24), range(3, 11)])
def test_anything_but_one_whole_shard_is_refused(tmp_path: Path, rows: range) -> None:
    store.create(tmp_path, 20, (1, 4, 4), "uint8", shard=8)
    with pytest.raises(ValueError, match="not one whole shard"):
        store.write_shard(tmp_path, rows, digits(len(rows), (1, 4, 4)))


def test_a_wrong_type_or_shape_and_missing_or_unwanted_masks_are_refused(tmp_path: Path) -> None:
    store.create(tmp_path / "a", 8, (1, 4, 4), "uint8", shard=8)
    store.create(tmp_path / "m", 8, (1, 4, 4), "uint8", shard=8, masks=True)
    with pytest.raises(ValueError, match="uint16, the store holds uint8"):
        store.write_shard(tmp_path / "a", range(8), digits(8, (1, 4, 4), "uint16"))
    with pytest.raises(ValueError, match="not one whole shard"):
        store.write_shard(tmp_path / "a", range(8), digits(8, (1, 4, 5)))
    for folder, masks in (("a", digits(8, (1, 4, 4))), ("m", None)):
        with pytest.raises(ValueError, match="mask"):
            store.write_shard(tmp_path / folder, range(8), digits(8, (1, 4, 4)), masks)


def test_creating_again_keeps_what_is_written_and_refuses_another_form(tmp_path: Path) -> None:
    images = digits(16)
    filled(tmp_path, images, 8)
    store.create(tmp_path, 16, (1, 8, 8), "uint8", shard=8)
    assert np.array_equal(store.read(tmp_path), images)
    for other in ({"images": 17}, {"dtype": "uint16"}, {"shard": 4}, {"image_shape": (1, 8, 9)}, {"masks": True}):
        with pytest.raises(RecordError, match="another form"):
            store.create(**({"folder": tmp_path, "images": 16, "image_shape": (1, 8, 8), "dtype": "uint8", "shard": 8} | other))  # type: ignore[arg-type]


def test_what_is_no_store_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no array 'image'"):
        store.read(tmp_path)
    filled(tmp_path, digits(4), 4)
    with pytest.raises(RecordError, match="no array 'mask'"):
        store.read(tmp_path, name="mask")
    assert not store.has(tmp_path, "mask")


def test_a_large_image_is_a_chunk_of_its_own_and_small_ones_share(tmp_path: Path) -> None:
    store.create(tmp_path / "large", 4, (1, 64, 128, 128), "uint16", shard=4)
    store.create(tmp_path / "small", 512, (1, 28, 28), "uint8", shard=512)
    store.create(tmp_path / "odd", 7, (1, 28, 28), "uint8", shard=7)
    assert [store.open_array(tmp_path / name).chunks[0] for name in ("large", "small", "odd")] == [1, 16, 7]


def _write(job: tuple[Path, range]) -> None:
    folder, rows = job
    store.write_shard(folder, rows, np.full((len(rows), 1, 8, 8), rows.start // 8 + 1, np.uint8))


def test_shards_written_at_once_by_two_processes_lose_nothing(tmp_path: Path) -> None:
    store.create(tmp_path, 60, (1, 8, 8), "uint8", shard=8)
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor:
        list(executor.map(_write, [(tmp_path, rows) for rows in store.shards(tmp_path)]))
    assert np.array_equal(store.read(tmp_path)[:, 0, 0, 0], np.arange(60) // 8 + 1)
