"""Our samplers against those of diffusers, where it has the same solver: on the same levels, of the same exact denoiser and noise.

diffusers is an optional dependency of the tests: without it these are skipped, and the laws of `test_samplers` remain.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from medpipe.diffusion import samplers, schedules

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")
    from diffusers import schedulers
pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, COUNT = 12, 64


def mixture(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the exact denoiser of ¼·N(−0.5, 0.1²) + ¾·N(0.5, 0.1²)."""
    centres, weights = torch.tensor([-0.5, 0.5], dtype=x.dtype), torch.tensor([0.25, 0.75], dtype=x.dtype)
    spread = (0.01 + sigma**2).reshape(-1, 1, 1)
    offset = x[:, :, None] - centres
    share = torch.softmax(weights.log() - offset**2 / (2 * spread), dim=-1)
    return (share * (centres + 0.01 / spread * offset)).sum(-1)


class Noise:
    """The same noise for both sides, draw by draw."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self) -> Tensor:
        return torch.randn(COUNT, 1, generator=self.generator, dtype=torch.float64)


def start(sigma: float) -> Tensor:
    return sigma * torch.randn(COUNT, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def epsilon(x: Tensor, sigma: float) -> Tensor:
    """Return the noise that the exact denoiser sees in x = y + σn."""
    return (x - mixture(x, torch.full((len(x),), sigma, dtype=x.dtype))) / sigma


def theirs(scheduler: Any, sigmas: Tensor, *, preserving: bool, doubled: bool = False, fresh: Callable[[], Tensor] | None = None) -> Tensor:
    """Run a scheduler of diffusers on our levels; `preserving` ones hold x/√(1 + σ²), `doubled` ones visit inner levels twice."""
    scheduler.set_timesteps(len(sigmas) - 1)
    levels = torch.cat((sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:])) if doubled else sigmas
    scheduler.sigmas, scheduler.timesteps = levels, torch.arange(len(levels) - 1, 0, -1, dtype=torch.float64)
    x = start(float(sigmas[0]))
    scale = (1 + levels**2).sqrt() if preserving else torch.ones_like(levels)
    x = x / scale[0]
    for number, time in enumerate(scheduler.timesteps):
        more = {} if fresh is None else {"variance_noise": fresh() if levels[number + 1] > 0 else torch.zeros_like(x)}
        x = scheduler.step(epsilon(x * scale[number], float(levels[number])), time, x, **more).prev_sample
    return x


MULTISTEP = {"prediction_type": "epsilon", "solver_order": 2, "final_sigmas_type": "zero"}


@pytest.mark.parametrize(
    "schedule", [schedules.karras(STEPS, 0.005, 3.0), schedules.karras(STEPS, 0.002, 80.0), schedules.exponential(STEPS, 0.01, 20.0)]
)
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "euler"])
def test_the_solver_gives_what_that_of_diffusers_gives(name: samplers.Name, schedule: Tensor) -> None:
    made: dict[str, Callable[[], Tensor]] = {
        "dpmpp_2m": lambda: theirs(
            schedulers.DPMSolverMultistepScheduler(**MULTISTEP, algorithm_type="dpmsolver++"), schedule, preserving=True
        ),
        "dpmpp_2m_sde": lambda: theirs(
            schedulers.DPMSolverMultistepScheduler(**MULTISTEP, algorithm_type="sde-dpmsolver++"), schedule, preserving=True, fresh=Noise()
        ),
        "unipc": lambda: theirs(schedulers.UniPCMultistepScheduler(**MULTISTEP, solver_type="bh2"), schedule, preserving=True),
        "heun": lambda: theirs(schedulers.HeunDiscreteScheduler(), schedule, preserving=False, doubled=True),
        "euler": lambda: theirs(schedulers.EulerDiscreteScheduler(), schedule, preserving=False),
    }
    ours = samplers.sampler(name)(mixture, start(float(schedule[0])), schedule, Noise())
    assert apart(ours, made[name]()) < 1e-5


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_gives_what_that_of_diffusers_gives(spacing: str, eta: float) -> None:
    scheduler = schedulers.DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(50)
    sigmas, x, scale, fresh = _levels(scheduler)
    for number, time in enumerate(scheduler.timesteps):
        noise = fresh() if eta > 0 and sigmas[number + 1] > 0 else torch.zeros_like(x)
        x = scheduler.step(epsilon(x * scale[number], float(sigmas[number])), int(time), x, eta=eta, variance_noise=noise).prev_sample
    ours = samplers.sampler("ddim", eta=eta)(mixture, start(float(sigmas[0])), sigmas, Noise())
    assert apart(ours, x) < 1e-4


@pytest.mark.parametrize("steps", [100, 1000])
def test_ddpm_gives_what_that_of_diffusers_gives(steps: int) -> None:
    scheduler = schedulers.DDPMScheduler(clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(steps)
    sigmas, x, scale, fresh = _levels(scheduler)
    for number, time in enumerate(scheduler.timesteps):
        x = scheduler.step(epsilon(x * scale[number], float(sigmas[number])), int(time), x, generator=fresh.generator).prev_sample
    ours = samplers.sampler("ddpm")(mixture, start(float(sigmas[0])), sigmas, Noise())
    assert apart(ours, x) < 1e-3


def _levels(scheduler: Any) -> tuple[Tensor, Tensor, Tensor, Noise]:
    """Return the levels of a scheduler's own times and the 0 after them, its start, √(1 + σ²), and fresh noise."""
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    sigmas = torch.cat((((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)))
    scale = (1 + sigmas**2).sqrt()
    return sigmas, start(float(sigmas[0])) / scale[0], scale, Noise()
