"""Gates: what judging costs, by kind of measurement, and how time and memory grow with the cohort and with the training images.

    python -m benchmarks.run gates

Real radiographs (PneumoniaMNIST in MEDPIPE_DATA) enlarged to 64², audited as somebody else's images with the recipe's defaults: 1,000
against 1,000, then 5,000 against 5,000. The candidates are even blends of three training images of a class, turned a little: what
is measured does not depend on what the gates say of them. Processor seconds of one process; jobs are independent and of one
thread each, so two free cores take about half. SIZES says which sizes. Then the search for copies alone, among as many training images
and among 50,000: processor time of an image, and the most memory that is its worker's own, beside what it maps from files.
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.images import distinct
from benchmarks.table import Row
from medpipe.deid.deidentify import deidentify
from medpipe.gates import alignment
from medpipe.gates.audit import audit
from medpipe.gates.gallery import Gallery
from medpipe.gates.room import Room
from medpipe.images.preprocess import preprocess
from medpipe.recipe import Recipe

LONG = True
SIZES = [int(text) for text in os.environ.get("SIZES", "1000,5000").split(",")]
SEARCHED = (5_000, 50_000)
SIDE, HELD_OUT, VALIDATED, TESTED = 64, 500, 32, 256
GROUPS = {
    "copies": {"gallery", "score", "calibrate", "practice", "planted"},
    "likeness, use, fairness, the gates' own test": {"describe", "embed", "baseline", "outlier", "selftest", "utility", "curve"},
    "the feature network": {"encoder"},
}
Images = NDArray[np.uint8]


class Timed(Executor):
    """Does each job at once and adds up its processor time by kind."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        begun = time.process_time()
        future.set_result(function(*arguments, **named))
        self.seconds[arguments[0].kind] += time.process_time() - begun
        return future


def rows() -> Iterator[Row]:
    """Costs by size: each beside the goal at 5,000, and beside the smaller size."""
    found = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as scratch, get_context("spawn").Pool(1) as pool:  # a process of its own: peak memory is its own
            found[size] = pool.apply(measured, (size, Path(scratch)))
    least, *others = SIZES
    for size in others:
        seconds, memory = found[size]
        for group in GROUPS:
            yield Row(f"{group}: {size:,} against {size:,}", seconds[group], "s", f"{least:,} against {least:,}", found[least][0][group])
        yield Row(f"peak memory: {size:,} against {size:,}", memory, "MiB", f"{least:,} against {least:,}", found[least][1])
        copies, rest = (seconds[group] / 2 for group in list(GROUPS)[:2])
        yield Row(f"copies, {size:,} against {size:,}: two cores", copies, "s", "ten minutes", 600, "at most 1")
        yield Row(f"quality after features, {size:,} against {size:,}: two cores", rest, "s", "five minutes", 300, "at most 1")
    (few, least_memory), (many, memory) = (_searched_in_process(size) for size in SEARCHED)
    beside = f"{SEARCHED[0]:,} training images"
    yield Row(
        f"search for copies among {SEARCHED[1]:,} training images: an image",
        many,
        "s",
        beside,
        few,
        f"at most {SEARCHED[1] // SEARCHED[0]}",
    )
    yield Row(f"its own memory among {SEARCHED[1]:,}", memory, "MiB", beside, least_memory, "at most 1.5")


def _searched_in_process(size: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as scratch, get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        arrays = pool.apply(_prepared, (size, Path(scratch)))
        return pool.apply(_searched, (arrays, Path(scratch)))


def _blends(start: int, stop: int) -> Images:
    """Even blends of three training images, enlarged: as many as are wanted, each its own."""
    images, _ = distinct("train", "val")
    chosen = np.random.default_rng(start).integers(0, len(images), (stop - start, 3))
    return np.repeat(np.repeat(images[chosen].mean(1).astype(np.uint8)[:, None], 2, 2), 2, 3)


def _prepared(size: int, scratch: Path) -> dict[str, NDArray[Any]]:
    return Gallery.made(lambda part: _blends(part.start, part.stop), np.arange(size), Room(scratch)).arrays


def _searched(arrays: dict[str, NDArray[Any]], scratch: Path) -> tuple[float, float]:
    """Return processor seconds of an image and the most MiB that the process held beside what it maps."""
    gallery, queries = Gallery.opened(arrays, Room(scratch)), _blends(1_000_000, 1_000_128)
    most, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            most[0] = max(most[0], _own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.process_time()
    alignment.measures(gallery, queries)
    seconds = time.process_time() - begun
    ended.set()
    watcher.join()
    return seconds / len(queries), most[0]


def _own_memory() -> float:
    """MiB of memory that no file backs (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def measured(size: int, scratch: Path) -> tuple[dict[str, float], float]:
    """Audit `size` candidates against `size` training images; return processor seconds of each group and peak memory in MiB."""
    settings = {
        "source": {"form": "arrays"},
        "images": {"size": SIDE, "split": "given", "holdout": HELD_OUT / (size + HELD_OUT)},
    }
    recipe = Recipe.model_validate(settings | {"compute": {"workers": 1}})
    real = _write(size, scratch)
    collection = deidentify(real, scratch / "collection", recipe, key_file=scratch / "key")
    dataset = preprocess(collection.path, scratch / "dataset", recipe)
    timed = Timed()
    audit(scratch / "candidates.npz", dataset.path, scratch / "audit", recipe, executor=timed)
    for kind, seconds in sorted(timed.seconds.items(), key=lambda item: -item[1]):
        print(f"  {size:,}: {kind} {seconds:.1f} s", flush=True)
    return {name: sum(timed.seconds[kind] for kind in kinds) for name, kinds in GROUPS.items()}, (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )


def _write(size: int, scratch: Path) -> Path:
    """Write source and candidates of `size`."""
    images, labels = distinct("train", "val", "test")
    images, generator = _enlarged(images), np.random.default_rng(1)
    beside = len(images) - TESTED - VALIDATED
    splits = {"train": slice(0, min(size + HELD_OUT, beside)), "val": slice(beside, -TESTED), "test": slice(-TESTED, None)}
    parts: dict[str, Any] = {
        f"{name}_{what}": values[rows] for name, rows in splits.items() for what, values in (("images", images), ("labels", labels))
    }
    np.savez(scratch / "real.npz", **parts)
    asked = generator.permutation(labels[:size])
    made = np.empty((size, SIDE, SIDE), np.uint8)
    for number, label in enumerate(asked):
        of_class = generator.choice(np.flatnonzero(labels[:size] == label), 3, replace=False)
        made[number] = ndimage.rotate(images[of_class].mean(0), generator.uniform(-5, 5), reshape=False, order=1, mode="nearest")
    np.savez(scratch / "candidates.npz", images=made, labels=asked)
    return scratch / "real.npz"


def _enlarged(images: Images) -> Images:
    """Enlarge to SIDE pixels, with a little grain, so that no image is smoother than a radiograph."""
    factor = SIDE / images.shape[-1]
    large = np.stack([ndimage.zoom(image.astype(np.float32), factor, order=1) for image in images])
    grain = np.random.default_rng(1).normal(0, 2, large.shape)
    return np.clip(np.rint(large + grain), 0, 255).astype(np.uint8)
