"""Differentially private training (DP-SGD; Abadi et al. 2016): whoever sees the model learns little of any one patient.

The unit is the patient, not the image. Each step draws every patient with the same chance (Poisson sampling); a patient's contribution
is the mean gradient over `train.dp_draws` draws of one of his images, a noise level and noise (the noise multiplicity of Dockhorn
et al. 2023), clipped to `train.dp_clip`; the sum gets Gaussian noise. Sampling and noise come from a secret that lies in the record's
`state/` while training lasts and is gone with it: by the recipe's seed, which leaves with a release, anyone could take
the noise off again. So two trainings differ, and one that was killed goes on exactly.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from medpipe import records, seeds
from medpipe.diffusion import accountant, augment, conditioning
from medpipe.diffusion.accountant import Rdp
from medpipe.diffusion.batches import Batch, Batches
from medpipe.diffusion.loop import Training
from medpipe.recipe import Recipe
from medpipe.settings import TrainSettings

SECRET = "privacy.secret"
SIGMA_DATA = 0.5
"""Spread of the images as the preconditioning takes it: measured on the patients it would tell of them."""
AT_ONCE = 16
"""Patients whose gradients are held at once."""
NOT_COVERED = (
    "the shares of classes and the distribution of covariates by which subjects are drawn, the choice of the moving average by the "
    "validation split, and the number of patients are outside of this guarantee"
)


@dataclass(frozen=True)
class Mechanism:
    """What every step does, and what it spends."""

    rate: float
    """Chance q with which a step draws a patient."""
    noise: float
    """Standard deviation of the noise in units of the clipping norm."""
    clip: float
    batch: int
    """Patients that a step draws on average."""
    delta: float
    budget: float

    @classmethod
    def of(cls, settings: TrainSettings, patients: int) -> Mechanism:
        """Choose the noise so that `train.images` spend the budget, unless the recipe says it; raises InputError where none would do."""
        assert settings.dp_epsilon is not None
        batch, steps = min(settings.batch, patients), -(-settings.images // settings.batch)
        rate = batch / patients
        noise = settings.dp_noise or accountant.noise_for(rate, steps, settings.dp_epsilon, settings.dp_delta)
        return cls(rate, noise, settings.dp_clip, batch, settings.dp_delta, settings.dp_epsilon)

    @cached_property
    def _step(self) -> Rdp:
        return accountant.rdp(self.rate, self.noise)

    def spent(self, steps: int) -> Rdp:
        """Return the Rényi divergences after `steps` steps."""
        return steps * self._step

    def epsilon(self, steps: int) -> float:
        """Return ε after `steps` steps."""
        return accountant.epsilon(self.spent(steps), self.delta) if steps else 0.0

    def steps(self, most: int) -> int:
        """Return how many of at most `most` steps the budget lasts for."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.epsilon(middle) <= self.budget else (low, middle - 1)
        return low


def secret(state: Path) -> int:
    """Return the secret of the training whose scratch folder is `state`, made where there is none yet."""
    file = state / SECRET
    if not file.exists():
        records.write_bytes(file, secrets.token_hex(32).encode())
        file.chmod(0o600)
    return int(file.read_text(), 16)


@dataclass(frozen=True)
class PrivateBatches(Batches):
    """The inputs of every step: `dp_draws` images in a row of each patient that was drawn."""

    patients: tuple[np.ndarray[Any, np.dtype[np.int64]], ...] = ()
    """Places in the split of each patient's images."""
    rate: float = 0.0
    key: int = 0

    def make(self, start: int, count: int) -> Batch:
        """Draw patients, and of each images, levels and noise; perhaps nobody. Images are counted as `count`, what is drawn on average."""
        settings, model = self.recipe.train, self.recipe.model
        generator = torch.Generator().manual_seed(seeds.child(self.key, "patients", start))
        drawn = (torch.rand(len(self.patients), generator=generator, dtype=torch.float64) < self.rate).nonzero()[:, 0].tolist()
        own = [torch.from_numpy(self.patients[who]) for who in drawn]
        chosen = [places[torch.randint(len(places), (settings.dp_draws,), generator=generator)].numpy() for places in own]
        places = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
        n = len(places)
        mirrored = torch.rand(n, generator=generator) < (0.5 if settings.flip else 0)
        shown = conditioning.shown(n, model.condition_dropout, [model.covariate_dropout] * len(self.conditions.items), generator)
        vectors, clean = self.conditions.hide(self.split.vectors[places], shown), self.split[places]
        clean[mirrored] = clean[mirrored].flip(-1)
        if settings.augment > 0:
            moved = augment.draw(n, settings.augment, clean.ndim - 2, generator)
            clean, vectors = augment.apply(clean, moved), torch.cat((vectors, moved), dim=1)
        sigma = self.levels(n, generator)
        return Batch(clean, sigma, torch.randn(clean.shape, generator=generator), vectors, torch.ones(n), count)


