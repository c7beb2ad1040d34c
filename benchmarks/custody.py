"""What the chain of custody costs: sealing and verifying a record against digesting the same bytes, and a plain write."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.table import Row, best_seconds
from medpipe import records, store
from medpipe.records import MadeFrom

MIB = 2**20


def rows() -> Iterator[Row]:
    """Seal, open, verify, and write shards of images."""
    payload = [os.urandom(8 * MIB) for _ in range(8)]
    size = sum(map(len, payload)) / MIB
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "record"
        made_from = MadeFrom("Dataset", {}, {}, 0, "benchmark")
        with records.making(folder, made_from) as making:
            for number, data in enumerate(payload):
                records.write_bytes(folder / f"{number}", data)
            making.seal({})
        digest = size / best_seconds(lambda: [hashlib.sha256(data).digest() for data in payload])
        verify = size / best_seconds(lambda: records.load(folder, verify=True))
        yield Row("verify a record", verify, "MiB/s", "SHA-256 of the same bytes in memory", digest)
        sums = folder / records.RECORD
        opened = best_seconds(lambda: records.load(folder)) * 1e3
        yield Row("open a record", opened, "ms", "read its record.json", best_seconds(sums.read_bytes) * 1e3)
        yield from _shards(Path(scratch))


def _shards(scratch: Path) -> Iterator[Row]:
    """Smooth images with noise compress about as radiographs do."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    images = (100 + 60 * np.sin(x / 9) * np.cos(y / 7) + rng.normal(0, 4, (2048, 1, 64, 64))).astype(np.uint8)
    size, plain = images.nbytes / MIB, scratch / "plain"

    def written() -> None:
        with plain.open("wb") as file:
            file.write(images.tobytes())
            file.flush()
            os.fsync(file.fileno())

    folder = scratch / "store"
    store.create(folder, len(images), images.shape[1:], "uint8", shard=512)

    def shards() -> None:
        for rows in store.shards(folder):
            store.write_shard(folder, rows, images[rows.start : rows.stop])

    disk = size / best_seconds(written)
    yield Row("write shards of 64² images", size / best_seconds(shards), "MiB/s", "the same bytes written plainly, with fsync", disk)
    read = size / best_seconds(lambda: store.read(folder))
    yield Row("read all images", read, "MiB/s", "the same bytes read plainly", size / best_seconds(plain.read_bytes))
