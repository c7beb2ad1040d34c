"""train: a Dataset becomes a Checkpoint.

Counted in images. What happens at image i depends on the seed and i alone (order, noise, flips, hidden conditions), so
a training that is killed goes on from its last state and ends in the same bytes as one that was not.
"""

from __future__ import annotations

import copy
import json
import math
import resource
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from medpipe import __version__, consent, records, seeds
from medpipe.diffusion import checkpoint, conditioning, ema, gaussian, latents
from medpipe.diffusion import device as devices
from medpipe.diffusion.conditioning import Conditions
from medpipe.errors import InputError, MedpipeError
from medpipe.images.dataset import Dataset
from medpipe.images.transforms import to_model
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making, Record
from medpipe.threads import threads

CURVE_POINTS = 50
VALIDATION_IMAGES = 256


def made_from(dataset: Path, recipe: Recipe) -> MadeFrom:
    """Say what the Checkpoint would be made from."""
    source = records.load(dataset, "Dataset")
    sections = ("model", "train", *(("autoencoder",) if recipe.model.space == "latent" else ()))
    return MadeFrom("Checkpoint", {"dataset": source.content}, recipe.settings(*sections), recipe.seed, __version__)


def train(dataset: Path, out: Path, recipe: Recipe, *, ledger_file: Path | None = None, progress: Progress = silent) -> Record:
    """Train the denoiser of `recipe` on the training split of `dataset` and write the Checkpoint to `out`.

    Raises InputError when the Dataset does not fit the recipe, MedpipeError when the loss is no longer a number (the
    last good state stays), GateFailed when the autoencoder of latent diffusion is not good enough to begin, RecordError for
    altered input, ConsentError where the consent ledger (the workspace's, where none is given) says that a patient of the
    Dataset may not be used.
    """
    consent.before_training(dataset, recipe.consent, ledger_file)
    wanted = made_from(dataset, recipe)
    if (done := records.finished(out, wanted)) is not None:
        return done
    data = Dataset.open(dataset, verify=True)
    with records.making(out, wanted) as making, threads(recipe.compute.threads):
        if recipe.model.space == "latent":
            data, recipe = latents.prepare(data, recipe, making, progress)
        run = _Run.begin(data, recipe, making)
        run.fit(progress)
        return run.seal(data.facts.get("consent"))


@dataclass
class _State:
    """Where a training stands, beside its weights."""

    images: int = 0
    loss_sum: float = 0.0
    loss_images: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """(images, mean training loss since the last point, loss on the validation split)."""


