"""The jobs of the search for copies: candidates, planted copies, and copies to practise on, measured against the training images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds, store
from medpipe.gates import alignment, copies
from medpipe.gates.gallery import MAPPED, Gallery
from medpipe.gates.job import GALLERY, PLAN, Arrays, Job, found
from medpipe.gates.room import Room
from medpipe.images.dataset import Dataset


def prepared(job: Job) -> Arrays:
    """The gallery of the training images, once for all workers: they map its files, and hold none of it."""
    data, plan, room = Dataset.open(job.dataset), found(job.state, PLAN), Room(job.state)
    gallery = Gallery.made(lambda part: data.images(plan["train"][part]), plan["patients"], room)
    room.keep(MAPPED)
    return gallery.arrays


@lru_cache(maxsize=1)
def _gallery(state: Path, made: int) -> Gallery:
    """One worker does many jobs of one run; a long-lived one may meet the same folder again, with what was `made` at another time."""
    return Gallery.opened(found(state, GALLERY), Room(state))


def searched(job: Job, images: store.Images, own: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Measure images (N, C, …) against the training images, but for those of the patient `own` (N,)."""
    made = (job.state / f"{GALLERY}.npz").stat().st_mtime_ns
    return alignment.measures(_gallery(job.state, made), images, own)


def digests(images: store.Images) -> NDArray[np.uint8]:
    """Return the canonical digests of images (N, C, …) as numbers, (N, 32)."""
    return np.frombuffer(b"".join(copies.canonical_digests(images)), dtype=np.uint8).reshape(len(images), -1)


def planted(job: Job) -> Arrays:
    """Copies of one family, made of training images and measured like any candidate."""
    seed, settings = job.settings
    draws = seeds.generator(seed, "gates", "planted", job.what)
    plan = found(job.state, PLAN)
    sources = draws.permutation(len(plan["train"]))[: settings.copy_planted]
    images, others, lent = _pairs(job, sources, draws)
    made = copies.planted(images, others, job.what, draws)
    return {"copy_measures": searched(job, made, lent if job.what in copies.BORROWING else None), "digests": digests(made)}


def practised(job: Job) -> Arrays:
    """Altered copies; or what is none: training images, as they are or altered too, searched for among those of the other patients,
    and images that show no patient."""
    seed, _ = job.settings
    plan = found(job.state, PLAN)
    train = len(plan["train"])
    order = seeds.generator(seed, "gates", "practice", job.what).permutation(train)
    sources = order[np.arange(job.start, job.stop) % train]
    draws = seeds.generator(seed, "gates", "practice", job.what, str(job.start))
    if job.what in ("real", "altered", "strange"):
        images = Dataset.open(job.dataset).images(plan["train"][sources])
        if job.what == "strange":
            return {"copy_measures": searched(job, copies.strange(images, draws))}
        shown = copies.practised(images, images, draws) if job.what == "altered" else images
        return {"copy_measures": searched(job, shown, plan["patients"][sources])}
    images, others, lent = _pairs(job, sources, draws)
    lent = np.where(draws.random(len(lent)) < copies.KNOWN, -1, lent)
    return {"copy_measures": searched(job, copies.practised(images, others, draws), lent)}


def _pairs(job: Job, sources: NDArray[np.int64], draws: np.random.Generator) -> tuple[store.Images, store.Images, NDArray[np.int64]]:
    """Return the training images `sources`, as many others, and the patients of these; -1 where it is the source's own."""
    data, plan = Dataset.open(job.dataset), found(job.state, PLAN)
    partners = draws.integers(0, len(plan["train"]), len(sources))
    patients: NDArray[Any] = plan["patients"]
    lent = np.where(patients[partners] == patients[sources], -1, patients[partners])
    return data.images(plan["train"][sources]), data.images(plan["train"][partners]), lent
