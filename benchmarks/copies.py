"""The search for copies, judged from outside: how many known copies of each kind it finds, and how many fresh real images it calls copies.

    SETS=pneumoniamnist,brain64 python -m benchmarks.run copies

Real images (MEDPIPE_DATA): two splits of PneumoniaMNIST, whose held-out images are the published test split, of other children; brain
slices at 64² and 128² in blocks of neighbours, which count as patients, without their outer slices; hippocampus volumes padded to 48³.
The score is learned from training images as in a run. Limits are set on held-out images of four fifths of the groups and applied to
the copies and to the last fifth, ten times over. Copies are altered by code of this file, not by that of the gates. COPIES says how
many of each kind (48), KINDS which; a set takes five to fifteen minutes of two cores.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.images import DATA, distinct
from benchmarks.table import Row
from medpipe.gates import alignment, copies, copy_gate
from medpipe.gates.copies import clopper_pearson
from medpipe.gates.copy_rule import CopyRule
from medpipe.gates.gallery import Gallery
from medpipe.settings import GatesSettings

LONG = True
SETTINGS = GatesSettings()
COPIES = int(os.environ.get("COPIES", "48"))
AT_ONCE, ROUNDS, FOLDS = 64, 10, 5
BLOCK, GAP, EDGE = 100, 5, 12
"""Slices of a block, and how many are left out at either end of one of training and of one held out: neighbours show the same head."""
Stored = NDArray[np.unsignedinteger[Any]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Real:
    """Training images (N, 1, …) and held-out ones, and whose they are for all that is known: neighbouring slices count as one patient's."""

    train: Stored
    patients: NDArray[np.int64]
    held: Stored
    groups: NDArray[np.int64]


def _radiographs(seed: int) -> Real:
    images, _ = distinct("train", "val")
    fresh, _ = distinct("test")
    train = images[np.random.default_rng(seed).permutation(len(images))[:3000], None]
    return Real(train, np.arange(len(train)), fresh[:, None], np.arange(len(fresh)))


def _slices(side: int) -> Real:
    with np.load(DATA / "brain_tumor_mri" / "brain_tumor_128.npz") as held:
        images = held["images"][np.argsort(held["source_index"])]
    fold = 128 // side
    images = np.rint(images.reshape(len(images), 1, side, fold, side, fold).mean((3, 5))).astype(np.uint8)
    block, place = np.divmod(np.arange(len(images)), BLOCK)
    mixed = np.random.default_rng(0).permutation(block[-1] + 1)
    known = np.isin(block, mixed[: round(0.68 * len(mixed))])
    outer = np.minimum(place, BLOCK - 1 - place)
    train, inner = known & (outer >= GAP), ~known & (outer >= EDGE)
    return Real(images[train], block[train], images[inner], block[inner])


