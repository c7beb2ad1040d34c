"""Training of the autoencoder, counted in images as that of the denoiser is.

What happens at image i depends on the seed and i alone, so a training that is killed goes on from its last state and ends
in the same bytes as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medpipe import records, seeds
from medpipe.diffusion import autoencoder_losses as losses
from medpipe.diffusion import device as devices
from medpipe.diffusion.autoencoder import Autoencoder
from medpipe.errors import MedpipeError
from medpipe.images.transforms import Stored, to_model
from medpipe.progress import Progress
from medpipe.recipe import Recipe

CURVE_POINTS = 20
TERMS = ("pixels", "detail", "penalty", "adversarial", "features")


@dataclass
class _State:
    """Where a training stands, beside its weights."""

    images: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(TERMS))
    counted: int = 0
    curve: list[list[float]] = field(default_factory=list)
    """Images, then the mean of each of TERMS since the last point."""


class AutoencoderTraining:
    """One training: the images as stored (N, C, …), the autoencoder, its critic, both optimisers and the state in `file`."""

    def __init__(self, recipe: Recipe, stored: Stored, file: Path) -> None:
        self.recipe, self.settings, self.stored, self.file = recipe, recipe.autoencoder, stored, file
        self.device = devices.device(recipe.compute.device)
        self.dtype = devices.precision(recipe.train.precision, self.device, stored.shape[1:], stored.shape[2])
        shape = tuple(stored.shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.child(recipe.seed, "autoencoder", "weights"))
            self.autoencoder = Autoencoder(self.settings, shape[0], len(shape) - 1).to(self.device)
            self.critic = losses.Critic(shape).to(self.device)
        self.parts: dict[str, nn.Module] = {"autoencoder": self.autoencoder, "critic": self.critic}
        self.optimizers = {
            name: torch.optim.AdamW(part.parameters(), lr=self.settings.learning_rate, betas=(0.5, 0.9), weight_decay=0.0)
            for name, part in self.parts.items()
        }
        self.state = _State()
        if file.exists():
            self._restore()

    def fit(self, progress: Progress) -> Autoencoder:
        """Train until the recipe's number of images has been seen; raises MedpipeError where the loss is no longer a number."""
        settings, state = self.settings, self.state
        every = max(settings.batch, settings.images // CURVE_POINTS)
        begun, before = time.monotonic(), state.seconds
        progress("autoencoder", state.images, settings.images)
        while state.images < settings.images:
            points, saves = state.images // every, state.images // settings.state_images
            batch = min(settings.batch, settings.images - state.images)
            terms = self._step(batch)
            if not all(map(math.isfinite, terms)):
                raise MedpipeError(
                    f"the autoencoder's loss is not a number at image {state.images}: lower autoencoder.learning_rate; "
                    "the last good state is kept"
                )
            state.images += batch
            state.counted += batch
            state.sums = [total + term * batch for total, term in zip(state.sums, terms, strict=True)]
            state.seconds = before + time.monotonic() - begun
            ended = state.images == settings.images
            if state.images // every > points or ended:
                state.curve.append([state.images, *(total / state.counted for total in state.sums)])
                state.sums, state.counted = [0.0] * len(TERMS), 0
                progress("autoencoder", state.images, settings.images)
            if state.images // settings.state_images > saves or ended:
                self._save()
        return self.autoencoder.eval()

    def _step(self, batch: int) -> list[float]:
        """Take one step on the next `batch` images and return the terms of the loss."""
        settings, seen, seed = self.settings, self.state.images, self.recipe.seed
        generator = torch.Generator().manual_seed(seeds.child(seed, "autoencoder", "noise", seen))
        rows = torch.randint(len(self.stored), (batch,), generator=generator)
        real = torch.from_numpy(to_model(self.stored[rows.numpy()]))
        if self.recipe.train.flip:
            mirrored = torch.rand(batch, generator=generator) < 0.5
            real[mirrored] = real[mirrored].flip(-1)
        real = real.to(self.device)
        if not seen:
            self.autoencoder.begin(real, generator)
        for optimizer in self.optimizers.values():
            optimizer.param_groups[0]["lr"] = self._rate()
        judged = settings.adversarial_weight > 0 and seen >= settings.adversarial_start * settings.images
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            made, penalty = self.autoencoder(real, generator)
            fooled, apart = self._fooled(made, real) if judged else (penalty.new_zeros(()),) * 2
        pixels, detail = (made - real).abs().mean(), losses.detail(made, real)
        weight = settings.kl_weight if settings.kind == "kl" else 1.0
        loss = pixels + settings.detail_weight * detail + weight * penalty + settings.adversarial_weight * (fooled + apart)
        self._advance("autoencoder", loss)
        if judged:
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                told = self.critic.loss(made.detach(), real)
            self._advance("critic", told)
        return [float(term.detach()) for term in (pixels, detail, penalty, fooled, apart)]

    def _fooled(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        self.critic.requires_grad_(False)
        terms = self.critic.fooled(made, real)
        self.critic.requires_grad_(True)
        return terms

    def _advance(self, name: str, loss: Tensor) -> None:
        optimizer, part = self.optimizers[name], self.parts[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimizer.step()

    def _rate(self) -> float:
        """Return the learning rate: a rise over the first hundredth of the images, a cosine fall to a hundredth over all."""
        share = self.state.images / self.settings.images
        return self.settings.learning_rate * min(1.0, (share + 0.001) * 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)

    def _save(self) -> None:
        """Write the whole state to one file, atomically."""
        tensors: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            tensors |= {f"{name}/weights/{key}": value for key, value in part.state_dict().items()}
            for number, moments in self.optimizers[name].state_dict()["state"].items():
                tensors |= {f"{name}/moments/{number}/{key}": torch.as_tensor(value) for key, value in moments.items()}
        text = {"state": json.dumps(asdict(self.state))}
        records.write_bytes(self.file, save({key: value.cpu().contiguous() for key, value in tensors.items()}, metadata=text))

    def _restore(self) -> None:
        """Take up the state that an interrupted run left."""
        with safe_open(self.file, framework="pt", device=self.device) as file:
            self.state = _State(**json.loads(file.metadata()["state"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        for name, part in self.parts.items():
            weights, moments = f"{name}/weights/", f"{name}/moments/"
            part.load_state_dict({key.removeprefix(weights): value for key, value in tensors.items() if key.startswith(weights)})
            found: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(moments):
                    number, moment = key.removeprefix(moments).split("/")
                    found.setdefault(int(number), {})[moment] = value
            optimizer = self.optimizers[name]
            optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
