"""Sampling: images a second beside the way of a MONAI tutorial, and how near the denoiser comes to what the processor multiplies.

    python -m benchmarks.run sampling

Processor seconds of one thread; all ways take turns, and the fastest turn of each counts. Weights are random: what is measured
does not depend on them. A sample of many evaluations is not drawn to its end: an evaluation and a step of the solver are timed and
multiplied, which leaves out nothing but the start. What the fewer evaluations cost in likeness and use is measured by `few_steps`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import Row
from medpipe.cohort import plan
from medpipe.diffusion import device, samplers
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.folded import folded
from medpipe.diffusion.guidance import guided
from medpipe.diffusion.network import LeanUNet
from medpipe.settings import CohortSettings, ModelSettings

LONG = True
TURNS = 5
SIZES: dict[str, tuple[int, tuple[int, ...]]] = {"28²": (64, (28, 28)), "64²": (16, (64, 64)), "32³": (2, (32, 32, 32))}
"""Images at once, and their sides."""


@torch.no_grad()
def rows() -> Iterator[Row]:
    """Rates of the denoiser by size, then images a second of each way to sample at 28²."""
    torch.set_num_threads(1)
    for name, (images, sides) in SIZES.items():
        yield from _rates(name, images, sides)
    yield from _ways()


def _denoiser(dimensions: int) -> Denoiser:
    """Return the default denoiser with random weights, of two classes."""
    torch.manual_seed(0)
    network = LeanUNet(ModelSettings(), 1, 3, dimensions)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.05)
    denoiser = Denoiser(network, 0.5).eval().requires_grad_(False)
    device.arrange(denoiser, "cpu", dimensions)
    return denoiser


def _seconds(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the processor seconds of the fastest turn of each way."""
    found = dict.fromkeys(ways, float("inf"))
    for turn in range(TURNS + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            if turn:  # the first lays out weights
                found[name] = min(found[name], time.process_time() - begun)
    return found


def _rates(name: str, images: int, sides: tuple[int, ...]) -> Iterator[Row]:
    """Time the denoiser as a module and folded, of images that are asked for the same, beside a matrix product."""
    dtype = device.precision("auto", "cpu")
    plain = _denoiser(len(sides))
    fast = folded(plain, dtype)
    given = torch.randn(images, 1, *sides), torch.ones(images), torch.zeros(images, 3)
    a, b = (torch.rand(1024, 1024, dtype=dtype) for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        plain(*(tensor[:1] for tensor in given))
    work = images * counter.get_total_flops() / 1e9

    def run(denoiser: Denoiser) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            denoiser(*given)

    took = _seconds({"product": lambda: a @ b, "plain": lambda: run(plain), "folded": lambda: run(fast)})
    peak = 2 * 1024**3 / took["product"] / 1e9
    for way in ("plain", "folded"):
        yield Row(f"denoiser at {name}, {way}", work / took[way], "GFLOP/s", "matrix product, one thread", peak, "at least 0.75")
    yield Row(f"denoiser at {name}, folded", images / took["folded"], "images/s", "plain", images / took["plain"])


def _ways() -> Iterator[Row]:
    """Time our ways to sample at 28² beside MONAI's network with DDIM-50 and DDPM-1000, in fp32 as its tutorial runs it."""
    images, sides = SIZES["28²"]
    dtype = device.precision("auto", "cpu")
    fast = folded(_denoiser(2), dtype)
    asked = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])[(torch.arange(images) % 4 == 0).long()]  # two classes, mixed
    start = 3.0 * torch.randn(images, 1, *sides)
    levels = {10: plan.levels(CohortSettings()), 4: torch.tensor([3.0, 1.0, 0.3, 0.05, 0.0]), 2: torch.tensor([3.0, 0.3, 0.0])}
    levels[1] = torch.tensor([3.0, 0.0])

    def ours(evaluations: int) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            sampler = samplers.sampler("dpmpp_2m" if evaluations == 10 else "euler")
            return sampler(guided(fast, asked), start, levels[evaluations], lambda: torch.zeros(()))

    theirs = _tutorial()
    noisy = torch.randn(images, 1, 32, 32)
    ways = {str(evaluations): lambda evaluations=evaluations: ours(evaluations) for evaluations in levels}
    took = _seconds(ways | {"monai": lambda: theirs(noisy)})
    pace = {name: images / seconds for name, seconds in took.items()}
    for steps, way, goal in ((50, "DDIM-50", "at least 500"), (1000, "DDPM-1000", "at least 10,000")):
        reference = f"MONAI's network of 4.63 million weights at 32², {way}"
        yield Row("sampling at 28², default: 10 evaluations", pace["10"], "images/s", reference, pace["monai"] / steps, goal)
        for evaluations in (4, 2, 1):
            what = f"sampling at 28², a student of {evaluations}"
            yield Row(what, pace[str(evaluations)], "images/s", reference, pace["monai"] / steps, goal)


def _tutorial() -> Callable[[Tensor], object]:
    """Return one step of a tutorial's sampling: MONAI's network, then its scheduler. Its three resolutions need sides of 32."""
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDIMScheduler

    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(64, 128, 128),
        attention_levels=(False, True, True),
        num_res_blocks=1,
        num_head_channels=128,
    ).eval()
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(50)
    return lambda x: scheduler.step(network(x, torch.full((len(x),), 500)), 500, x)
