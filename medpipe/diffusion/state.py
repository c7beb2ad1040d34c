"""Where a training stands, on disk: one file from which it goes on exactly, by any number of processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medpipe.diffusion.distributed import as_share, like, own, whole
from medpipe.diffusion.ema import Averages
from medpipe.errors import MedpipeError

FILE = "training.safetensors"


@dataclass
class State:
    """Where a training stands, beside its weights."""

    images: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    """For each point: images, mean training loss since the last point, loss on the validation split and on as many training images."""
    by_sigma: list[tuple[float, ...]] = field(default_factory=list)
    """Rows of `curve.COLUMNS`."""
    bins: list[list[float]] = field(default_factory=list)
    """Sum and number of losses at each noise level since the last point."""
    compiled: bool = False
    ended: Literal["", "images", "minutes", "gap", "privacy"] = ""
    """Why training ended."""


@dataclass(frozen=True)
class Stored:
    """What a state is made of: the network, its averages and the optimiser."""

    module: nn.Module
    averages: Averages
    optimizer: torch.optim.Optimizer

    @property
    def parameters(self) -> list[Tensor]:
        """The weights, in the optimiser's order."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def averaged(self, number: int) -> dict[str, Tensor]:
        """Return the whole network with the weights of one average; all processes call it together."""
        out = {name: whole(tensor) for name, tensor in self.module.state_dict().items()}
        named = zip(self.module.named_parameters(), self.averages.tracks[number], strict=True)
        return out | {name: whole(as_share(track, weight.detach())) for (name, weight), track in named}

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as whole tensors; all processes call it together."""
        out = {f"weights/{name}": whole(value) for name, value in self.module.state_dict().items()}
        for number, track in enumerate(self.averages.tracks):
            for i, (average, weight) in enumerate(zip(track, self.parameters, strict=True)):
                out[f"average/{number}/{i}"] = whole(as_share(average, weight.detach()))
        for number, weight in enumerate(self.parameters):
            out |= {f"optimizer/{number}/{name}": whole(torch.as_tensor(v)) for name, v in self.optimizer.state[weight].items()}
        return out

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Put whole tensors back, each process its share."""
        for name, value in self.module.state_dict().items():
            own(value).copy_(own(like(tensors[f"weights/{name}"], value)))
        for number, track in enumerate(self.averages.tracks):
            for i, (value, weight) in enumerate(zip(track, self.parameters, strict=True)):
                value.copy_(own(like(tensors[f"average/{number}/{i}"], weight.detach())))
        for number, weight in enumerate(self.parameters):
            prefix = f"optimizer/{number}/"
            moments = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            # the fused optimiser walks a weight and its moments by one set of strides
            self.optimizer.state[weight] = {
                name: value if name == "step" else torch.empty_like(weight).copy_(like(value, weight.detach()))
                for name, value in moments.items()
            }


def save(folder: Path, state: State, stored: Stored, *, write: bool) -> None:
    """Write the whole state to one file, atomically; all processes call it, one writes.

    Raises MedpipeError for weights that are no numbers.
    """
    tensors = stored.tensors()
    if not all(bool(value.isfinite().all()) for name, value in tensors.items() if name.startswith("weights/")):
        raise MedpipeError(
            f"the weights are not numbers after image {state.images}: lower train.learning_rate; the last good state is kept"
        )
    if write:
        folder.mkdir(exist_ok=True)
        temporary = folder / f"{FILE}.tmp"
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata={"state": json.dumps(asdict(state))})
        temporary.replace(folder / FILE)


def restore(folder: Path, stored: Stored, device: str) -> State:
    """Take up the state that an interrupted training left, or return a fresh one."""
    if not (folder / FILE).exists():
        return State()
    with safe_open(folder / FILE, framework="pt", device=device) as file:
        text: dict[str, Any] = json.loads(file.metadata()["state"])
        stored.take({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  # not a mapping
    return State(**text | {"by_sigma": [tuple(row) for row in text["by_sigma"]]})
