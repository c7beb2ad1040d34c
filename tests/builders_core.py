"""Records made by hand, with a payload of a few bytes."""

from __future__ import annotations

from pathlib import Path

from medpipe import records
from medpipe.records import MadeFrom, Record

MADE_FROM = MadeFrom("Dataset", {"collection": "ab" * 32}, {"images": {"size": 28, "shard": 4}}, seed=3, code="0.1.0")


def make(folder: Path, made_from: MadeFrom = MADE_FROM, payload: dict[str, bytes] | None = None) -> Record:
    """Make a record as a verb does."""
    if (record := records.finished(folder, made_from)) is not None:
        return record
    with records.making(folder, made_from) as making:
        for name, data in (payload or {"index.parquet": b"rows", "images.zarr/c/0": b"pixels"}).items():
            records.write_bytes(folder / name, data)
        return making.seal({"images": 2})
