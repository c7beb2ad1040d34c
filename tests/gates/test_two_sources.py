"""Blends of two training images: what both explain, and that each is laid onto what the other leaves."""

from __future__ import annotations

import numpy as np
import torch
from builders_gates import people

from medpipe.gates import alignment, detail, two_sources
from medpipe.gates.alignment import MEASURES
from medpipe.gates.gallery import Gallery
from medpipe.gates.geometry import grey, unit
from medpipe.gates.registration import Pairs

STILL = torch.eye(2, 3)


def straight(candidates: torch.Tensor) -> Pairs:
    """One pair a query, as it lies."""
    return Pairs.straight(candidates[:, None], torch.ones(len(candidates), 1, 2))


def test_what_a_second_source_adds_is_what_regression_says() -> None:
    draws = np.random.default_rng(0)
    query, one, two = draws.normal(size=(3, 400))
    query = query + 0.5 * one + 0.7 * (two := two + 0.4 * one)
    q, a, b = (unit(torch.from_numpy(vector)) for vector in (query, one, two))
    alone = torch.stack([a @ q, b @ q])[None, None]
    between = torch.stack([a, b]) @ torch.stack([a, b]).T
    added = two_sources._added(alone, between[None, None])[0, 0]

    def left(*of: np.ndarray) -> float:
        known = np.stack([*of, np.ones(400)], 1)
        return float(np.linalg.lstsq(known, query, rcond=None)[1][0])

    assert torch.isclose(added[0, 1], torch.tensor(0.5 * np.log(left(one) / left(one, two))))
    assert torch.isclose(added[1, 0], torch.tensor(0.5 * np.log(left(two) / left(one, two))))
    taken_away = two_sources._added(alone * torch.tensor([1.0, -1.0]), between[None, None])[0, 0]
    assert taken_away[0, 1] == 0


def test_points_of_the_query_are_found_again_on_the_candidate() -> None:
    warp = torch.tensor([[[0.9, 0.2, 0.1], [-0.3, 1.1, -0.2]]])
    pairs = Pairs(torch.tensor([0]), torch.tensor([0]), warp, torch.tensor([[-1.0, 1.0]]))
    at = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(pairs.back(pairs.places(at)[0])[0], at, atol=1e-5)
    flat = Pairs(torch.tensor([0]), torch.tensor([0]), torch.zeros(1, 2, 3), torch.ones(1, 2))
    assert flat.back(at).isfinite().all()


def test_what_one_source_leaves_of_a_blend_is_the_other() -> None:
    images = people(12, 1)[0]
    gallery, every = Gallery.of(images), torch.arange(6)
    shown = gallery.shown(torch.arange(12))
    blended = 0.5 * shown[:6] + 0.5 * shown[6:]
    queries = two_sources.Queries(gallery, detail.bands(blended), torch.full((6,), -1))
    one, two = (two_sources._drawn(queries, straight(part)) for part in (every, every + 6))
    wanted = unit(shown[6:].flatten(1))
    assert ((unit(two_sources._left(queries, one, beside=two).flatten(1)) * wanted).sum(1) > 0.998).all()
    assert ((unit(two_sources._left(queries, one).flatten(1)) * wanted).sum(1) < 0.9).all()  # what both share is taken off with the one


def test_a_blend_of_two_training_images_is_told_from_real_images_though_each_source_was_moved() -> None:
    images, side = people(150, 1, side=32)[0], 32
    gallery = Gallery.of(images)
    moved = np.roll(images[:24], 1, axis=-1)
    blends = np.rint(0.5 * moved + 0.5 * images[60:84].astype(np.float64)).astype(np.uint8)
    assert grey(blends).shape[-1] == side
    found, real = (alignment.measures(gallery, part) for part in (blends, people(100, 2, side=32)[0]))
    place = MEASURES.index("two_sources")
    assert (found[:, place] > np.quantile(real[:, place], 0.98)).mean() >= 0.7


def test_without_a_second_patient_nothing_is_explained_by_two() -> None:
    images = people(3, 1)[0]
    found = alignment.measures(Gallery.of(images, np.array([0, 0, 1])), images[:1], np.array([0]))
    assert found[0, MEASURES.index("two_sources")] == np.float32(np.log(np.float32(0.1)))