class _Run:
    """One training: the data, the network, its average, the optimiser and the state."""

    def __init__(self, recipe: Recipe, making: Making, model: dict[str, Any], data: dict[str, Tensor], labels: list[str | None]) -> None:
        self.recipe, self.making, self.model, self.data, self.labels = recipe, making, model, data, labels
        self.device = devices.device(recipe.compute.device)
        self.dtype = devices.precision(recipe.train.precision, self.device)
        self.conditions = Conditions.from_json(model["conditions"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.child(recipe.seed, "weights"))
            denoiser = checkpoint.build(model)
        devices.arrange(denoiser, self.device, model["dimensions"])
        self.denoiser = denoiser
        self.average = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.denoiser.parameters(), lr=recipe.train.learning_rate, weight_decay=0.0, fused=True)
        compiled = devices.compiles(recipe.train.compile, self.device, self.dtype, recipe.train.images)
        self.loss = torch.compile(self.denoiser.loss) if compiled else self.denoiser.loss
        self.state = _State()
        self.file = making.state / "training.safetensors"
        if self.file.exists():
            self._restore()

    @classmethod
    def begin(cls, data: Dataset, recipe: Recipe, making: Making) -> _Run:
        """Read the data, measure what preconditioning needs, and take up the last state where there is one."""
        rows = {split: data.rows(split) for split in ("train", "validation")}
        shape = data.facts["shape"]
        side = recipe.model.patch * 2 ** (len(recipe.model.channels) - 1)
        if any(length % side for length in shape[1:]):
            raise InputError(
                f"the Dataset's images are {shape[1:]} and this model needs sides that are multiples of {side}: set images.size"
            )
        if len(rows["train"]) < 2:
            raise InputError(f"the training split has {len(rows['train'])} images, and at least 2 are needed")
        rows["validation"] = rows["validation"][:VALIDATION_IMAGES]
        index = data.index.set_index("row")
        conditions = conditioning.fit(index.loc[rows["train"]], data.facts["classes"], data.facts["covariates"])
        tensors = {}
        for split, wanted in rows.items():
            tensors[split] = torch.from_numpy(to_model(data.images(wanted)))
            tensors[f"{split}_conditions"] = conditions.encode(index.loc[wanted])
        mean = float(tensors["train"].double().mean())
        for split in rows:
            tensors[split] -= mean
        facts = {
            key: data.facts.get(key)
            for key in ("shape", "dtype", "dimensions", "classes", "covariates", "spacing_mm", "patient_orientation", "modality", "licence")
        }
        model = facts | {
            "settings": recipe.settings("model")["model"],
            "preconditioning": "karras",
            "precision": recipe.train.precision,
            "conditions": conditions.as_json(),
            "data_mean": mean,
            "sigma_data": float(tensors["train"].double().std()) or 1.0,
            "images_trained": recipe.train.images,
        }
        model |= latents.described(data)
        labels = index.loc[rows["train"], "label"]
        return cls(recipe, making, model, tensors, [str(label) if label is not None else None for label in labels])

    def fit(self, progress: Progress) -> None:
        """Train until the recipe's number of images has been seen."""
        settings, state = self.recipe.train, self.state
        every = max(settings.batch, settings.images // CURVE_POINTS)
        begun, before = time.monotonic(), state.seconds
        progress("train", state.images, settings.images)
        while state.images < settings.images:
            batch = min(settings.batch, settings.images - state.images)
            points, saves = state.images // every, state.images // settings.state_images
            loss = self._step(batch)
            state.images += batch
            state.loss_sum += float(loss) * batch
            state.loss_images += batch
            state.seconds = before + time.monotonic() - begun
            if not math.isfinite(state.loss_sum):
                raise MedpipeError(
                    f"the loss is not a number at image {state.images}: lower train.learning_rate; the last good state is kept"
                )
            if state.images // every > points or state.images == settings.images:
                state.curve.append((state.images, state.loss_sum / state.loss_images, self._validation_loss()))
                state.loss_sum, state.loss_images = 0.0, 0
                progress("train", state.images, settings.images)
            if state.images // settings.state_images > saves:
                self._save()

    def _step(self, batch: int) -> Tensor:
        """Take one optimiser step on the next `batch` images and return the mean loss."""
        settings, seen = self.recipe.train, self.state.images
        rows = order(self.recipe.seed, len(self.data["train"]), seen, batch)
        noise = torch.Generator().manual_seed(seeds.child(self.recipe.seed, "noise", seen))
        clean = self.data["train"][rows]
        if settings.flip:
            mirrored = torch.rand(batch, generator=noise) < 0.5
            clean[mirrored] = clean[mirrored].flip(-1)
        hidden = self.recipe.model
        conditions = self.conditions.hide(self.data["train_conditions"][rows], hidden.condition_dropout, hidden.covariate_dropout, noise)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings.learning_rate, seen, settings.images, settings.warmup_images)
        loss = self._loss(self.loss, clean, conditions, noise).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.optimizer.step()
        ema.update(self.average, self.denoiser, batch, seen + batch, settings.ema_images)
        return loss.detach()

    def _loss(self, loss: Any, clean: Tensor, conditions: Tensor, generator: torch.Generator) -> Tensor:
        """Draw σ and noise on the CPU (the same on every device) and return the loss per image (N,)."""
        model = self.recipe.model
        sigma = (torch.randn(len(clean), generator=generator) * model.sigma_sd + model.sigma_mean).exp()
        noise = torch.randn(clean.shape, generator=generator)
        on = [tensor.to(self.device, non_blocking=True) for tensor in (clean, sigma, noise, conditions)]
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            result: Tensor = loss(*on)
        return result

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Return the average's loss on the validation split with the same noise each time; NaN where there is none."""
        clean = self.data["validation"]
        if not len(clean):
            return math.nan
        noise = torch.Generator().manual_seed(seeds.child(self.recipe.seed, "validation"))
        losses = [
            self._loss(self.average.loss, images, conditions, noise)
            for images, conditions in zip(torch.split(clean, 64), torch.split(self.data["validation_conditions"], 64), strict=True)
        ]
        return float(torch.cat(losses).mean())

    def _save(self) -> None:
        """Write the whole state to one file, atomically."""
        tensors = {f"weights/{name}": value for name, value in self.denoiser.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": torch.as_tensor(value) for name, value in moments.items()}
        temporary = self.file.with_suffix(".tmp")
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, temporary, metadata={"state": json.dumps(asdict(self.state))}
        )
        temporary.replace(self.file)

    def _restore(self) -> None:
        """Take up the state that an interrupted run left."""
        with safe_open(self.file, framework="pt", device=self.device) as file:
            text = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        self.state = _State(**{**text, "curve": [tuple(point) for point in text["curve"]]})
        part = {
            kind: {n.split("/", 1)[1]: t for n, t in tensors.items() if n.startswith(f"{kind}/")}
            for kind in ("weights", "average", "optimizer")
        }
        self.denoiser.load_state_dict(part["weights"])
        self.average.load_state_dict(part["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part["optimizer"].items():
            number, key = name.split("/")
            # the fused optimiser walks a weight and its moments by one set of strides
            moments.setdefault(int(number), {})[key] = devices.layout(tensor, self.model["dimensions"])
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def seal(self, asked: Any) -> Record:
        """Write weights, settings and curve, and finish the Checkpoint; `asked` is what the Dataset says of consent."""
        folder, state = self.making.path, self.state
        moments = gaussian.fit(self.data["train"], *self.conditions.parts(self.data["train_conditions"]), self.labels)
        model = self.model | {"covariances": gaussian.save(folder, moments)}
        checkpoint.save(folder, {name: value.cpu() for name, value in self.average.state_dict().items()}, model)
        pd.DataFrame(state.curve, columns=["images", "loss", "validation_loss"]).to_parquet(folder / checkpoint.CURVE, index=False)
        facts = {key: self.model[key] for key in ("shape", "dtype", "dimensions", "classes", "sigma_data", "spacing_mm")} | {
            "parameters": checkpoint.parameters(self.average),
            "images": state.images,
            "final_loss": state.curve[-1][1],
            "conditions": [item.name for item in self.conditions.items],
            "precision": "bf16" if self.dtype == torch.bfloat16 else "fp32",
            "device": self.device,
            "consent": asked,
            "cost": {
                "seconds": round(state.seconds, 1),
                "images_per_s": round(state.images / max(state.seconds, 1e-9), 1),
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            },
        }
        return self.making.seal(facts | latents.facts(self.making))


def order(seed: int, images: int, start: int, count: int) -> Tensor:
    """Return the rows (count,) that training sees after `start` images: each pass is a fresh permutation of all."""
    rows: list[Any] = []
    while count:
        epoch, position = divmod(start, images)
        part = seeds.generator(seed, "order", epoch).permutation(images)[position : position + count]
        rows.append(part)
        start, count = start + len(part), count - len(part)
    return torch.from_numpy(np.concatenate(rows))


def learning_rate(peak: float, seen: int, images: int, warmup: int) -> float:
    """Return the rate after `seen` images: a linear rise over `warmup`, then a cosine fall to a hundredth of the peak."""
    if seen < warmup:
        return peak * (seen + 1) / warmup
    share = (seen - warmup) / max(images - warmup, 1)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * min(share, 1.0))) / 2)
