"""The training loop: counted in images, the same for one process and for many.

What happens at image i depends on the seed and i alone (order, noise, augmentation, hidden conditions), so a training that
is killed goes on from its last state and ends in the same bytes, and more processes give the same up to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medpipe import seeds, sizes
from medpipe.diffusion import checkpoint, compilation, curve, glimpse, state
from medpipe.diffusion import device as devices
from medpipe.diffusion.batches import Batch, Batches, Split, parts_of
from medpipe.diffusion.conditioning import Conditions
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.distributed import World, own
from medpipe.diffusion.ema import Averages
from medpipe.diffusion.maps import Maps
from medpipe.errors import InputError, MedpipeError
from medpipe.progress import Progress
from medpipe.recipe import Recipe

DIVERGED = 4.0
"""A mean loss that no training comes back from: every preconditioning gives a network that says nothing a loss of 1."""
CURVE_POINTS = 50
ALIKE = 64
"""Images of one forward pass where no gradient is wanted."""


@dataclass(frozen=True)
class Fixed:
    """Images whose loss is measured again and again with the same noise."""

    clean: Callable[[], Tensor]
    vectors: Tensor
    masks: Tensor | None = None


class Objective(nn.Module):
    """The loss of a denoiser as a module, which is what DDP and FSDP wrap."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.compiled: Callable[..., Tensor] | None = None
        """The loss for batches of the usual size, where compiled; any other size would be compiled anew."""

    def forward(self, *inputs: Tensor, usual: bool) -> Tensor:
        """Return the loss per image (N,)."""
        return (self.compiled if self.compiled and usual else self.denoiser.loss)(*inputs)