class PrivateTraining(Training):
    """A training of which every step is a sampled Gaussian mechanism over patients, until the budget is spent."""

    private = True

    def prepare(self, patients: pd.Series[Any]) -> None:
        """Take up mechanism and secret; `patients` names the patient of each image of the split."""
        self.mechanism = Mechanism.of(self.recipe.train, int(patients.nunique()))
        (self.folder / records.STATE).mkdir(parents=True, exist_ok=True)
        self.key = secret(self.folder / records.STATE)
        numbers = patients.factorize(sort=True)[0]
        places = tuple(np.flatnonzero(numbers == number) for number in range(numbers.max() + 1))
        public = self.batches
        self.batches = PrivateBatches(
            public.split, public.conditions, public.maps, public.recipe, public.world, public.pin, places, self.mechanism.rate, self.key
        )

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return -(-self.state.images // self.recipe.train.batch)

    def _step(self, batch: Batch) -> float:
        """Take one private step; the mean loss is for the check that it is a number, and goes nowhere else."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        names = [name for name, _ in self.denoiser.named_parameters()]
        total, mean = self.contributions(batch)
        generator = torch.Generator().manual_seed(seeds.child(self.key, "noise", self.state.images))
        spread = self.mechanism.noise * self.mechanism.clip
        for name, weight in zip(names, self.denoiser.parameters(), strict=True):
            noise = torch.randn(weight.shape, generator=generator) * spread
            # the fused optimiser walks a weight and its gradient by one set of strides
            weight.grad = torch.empty_like(weight).copy_((total[name] + noise.to(weight.device)) / self.mechanism.batch)
        self.optimizer.step()
        self.averages.update(batch.size, self.state.images + batch.size)
        return mean

    def contributions(self, batch: Batch) -> tuple[Mapping[str, Tensor], float]:
        """Return the sum over the patients of a batch of their clipped gradients, and the mean loss (0 where nobody was drawn)."""
        draws = self.recipe.train.dp_draws
        weights = {name: weight.detach() for name, weight in self.denoiser.named_parameters()}
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}

        def loss(weights: Mapping[str, Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
            named = {f"denoiser.{name}": weight for name, weight in weights.items()}
            value: Tensor = functional_call(self.objective, named, inputs, {"usual": False}).mean()
            return value, value.detach()

        own = vmap(grad(loss, has_aux=True), in_dims=(None, *[0] * len(batch.given)))
        by_patient = [tensor.reshape(-1, draws, *tensor.shape[1:]).to(self.device) for tensor in batch.given] if len(batch.clean) else []
        losses = []
        for part in zip(*(torch.split(tensor, AT_ONCE) for tensor in by_patient), strict=True):
            gradients, value = own(weights, *part)
            norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]).norm(dim=0)
            factors = (self.mechanism.clip / norms.clamp(min=1e-12)).clamp(max=1)
            for name, gradient in gradients.items():
                total[name] += torch.einsum("p,p...->...", factors, gradient)
            losses.append(value)
        return total, float(torch.cat(losses).mean()) if losses else 0.0

    def _check(self, loss: float, seen: int, at_first: int, seconds: float) -> None:
        super()._check(loss, seen, at_first, seconds)
        if not self.state.ended and self.mechanism.epsilon(self.steps + 1) > self.mechanism.budget:
            self.state.ended = "privacy"

    def _point(self, loss: float) -> None:
        """Add a point that says nothing of the training images."""
        super()._point(float("nan"))

    def facts(self) -> dict[str, Any]:
        """Return what the Checkpoint's record says of privacy."""
        told = {name: float(f"{value:.6g}") for name, value in vars(self.mechanism).items() if isinstance(value, float)}
        return told | {"unit": "patient", "steps": self.steps, "epsilon": self.mechanism.epsilon(self.steps), "not_covered": NOT_COVERED}


def calm(recipe: Recipe) -> Recipe:
    """Return the recipe with everything that private training does without turned off where it was left to choose."""
    train = {"precision": "fp32", "compile": "off", "deduplicate": "off"}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
