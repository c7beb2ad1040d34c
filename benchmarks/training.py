"""Training: what it costs at each size of image, and how near one and two processes come to what the processor can multiply.

    python -m benchmarks.run training

A step is measured as the loop takes it (forward, backward, AdamW) on the default network. Memory is what the peak of a fresh process
grows by for each further image of a step; what a process needs beside that is in the first row. Seconds are of one thread.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import Row

LONG = True
SIZES: dict[str, tuple[int, ...]] = {f"{side}²": (side,) * 2 for side in (28, 64, 128, 256)} | {
    f"{side}³": (side,) * 3 for side in (32, 48, 64, 96)
}
IMAGES, BATCH = 1024, 64
"""Of each training that is timed as a whole."""


@dataclass(frozen=True)
class Cost:
    """What one image of a step costs at one size, in one thread."""

    seconds: float
    mib: float
    fixed_mib: float
    gflop: float


def cost(shape: tuple[int, ...]) -> Cost:
    """Measure steps of two batch sizes in this process, which has to be a fresh one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medpipe.diffusion import device
    from medpipe.diffusion.denoiser import Denoiser
    from medpipe.diffusion.network import LeanUNet
    from medpipe.settings import ModelSettings

    torch.set_num_threads(1)
    denoiser = Denoiser(LeanUNet(ModelSettings(), 1, 4, len(shape)), 0.5)
    device.arrange(denoiser, "cpu", len(shape))
    optimizer = torch.optim.AdamW(denoiser.parameters(), fused=True)
    bf16 = device.precision("auto", "cpu") == torch.bfloat16

    def step(images: int) -> None:
        clean, noise = torch.rand(images, 1, *shape), torch.randn(images, 1, *shape)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = denoiser.loss(clean, torch.ones(images), noise, torch.zeros(images, 4)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    few = max(1 if len(shape) == 2 else 2, 2**15 // int(np.prod(shape)))  # a volume needs a workspace as large as an image or two
    many = 4 * few
    peaks, seconds = [], []
    for images in (few, many):
        for _ in range(2):
            begun = time.process_time()
            step(images)
            seconds.append((time.process_time() - begun) / images)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    per_image = (peaks[1] - peaks[0]) / (many - few)
    with FlopCounterMode(display=False) as counter:
        step(1)
    return Cost(min(seconds), per_image, peaks[0] - few * per_image, counter.get_total_flops() / 1e9)


def ceiling() -> float:
    """Return GFLOP/s of one thread in a matrix product of the precision that training has here, by processor time."""
    import torch

    from medpipe.diffusion import device

    torch.set_num_threads(1)
    a, b = (torch.rand(1024, 1024, dtype=device.precision("auto", "cpu")) for _ in range(2))
    seconds = []
    for _ in range(6):
        begun = time.process_time()
        _ = a @ b
        seconds.append(time.process_time() - begun)
    return 2 * 1024**3 / min(seconds) / 1e9


def _apart(function: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def dataset(folder: Path, images: int = 512, side: int = 28) -> Path:
    """Seal a Dataset of noise, for its cost alone."""
    import pandas as pd

    from medpipe import records, store
    from medpipe.records import MadeFrom

    pixels = np.random.default_rng(0).integers(0, 256, (images, 1, side, side), dtype=np.uint8)
    index = pd.DataFrame({"row": range(images), "image": "i", "patient": [f"p{n}" for n in range(images)], "split": "train", "label": None})
    with records.making(folder, MadeFrom("Dataset", {}, {}, 0, "benchmark")) as making:
        store.create(folder, images, pixels.shape[1:], "uint8", shard=128)
        for rows in store.shards(folder):
            store.write_shard(folder, rows, pixels[rows.start : rows.stop])
        index.to_parquet(folder / "index.parquet", index=False)
        facts = {"images": images, "shape": list(pixels.shape[1:]), "dtype": "uint8", "dimensions": 2, "classes": [], "covariates": []}
        making.seal(facts | {"spacing_mm": None, "modality": None, "licence": "CC0-1.0", "masks": False})
    return folder


def trained(source: Path, out: Path, processes: int) -> tuple[float, float]:
    """Return images a second, and images a second of processor time, of a training in `processes` processes of one thread."""
    from medpipe.diffusion.train import train
    from medpipe.recipe import build

    settings = {"images": IMAGES, "batch": BATCH, "preview_images": 0, "compile": "off", "warmup_images": 0}
    recipe = build({"images": {"size": 28}, "train": settings, "compute": {"processes": processes, "threads": processes}})
    cost = train(source, out, recipe).facts["cost"]
    return float(cost["images_per_s"]), IMAGES / float(cost["processor_s"])


def rows() -> Iterator[Row]:
    """Costs by size, then trainings of one and two processes in turn."""
    peak = _apart(ceiling)
    costs = {name: _apart(cost, shape) for name, shape in SIZES.items()}
    first = costs["28²"]
    yield Row("memory of a process beside its images", first.fixed_mib, "MiB", "one image of a step at 28²", first.mib)
    for name, one in costs.items():
        yield Row(f"memory for an image of a step at {name}", one.mib, "MiB", "28²", first.mib)
        yield Row(f"processor time for an image at {name}", one.seconds * 1000, "ms", "28²", first.seconds * 1000)
        yield Row(f"arithmetic rate of a step at {name}", one.gflop / one.seconds, "GFLOP/s", "matrix product, one thread", peak)
    with tempfile.TemporaryDirectory() as scratch:
        source = dataset(Path(scratch) / "dataset")
        pace: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for turn in range(2):
            for processes in pace:
                pace[processes].append(_apart(trained, source, Path(scratch) / f"{processes}-{turn}", processes))
    (one, alone), (two, together) = ((max(run[0] for run in pace[n]), max(run[1] for run in pace[n])) for n in pace)
    yield Row("training at 28², one process, by processor time", alone * first.gflop, "GFLOP/s", "matrix product, one thread", peak)
    yield Row("training at 28², two processes (DDP), by the clock", two, "images/s", "one process", one, "at least 1.85")
    yield Row("the same, by processor time", together, "images/s of one core", "one process", alone, "at least 0.93")
