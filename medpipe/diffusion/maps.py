"""Spatial conditions: what is given beside the noise, as maps of the image's own size that join the network's input.

Each is its values followed by its presence flags, all 0 where it is not given, so that one checkpoint serves with all, some
or none of them: a mask makes images to segmentations, known channels translate between modalities, a degraded copy is made
sharp, a known region is completed (in-painting, missing slices).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medpipe.errors import InputError
from medpipe.settings import MapKind, ModelSettings


@dataclass(frozen=True)
class Maps:
    """The spatial conditions of a checkpoint, in the order of their maps."""

    kinds: tuple[MapKind, ...]
    image_channels: int
    labels: tuple[int, ...] = ()
    """Labels of the masks that training saw, without the background 0."""
    factor: int = 4
    """Pixels of a side over which a degraded copy is averaged."""

    @property
    def channels(self) -> int:
        """Number M of maps."""
        return sum(self.width(kind) for kind in self.kinds)

    def width(self, kind: MapKind) -> int:
        """Return the number of maps of one condition, its flags included."""
        match kind:
            case "mask":
                return len(self.labels) + 1
            case "channels":
                return 2 * self.image_channels
            case "degraded" | "known":
                return self.image_channels + 1
            case _:
                assert_never(kind)

    def as_json(self) -> dict[str, Any]:
        return {"kinds": list(self.kinds), "labels": list(self.labels), "factor": self.factor}

    @classmethod
    def from_json(cls, said: Mapping[str, Any] | None, image_channels: int) -> Maps:
        """Read what `model.json` says; a checkpoint that says nothing has no maps."""
        if said is None:
            return cls((), image_channels)
        return cls(tuple(said["kinds"]), image_channels, tuple(said["labels"]), said["factor"])

    @classmethod
    def fit(cls, settings: ModelSettings, shape: Sequence[int], masks: Tensor | None) -> Maps:
        """Learn the maps of a recipe from the shape (C, …) and masks (N, 1, …) of the training split; raises InputError."""
        labels: tuple[int, ...] = ()
        if "mask" in settings.maps:
            labels = () if masks is None else tuple(label for label in np.unique(masks.numpy()).tolist() if label)
            if not labels:
                raise InputError(
                    "model.maps has 'mask', and the training split has no masks: give a source with segmentations, or leave it out"
                )
        if "channels" in settings.maps and shape[0] < 2:
            raise InputError("model.maps has 'channels', and the images have only one: leave it out")
        if "degraded" in settings.maps and any(side % settings.degraded_factor for side in shape[1:]):
            raise InputError(
                f"the images are {list(shape[1:])} and model.degraded_factor is {settings.degraded_factor}: it must divide the sides"
            )
        return cls(tuple(settings.maps), shape[0], labels, settings.degraded_factor)

    def mask(self, labels: Tensor) -> Tensor:
        """Turn label maps (N, 1, …) into one map per label and the flag; one without any label counts as not given."""
        slots = [(labels == label).float() for label in self.labels]
        there = (labels.flatten(1) > 0).any(dim=1).reshape(-1, *[1] * (labels.ndim - 1))
        return torch.cat((*slots, there.expand_as(labels).float()), dim=1)

    def known(self, images: Tensor, where: Tensor) -> Tensor:
        """Show `images` (N, C, …) where they are known: (N, 1, …) for a region, (N, C, …) for channels."""
        where = where.to(images.dtype).expand(-1, -1, *images.shape[2:])
        return torch.cat((images * where, where), dim=1)

    def degraded(self, images: Tensor) -> Tensor:
        """Show the mean over blocks of `factor` pixels a side of `images` (N, C, …)."""
        two = images.ndim == 4
        small = functional.avg_pool2d(images, self.factor) if two else functional.avg_pool3d(images, self.factor)
        large = functional.interpolate(small, scale_factor=float(self.factor), mode="nearest")
        return torch.cat((large, torch.ones_like(large[:, :1])), dim=1)

    def join(self, shape: Sequence[int], parts: Mapping[MapKind, Tensor]) -> Tensor | None:
        """Join what is given for images of `shape` (N, C, …) to maps (N, M, …), zeros for the rest; None where there are no maps.

        Raises InputError for what the checkpoint was not trained with, or of another shape.
        """
        if strange := sorted(set(parts) - set(self.kinds)):
            raise InputError(f"the Checkpoint takes no {strange[0]} maps: train one with model.maps, or leave them out")
        joined = []
        for kind in self.kinds:
            wanted = (shape[0], self.width(kind), *shape[2:])
            part = parts.get(kind)
            if part is not None and tuple(part.shape) != wanted:
                raise InputError(
                    f"the {kind} maps are {tuple(part.shape)} and the Checkpoint takes {wanted}: give maps on the grid of its images"
                )
            joined.append(torch.zeros(wanted) if part is None else part)
        return torch.cat(joined, dim=1) if joined else None

    def draw(self, images: Tensor, masks: Tensor | None, shown: Tensor, generator: torch.Generator) -> Tensor | None:
        """Make the maps of training images (N, C, …) with masks (N, 1, …), of which `shown` (N, kinds) says which are given."""
        parts: dict[MapKind, Tensor] = {}
        for place, kind in enumerate(self.kinds):
            match kind:
                case "mask":
                    assert masks is not None
                    part = self.mask(masks)
                case "channels":
                    part = self.known(images, _some_channels(images, generator))
                case "degraded":
                    part = self.degraded(images)
                case "known":
                    part = self.known(images, regions(images, generator))
                case _:
                    assert_never(kind)
            parts[kind] = part * shown[:, place].reshape(-1, *[1] * (images.ndim - 1))
        return self.join(images.shape, parts)


def _some_channels(images: Tensor, generator: torch.Generator) -> Tensor:
    """Choose known channels (N, C, 1, …): each as often as not, one always missing."""
    n, channels = images.shape[:2]
    chance = torch.rand(n, channels, generator=generator)
    some = (chance < 0.5) & (chance < chance.max(dim=1, keepdim=True).values)
    return some.reshape(n, channels, *[1] * (images.ndim - 2))


def regions(images: Tensor, generator: torch.Generator) -> Tensor:
    """Choose known regions (N, 1, …): a box of 25 to 75 % of each side, in a third of cases of one side only, or all but it."""
    n, sides = len(images), images.shape[2:]
    box = torch.rand(n, len(sides), 2, generator=generator)
    way = torch.rand(n, 3, generator=generator)
    free = (way[:, :1] < 1 / 3) & ((way[:, 1:2] * len(sides)).long() != torch.arange(len(sides)))
    inside = torch.ones(n, *sides, dtype=torch.bool)
    for axis, side in enumerate(sides):
        length = ((0.25 + 0.5 * box[:, axis, :1]) * side).round().clamp(1, side)
        start = ((side - length + 1) * box[:, axis, 1:]).floor()
        at = torch.arange(side)
        along = ((at >= start) & (at < start + length)) | free[:, axis : axis + 1]
        inside &= along.reshape(n, *[1] * axis, side, *[1] * (len(sides) - axis - 1))
    outside = (way[:, 2] < 0.5).reshape(n, *[1] * len(sides))
    return (inside ^ outside)[:, None]