def _volumes() -> Real:
    made = []
    for file in sorted((DATA / "hippocampus" / "images").glob("*.nii.gz")):
        values = np.asarray(nibabel.load(file).dataobj, dtype=np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        unit = np.clip((values - low) / (high - low), 0, 1)[:48, :48, :48]
        made.append(np.pad(unit, [((48 - side) // 2, 48 - side - (48 - side) // 2) for side in unit.shape]))
    volumes = np.rint(np.stack(made)[:, None] * 255).astype(np.uint8)[np.random.default_rng(0).permutation(len(made))]
    return Real(volumes[:130], np.arange(130), volumes[130:], np.arange(len(volumes) - 130))


SETS: dict[str, Callable[[], Real]] = {
    "pneumoniamnist": lambda: _radiographs(0),
    "pneumoniamnist-2": lambda: _radiographs(1),
    "brain64": lambda: _slices(64),
    "brain128": lambda: _slices(128),
    "hippocampus": _volumes,
}


def _laid(image: Values, angle: float = 0, zoom: float = 1, move: float = 0) -> Values:
    """Turn in the plane of the last two axes, enlarge, and move along the last axis by a share of the side; edges are repeated."""
    axes = image.ndim - 1
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    matrix = np.eye(axes)
    matrix[-2:, -2:] = [[cosine, -sine], [sine, cosine]]
    matrix /= zoom
    centre = (np.array(image.shape[1:]) - 1) / 2
    centre_there = centre + np.eye(axes)[-1] * move * image.shape[-1]
    return np.stack([ndimage.affine_transform(part, matrix, centre - matrix @ centre_there, order=1, mode="nearest") for part in image])


def _warped(image: Values, pixels: float, draws: np.random.Generator) -> Values:
    """Displace by a smooth random field of root mean square `pixels`."""
    space = image.shape[1:]
    field = np.stack([ndimage.gaussian_filter(draws.normal(size=space), image.shape[-1] / 8, mode="wrap") for _ in space])
    field *= pixels / np.sqrt((field**2).sum(0).mean())
    return np.stack([ndimage.map_coordinates(part, np.indices(space) + field, order=1, mode="nearest") for part in image])


def _blurred(image: Values, share: float) -> Values:
    return np.stack([ndimage.gaussian_filter(part, share * part.shape[-1], mode="nearest") for part in image])


def _compressed(image: Values, quality: int) -> Values:
    planes = []
    for plane in np.rint(image * 255).astype(np.uint8).reshape(-1, *image.shape[-2:]):
        Image.fromarray(plane).save(held := io.BytesIO(), "JPEG", quality=quality)
        planes.append(np.asarray(Image.open(held), dtype=np.float64) / 255)
    return np.stack(planes).reshape(image.shape)


def _block(image: Values, other: Values, share: float, draws: np.random.Generator) -> Values:
    """Put a block of `share` of each side, from anywhere, into another image."""
    starts = [int(draws.integers(0, side - round(share * side) + 1)) for side in image.shape[1:]]
    part = (slice(None), *(slice(start, start + round(share * side)) for start, side in zip(starts, image.shape[1:], strict=True)))
    mixed = other.copy()
    mixed[part] = image[part]
    return mixed


def _compound(image: Values, draws: np.random.Generator, angle: float, move: float, grain: float) -> Values:
    laid = _laid(image[..., ::-1], angle=draws.choice([-1, 1]) * angle, move=draws.choice([-1, 1]) * move)
    return laid ** float(draws.choice([0.8, 1.25])) + draws.normal(0, grain, image.shape)


Kind = Callable[[Values, Values, np.random.Generator], Values]
NAMED: dict[str, Kind] = {
    "exact": lambda image, other, draws: image,
    "mirrored": lambda image, other, draws: image[..., ::-1],
    "moved 7 %": lambda image, other, draws: _laid(image, move=draws.choice([-1, 1]) * 0.07),
    "turned 5°": lambda image, other, draws: _laid(image, angle=draws.choice([-1, 1]) * 5),
    "turned 10°": lambda image, other, draws: _laid(image, angle=draws.choice([-1, 1]) * 10),
    "gamma 1.3": lambda image, other, draws: image ** draws.choice([1.3, 1 / 1.3]),
    "contrast 0.8": lambda image, other, draws: 0.5 + 0.8 * (image - 0.5),
    "inverted": lambda image, other, draws: 1 - image,
    "grain 10 %": lambda image, other, draws: image + draws.normal(0, 0.1, image.shape),
    "warped 0.7 px": lambda image, other, draws: _warped(image, 0.7, draws),
    "warped 1.2 px": lambda image, other, draws: _warped(image, 1.2, draws),
    "blend 70:30": lambda image, other, draws: 0.7 * image + 0.3 * other,
    "JPEG 10": lambda image, other, draws: _compressed(image, 10),
    "enlarged 10 %": lambda image, other, draws: _laid(image, zoom=1.1),
    "compound": lambda image, other, draws: _compound(image, draws, 5, 0.07, 0.02),
}
WHOLLY = list(NAMED)[:8]
"""Kinds that are to be found always; the other named ones in 95 % of cases."""
BEYOND: dict[str, Kind] = {
    "grain 15 %": lambda image, other, draws: image + draws.normal(0, 0.15, image.shape),
    "JPEG 5": lambda image, other, draws: _compressed(image, 5),
    "blur of 4 % of the side": lambda image, other, draws: _blurred(image, 0.04),
    "moved 20 %": lambda image, other, draws: _laid(image, move=draws.choice([-1, 1]) * 0.2),
    "turned 30°": lambda image, other, draws: _laid(image, angle=draws.choice([-1, 1]) * 30),
    "enlarged 30 %": lambda image, other, draws: _laid(image, zoom=1.3),
    "shrunk 20 %": lambda image, other, draws: _laid(image, zoom=0.8),
    "warped 4.3 % of the side": lambda image, other, draws: _warped(image, 0.043 * image.shape[-1], draws),
    "warped 7 %": lambda image, other, draws: _warped(image, 0.07 * image.shape[-1], draws),
    "warped 2.5 %, grain 5 %": lambda image, other, draws: (
        _warped(image, 0.025 * image.shape[-1], draws) + draws.normal(0, 0.05, image.shape)
    ),
    "blend 60:40": lambda image, other, draws: 0.6 * image + 0.4 * other,
    "blend 50:50": lambda image, other, draws: 0.5 * image + 0.5 * other,
    "the left half": lambda image, other, draws: np.where(np.arange(image.shape[-1]) < image.shape[-1] // 2, image, other),
    "block of 75 % of each side": lambda image, other, draws: _block(image, other, 0.75, draws),
    "block of 60 %": lambda image, other, draws: _block(image, other, 0.6, draws),
    "block of 50 %": lambda image, other, draws: _block(image, other, 0.5, draws),
    "compound, grain 5 %": lambda image, other, draws: _compound(image, draws, draws.uniform(2, 8), draws.uniform(0.03, 0.1), 0.05),
}
OF_TWO = "blend 50:50 of two training images"
KINDS = os.environ["KINDS"].split(";") if "KINDS" in os.environ else [*NAMED, *BEYOND, OF_TWO]
"""What is blended or joined with a copy is a held-out image, but in a blend of two."""


@lru_cache(maxsize=1)
def _known(name: str) -> tuple[Real, Gallery]:
    real = SETS[name]()
    return real, Gallery.of(real.train, real.patients)


def _measured(name: str, what: str, start: int, stop: int) -> Values:
    """Measure held-out images, what the score is learned on, or copies of one kind, from `start` to `stop`."""
    real, gallery = _known(name)
    draws = np.random.default_rng([*what.encode(), start])
    rows = np.arange(start, stop)
    if what == "held":
        return alignment.measures(gallery, real.held[rows])
    order = np.random.default_rng([*what.encode()]).permutation(len(real.train))
    sources = order[rows % len(order)]
    images = real.train[sources]
    if what == "strange":
        return alignment.measures(gallery, copies.strange(images, draws))
    if what in ("real", "altered"):
        return alignment.measures(gallery, copies.practised(images, images, draws) if what == "altered" else images, real.patients[sources])
    partners = draws.integers(0, len(order), len(rows))
    if what == "copies":
        lent = np.where(real.patients[partners] == real.patients[sources], -1, real.patients[partners])
        lent = np.where(draws.random(len(lent)) < copies.KNOWN, -1, lent)
        return alignment.measures(gallery, copies.practised(images, real.train[partners], draws), lent)
    others = real.train[partners] if what == OF_TWO else real.held[partners % len(real.held)]
    change = (NAMED | BEYOND | {OF_TWO: BEYOND["blend 50:50"]})[what]
    made = np.stack([change(image / 255, other / 255, draws) for image, other in zip(images, others, strict=True)])
    return alignment.measures(gallery, np.rint(made.clip(0, 1) * 255).astype(np.uint8))


def rows() -> Iterator[Row]:
    """Recall of each kind beside what is wanted, and false alarms beside the stated level."""
    chosen = os.environ["SETS"].split(",") if "SETS" in os.environ else list(SETS)
    if unknown := set(chosen) - set(SETS):
        sys.exit(f"there is no set {', '.join(sorted(unknown))}: choose from {', '.join(SETS)}")
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as executor:
        for name in chosen:
            yield from _judged(name, executor)


def _judged(name: str, executor: Executor) -> Iterator[Row]:
    real = SETS[name]()
    practice = SETTINGS.copy_practice
    counts = {"copies": practice, "real": min(practice, len(real.train)), "altered": min(practice // 2, len(real.train))}
    counts |= {"strange": practice // 8, "held": len(real.held)} | dict.fromkeys(KINDS, COPIES)
    jobs = {
        what: [executor.submit(_measured, name, what, at, min(at + AT_ONCE, count)) for at in range(0, count, AT_ONCE)]
        for what, count in counts.items()
    }
    found = {what: np.concatenate([job.result() for job in parts]) for what, parts in jobs.items()}
    rule = CopyRule.fit(found["copies"], np.concatenate([found[what] for what in ("real", "altered", "strange")]))
    scores = {what: copy_gate.scored(found[what], rule) for what in ("held", *KINDS)}
    hits, called = dict.fromkeys(KINDS, 0.0), 0.0
    groups = np.unique(real.groups)
    for number in range(ROUNDS):
        fold = np.random.default_rng(number).permutation(np.arange(len(groups)) % FOLDS)[np.searchsorted(groups, real.groups)]
        for k in range(FOLDS):
            limits = copy_gate.limits_on(scores["held"][fold != k], SETTINGS.copy_false_positive)
            called += copies.flagged(scores["held"][fold == k], limits).sum() / ROUNDS
            for kind in KINDS:
                hits[kind] += copies.flagged(scores[kind], limits).sum() / ROUNDS / FOLDS
    low, high = clopper_pearson(round(called), len(real.held))
    print(f"  {name}: {len(real.train)} training images; of {len(real.held)} held out {called:.1f} called copies ({low:.4f} to {high:.4f})")
    yield Row(f"{name}: false alarms", called / len(real.held), "", "the stated level", SETTINGS.copy_false_positive, "at most 1")
    for kind in KINDS:
        wanted = "at least 1" if kind in WHOLLY else "at least 0.95" if kind in NAMED else ""
        yield Row(f"{name}: found of {kind}", hits[kind] / COPIES, "", "all", 1.0, wanted)