class Training:
    """One training: the network, its averages, the optimiser and the state, in each process."""

    private = False
    """Whether nothing may be told of the training images."""

    def __init__(self, recipe: Recipe, folder: Path, model: dict[str, Any], split: Split, validation: Fixed, world: World) -> None:
        self.recipe, self.folder, self.model, self.split, self.validation, self.world = recipe, folder, model, split, validation, world
        self.device = devices.device(recipe.compute.device)
        self.dtype = devices.precision(recipe.train.precision, self.device, model["shape"], sizes.side(recipe.model))
        self.conditions = Conditions.from_json(model["conditions"])
        self.maps = Maps.from_json(model["maps"], model["shape"][0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.child(recipe.seed, "weights"))
            self.denoiser = checkpoint.build(model)
        shared = world.size > 1 and world.kind == "fsdp"
        if shared:
            self.denoiser.to(self.device)  # FSDP2 takes no weights with channels last
        else:
            devices.arrange(self.denoiser, self.device, model["dimensions"])
        self.objective = Objective(self.denoiser)
        self.wrapped = world.wrapped(self.objective, self.device)
        weights = list(self.denoiser.parameters())
        self.averages = Averages([own(weight.detach()) for weight in weights], recipe.train.ema_widths)
        self.optimizer = torch.optim.AdamW(weights, lr=recipe.train.learning_rate, weight_decay=0.0, fused=not shared)
        self.stored = state.Stored(self.denoiser, self.averages, self.optimizer)
        self.state = state.restore(folder / "state", self.stored, self.device)
        self.bins = torch.tensor(self.state.bins or [[0.0] * curve.BINS] * 2, dtype=torch.float64)
        self._first_holds_the_bins()
        self.batches = Batches(split, self.conditions, self.maps, recipe, world, pin=self.device == "cuda")
        self._compile(may=not shared)
        self.processor_begun = time.process_time()

    def fit(self, progress: Progress) -> None:
        """Train until the recipe's images were seen, or its time is over, or the model begins to know the training images by heart."""
        settings, now = self.recipe.train, self.state
        every = max(settings.batch, settings.images // CURVE_POINTS)
        progress("train", now.images, settings.images)
        begun, before, at_first = time.monotonic(), now.seconds, now.images
        batches = iter(()) if now.ended else self.batches.after(now.images)
        for batch in batches:
            seen = now.images
            loss = self._step(batch)
            now.images += batch.size
            elapsed = before + time.monotonic() - begun if self.world.first else 0.0
            loss, now.seconds = self.world.total(torch.tensor((loss, elapsed), dtype=torch.float64)).tolist()
            self._check(loss, seen, at_first, now.seconds - before)
            if now.images // every > seen // every or now.ended:
                self._point(loss)
                progress("train", now.images, settings.images)
            if settings.preview_images and now.images // settings.preview_images > seen // settings.preview_images:
                self._preview()
            if now.images // settings.state_images > seen // settings.state_images and not now.ended:
                self._save()
            if now.ended:
                break
        self._sound()

    def _step(self, batch: Batch) -> float:
        """Take one optimiser step and return this process's part of the mean loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        mean = 0.0
        parts = batch.parts()
        for number, part in enumerate(parts):
            with self.world.held_back(self.wrapped, last=number == len(parts) - 1):
                losses = self._losses(self.wrapped, part, usual=len(part.clean) == self._usual) * part.weights.to(self.device)
                # DDP and FSDP take the mean over processes, and what is wanted is the mean over images
                (losses.sum() * (self.world.size / batch.size)).backward()  # type: ignore[no-untyped-call]
            losses = losses.detach().cpu()
            real = part.weights > 0
            self.bins += curve.binned(losses[real], part.sigma[real])
            mean += float(losses.sum()) / batch.size
        nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.recipe.train.gradient_max)
        self.optimizer.step()
        self.averages.update(batch.size, self.state.images + batch.size)
        return mean

    def _losses(self, loss: nn.Module, batch: Batch, *, usual: bool = False) -> Tensor:
        inputs = [tensor.to(self.device, non_blocking=True) for tensor in batch.given]
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            result: Tensor = loss(*inputs, usual=usual)
        return result

    @property
    def _usual(self) -> int:
        """Images of one part of an ordinary step in this process."""
        share = -(-self.recipe.train.batch // self.world.size)
        return -(-share // parts_of(share, self.recipe.train.microbatch))

    def _rate(self) -> float:
        """Return the learning rate of the next step; where time is what ends training, its fall follows the time."""
        settings, now = self.recipe.train, self.state
        spent = 0.0 if settings.minutes is None else min(now.seconds / (60 * settings.minutes), 1.0) * settings.images
        return learning_rate(settings.learning_rate, max(now.images, int(spent)), settings.images, settings.warmup_images, now.images)

    def _check(self, loss: float, seen: int, at_first: int, seconds: float) -> None:
        """Say whether training ends here; raises MedpipeError for a loss that is no number, InputError where time is too short."""
        settings, now = self.recipe.train, self.state
        if not math.isfinite(loss):
            raise MedpipeError(
                f"the loss is not a number at image {now.images} (images {seen} to {now.images}, learning rate {self._rate():.2g}): lower "
                "train.learning_rate; the last good state is kept"
            )
        if settings.minutes is not None:
            over, needed = now.seconds >= 60 * settings.minutes, settings.warmup_images + settings.batch
            begun = now.images - at_first >= 3 * settings.batch or over
            estimate = seconds / (now.images - at_first) * (needed - now.images) + now.seconds
            if now.images < needed and begun and estimate > 60 * settings.minutes:
                raise InputError(
                    f"train.minutes {settings.minutes:g} is too short for one checkpoint: the warm-up of {settings.warmup_images} images "
                    f"takes about {estimate / 60:.2g} minutes on this machine; give more, or lower train.warmup_images"
                )
            now.ended = "minutes" if over else now.ended
        now.ended = "images" if now.images >= settings.images else now.ended

    def _point(self, loss: float) -> None:
        """Add a point to the curve, and end training where the gap between validation and training images has grown too wide."""
        now, bins, limit = self.state, self.world.total(self.bins), self.recipe.train.stop_gap
        with self.averages.inside(0):
            validation = self.measure(self.validation)
            probe = _mean(self.measure(self._probe())) if len(self.validation.vectors) and not self.private else math.nan
        mean = _mean(bins) if bins[1].sum() else loss
        if mean > DIVERGED:
            raise MedpipeError(
                f"training has diverged at image {now.images}: the loss is {mean:.3g}, and an untrained network's is 1; "
                "lower train.learning_rate, or raise train.batch or train.warmup_images"
            )
        now.curve.append({"images": now.images, "loss": mean, "validation_loss": _mean(validation), "probe_loss": probe})
        now.by_sigma += curve.rows(now.images, bins, validation)
        self.bins = torch.zeros_like(self.bins)
        if limit is not None and not now.ended and curve.gap(now.curve, limit):
            now.ended = "gap"

    def _probe(self) -> Fixed:
        """Return as many training images as there are validation images, evenly spread."""
        places = torch.linspace(0, len(self.split.labels) - 1, len(self.validation.vectors)).long()
        masks = None if self.split.masks is None else self.split.masks[places]
        return Fixed(lambda: self.split[places], self.split.vectors[places], masks)

    @torch.no_grad()
    def measure(self, images: Fixed) -> Tensor:
        """Return the losses of `images` by noise level, with the same noise each time; each process computes a part of each batch."""
        out, size, rank = torch.zeros(2, curve.BINS, dtype=torch.float64), self.world.size, self.world.rank
        if not len(images.vectors):
            return out
        parts = zip(torch.split(images.clean(), ALIKE), torch.split(images.vectors, ALIKE), strict=True)
        for number, (clean, vectors) in enumerate(parts):
            generator = torch.Generator().manual_seed(seeds.child(self.recipe.seed, "validation", number))
            sigma = self.batches.levels(len(clean), generator)
            noise = torch.randn(clean.shape, generator=generator)
            start, stop = (len(clean) * part // size for part in (rank, rank + 1))
            here = slice(start, max(stop, start + 1)) if start < len(clean) else slice(0, 1)  # under FSDP all have to compute
            masks = None if images.masks is None else images.masks[number * ALIKE : (number + 1) * ALIKE]
            maps = self.maps.draw(clean, masks, torch.ones(len(clean), len(self.maps.kinds)), generator)
            maps = None if maps is None else maps[here]
            part = Batch(clean[here], sigma[here], noise[here], vectors[here], torch.ones(1), len(clean), maps)
            losses = self._losses(self.objective, part).cpu()[: stop - start]
            out += curve.binned(losses, part.sigma[: stop - start])
        return self.world.total(out)

    def _preview(self) -> None:
        masks = self.validation.masks if "mask" in self.maps.kinds and len(self.validation.vectors) else None
        with self.averages.inside(0), torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            picture = glimpse.draw(self.denoiser, self.model, self.folder, self.recipe.seed, self.device, masks)
        if self.world.first:
            glimpse.write(self.folder, self.state.images, picture)

    def _save(self) -> None:
        self._sound()
        self.bins = self.world.total(self.bins)
        self.state.bins = self.bins.tolist()
        self._first_holds_the_bins()
        state.save(self.folder / "state", self.state, self.stored, write=self.world.first)

    def _sound(self) -> None:
        """Raise MedpipeError where the weights are no numbers although the last loss was one: such a state is not worth keeping."""
        broken = not all(weight.isfinite().all() for weight in self.averages.tracks[0])
        if float(self.world.total(torch.tensor(float(broken), dtype=torch.float64))):
            raise MedpipeError(
                f"the weights are not numbers at image {self.state.images}: lower train.learning_rate; the last good state is kept"
            )

    def _first_holds_the_bins(self) -> None:
        """Go on after a state in the way in which it will be taken up: what it holds is the sum over all processes."""
        if not self.world.first:
            self.bins = torch.zeros_like(self.bins)

    def _compile(self, *, may: bool) -> None:
        """Compile where that is asked for, or where it may pay and is measured to; a training goes on as it began."""
        wanted = self.recipe.train.compile
        if may and self.state.images == 0 and devices.may_compile(wanted, self.device, self.dtype, self.recipe.train.images):
            self.state.compiled = self.world.agreed(wanted == "on" or (self.world.first and self._compiled_is_faster()))
        if self.state.compiled:
            self.objective.compiled = torch.compile(self.denoiser.loss)

    def _compiled_is_faster(self) -> bool:
        batch = self.batches.make(0, self.recipe.train.batch).parts()[-1]
        timed = Objective(self.denoiser)
        timed.compiled = torch.compile(self.denoiser.loss)

        def step(usual: bool) -> None:
            self._losses(timed, batch, usual=usual).sum().backward()  # type: ignore[no-untyped-call]
            self.denoiser.zero_grad(set_to_none=True)
            if self.device == "cuda":
                torch.cuda.synchronize()

        what = {key: self.model[key] for key in ("shape", "settings", "conditions", "maps", "augmentation")} | {
            "images": len(batch.clean),
            "dtype": str(self.dtype),
            "device": torch.cuda.get_device_name() if self.device == "cuda" else str(torch.cpu.get_capabilities()),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        return compilation.decide(what, lambda: step(False), lambda: step(True), compilation.place())


def _mean(bins: Tensor) -> float:
    return float(bins[0].sum() / bins[1].sum())  # NaN where there is none


def best(losses: Sequence[float]) -> int:
    """Return the number of the smallest loss; the first where none is known."""
    known = [(loss, number) for number, loss in enumerate(losses) if math.isfinite(loss)]
    return min(known)[1] if known else 0


def learning_rate(peak: float, seen: int, images: int, warmup: int, warmed: int | None = None) -> float:
    """Return the rate after `seen` images: a linear rise over `warmup`, then a cosine fall to a hundredth of the peak.

    `warmed` is how many images the rise has had, where the fall has gone further than the images.
    """
    if (risen := seen if warmed is None else warmed) < warmup:
        return peak * (risen + 1) / warmup
    share = (seen - warmup) / max(images - warmup, 1)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0))) / 2)
