"""How alike an image is to the training image that it resembles most, as a whole, in its details and in its regions.

Three looks, each cheaper and wider than the next (facts behind the choice: docs/gates.md). A bank of coarse warps and the votes of
patches give candidates; each is laid onto the query by an affine warp; the best are then bent onto it. What counts
is the information in the bands of detail that the two then share, beside what the other candidates reach with the same query:
noise lowers both. The same code serves images and volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medpipe.gates import detail, registration, two_sources
from medpipe.gates.detail import Seen
from medpipe.gates.gallery import BLOCK, Gallery, shortlist
from medpipe.gates.geometry import grey, pixels, sampled, unit, within
from medpipe.gates.registration import Pairs
from medpipe.gates.two_sources import Queries
from medpipe.gates.votes import Ranking
from medpipe.threads import threads

BY_BANK, BY_VOTES, BY_PATCH = 8, 6, 6
"""Candidates by the bank of warps, by the votes of all patches, and by the best patch alone."""
BENT = 5
"""Candidates that are bent onto the query."""
NEIGHBOURS = 50
EPSILON = 1e-4
PARTS = {"all": slice(0, 4), "coarse": slice(0, 2), "middle": slice(1, 3), "fine": slice(2, 4)}
"""Bands that are counted together."""
MEASURES = (
    "aligned_correlation", "aligned_ratio", "pixel_ratio",
    "information", "information_coarse_3", "information_middle", "information_band_2", "information_band_3", "information_band_4",
    "next_bent", *(f"{of}_{part}" for part in PARTS for of in ("next", "rest")),
    "quarter", "half", "quarter_next", "half_next", "quarter_rest", "half_rest",
    "votes", "votes_next", "votes_spread", "votes_scale", "patch", "patch_next", "patch_spread", "patch_scale",
    "agrees_with_patch", "agrees_with_votes", "straightness",
    "affine_next", "affine_rest", "even_information", "even_next", "even_rest", "even_quarter", "even_quarter_median", "even_quarter_mean",
    "two_sources",
)  # fmt: skip
"""What is measured of an image; higher is more alike.

`aligned_*`: multiple correlation with the best aligned training image (as artanh), and how much better the best fits
than the second best; `pixel_ratio`: how much nearer the nearest is than the 50 nearest are on average; `information*`: logarithm of
the nats shared with the best bent candidate; `quarter`, `half`: the same in the best window of that size; `*_next`, `*_rest`: how far
above the second best, or above the mean of the rest; `affine_*`: before any is bent, since bending flatters the others of a
blend; `votes*`, `patch*`: of all patches, of the best one; `*_spread`, `*_scale`: the lead in units of the candidates' spread, the
best in units of the spread over all training images; `even_*`: of evened detail, the query drawn anew as it lies on the
candidate, as a whole, and in the best, the median and the mean window; `two_sources`:
logarithm of the nats that the weaker of the best two adds to the other.
"""
Measures = NDArray[np.float64]


def measures(gallery: Gallery, images: NDArray[np.unsignedinteger[Any]], own: NDArray[np.int64] | None = None, batch: int = 32) -> Measures:
    """Measure stored images (N, C, …) against the gallery: (N, measures) in the order of MEASURES. NaN where one has no value.

    Training images of the group `own` (N,) of an image are passed over; -1 passes over none.
    """
    apart = np.full(len(images), -1, dtype=np.int64) if own is None else own
    with threads(1), torch.inference_mode():
        parts = [
            _measured(gallery, grey(images[start : start + batch]), torch.from_numpy(apart[start : start + batch]))
            for start in range(0, len(images), batch)
        ]
    return torch.cat(parts).double().numpy() if parts else np.empty((0, len(MEASURES)))


def _measured(gallery: Gallery, queries: Tensor, own: Tensor) -> Tensor:
    ranking = gallery.patches.rank(queries, gallery.groups, own, BY_VOTES, BY_PATCH)
    known, shape = registration.smooth(queries), queries.shape[2:]
    split = detail.bands(queries)
    pairs, n = _candidates(gallery, queries, own, ranking), len(queries)
    shown = gallery.shown(pairs.candidate)
    smooth = registration.smooth(shown)
    pairs = registration.laid(pairs, known, smooth, registration.window(len(shape)))

    def row(values: Tensor) -> Tensor:
        """Give each query a row of its own."""
        return values.reshape(n, -1, *values.shape[1:])

    candidates = row(pairs.candidate)  # (N, K)
    allowed = gallery.groups[candidates] != own[:, None]
    fit = row(_explained(pairs, known[1], smooth[1])) * allowed
    whole = detail.windows(shape)[0]
    of_candidates = detail.bands(shown)
    correlation, counted = detail.correlations(_read(pairs, split, of_candidates, shape), shape, whole)
    sign = torch.where(correlation[:, 1, 0] < 0, -1.0, 1.0)
    nats = row(detail.information(correlation * sign[:, None, None], counted, shape, whole)[..., 0]) * allowed[..., None]  # (N, K, bands)
    even = row(_evened(pairs, queries, shown, sign, [whole])[0][:, 0]) * allowed  # (N, K)

    affine = _distinct(candidates, nats.sum(2))
    top = affine.topk(min(BENT, candidates.shape[1]), dim=1).indices  # (N, B)
    rows = (torch.arange(n)[:, None] * candidates.shape[1] + top).flatten()
    bent = registration.bent(pairs.chosen(rows), known, [part[rows] for part in smooth])
    fits, seen = allowed.gather(1, top), _read(bent, split, of_candidates[rows], shape).signed(sign[rows])
    held = row(detail.nats(seen, shape, whole)[..., 0]) * fits[..., None]
    winner = held.sum(2).argmax(1)
    best = candidates.gather(1, top).gather(1, winner[:, None])  # (N, 1)
    of_all, of_windows = _evened(bent, queries, shown[rows], sign[rows], detail.windows(shape)[:2])
    even_held, quarters = row(of_all[:, 0]) * fits, row(of_windows) * fits[..., None]  # (N, B), (N, B, windows)
    knots = row(bent.knots.flatten(1).norm(dim=1)).gather(1, winner[:, None])[:, 0] if bent.knots is not None else torch.zeros(n)

    of_patches = gallery.shown(ranking.single.flatten())
    by_patch = _read(_by_patch(gallery, queries, known, ranking, of_patches), split, detail.bands(of_patches), shape)
    permitted = gallery.groups[ranking.single] != own[:, None]
    sizes = detail.windows(shape)[1:2], detail.windows(shape)[2:]
    spans = [row(_windowed(by_patch, shape, those)) * permitted for those in sizes]  # (N, R) each
    regions = [torch.cat([row(_windowed(seen, shape, those)) * fits, span], 1) for those, span in zip(sizes, spans, strict=True)]
    return torch.stack(
        [
            *_fits(fit, candidates != best),
            _pixels(gallery, queries, own),
            *_shared(held, winner),
            *_beside(held[torch.arange(n), winner], nats, candidates != best),
            *(torch.log(part.max(1).values + 0.5) for part in regions),
            *(_lead(part) for part in spans),
            *(_over_rest(part) for part in spans),
            *_voted(ranking),
            (best[:, 0] == ranking.single[:, 0]).float(),
            (best[:, 0] == ranking.whole[:, 0]).float(),
            -torch.log(knots + 0.05),
            _lead(affine.clamp_min(0)),
            _over_rest(affine.clamp_min(0)),
            *_shared_evenly(even_held, even, candidates, candidates.gather(1, top)),
            *_window_by_window(quarters),
            torch.log(two_sources.weaker(Queries(gallery, split, own), pairs, of_candidates, allowed, affine.argmax(1)) + 0.1),
        ],
        1,
    )


def _candidates(gallery: Gallery, queries: Tensor, own: Tensor, ranking: Ranking) -> Pairs:
    """Pair each query with the best by the bank, under its warp, and by the votes, as they lie: (N · K,)."""
    index, warps, mirrors = shortlist(gallery, queries, own, BY_BANK)
    n = len(queries)
    by_bank = Pairs(torch.arange(n).repeat_interleave(index.shape[1]), index.flatten(), warps.flatten(0, 1), mirrors.flatten(0, 1))
    return by_bank.beside(Pairs.straight(ranking.whole, gallery.patches.mirrors[ranking.whole_mirror]), n)


def _by_patch(gallery: Gallery, queries: Tensor, known: Sequence[Tensor], ranking: Ranking, shown: Tensor) -> Pairs:
    """Lay each query onto the training images of which one patch is most alike, `shown` (Z, 1, …), by that patch alone."""
    axes, count = queries.ndim - 2, ranking.single.shape[1]
    patches = gallery.patches
    warp = torch.eye(axes, axes + 1).repeat(len(queries) * count, 1, 1)
    warp[..., -1] = patches.moves[ranking.move.flatten()]
    query = torch.arange(len(queries)).repeat_interleave(count)
    pairs = Pairs(query, ranking.single.flatten(), warp, patches.mirrors[ranking.single_mirror.flatten()])
    return registration.laid(pairs, known[1:], registration.smooth(shown)[1:], patches.window, patches.centres[ranking.patch.flatten()])


def _read(pairs: Pairs, split: Tensor, of_candidates: Tensor, shape: torch.Size) -> Seen:
    """Read the bands of each pair's query (N, bands, …) and candidate (Z, bands, …) on the lattice."""
    at = detail.lattice(shape)
    known = sampled(of_candidates, at.expand(len(pairs.query), -1, -1))
    places = pairs.places(at)
    return Seen(sampled(split[pairs.query], places), known, within(places, shape))


def _evened(pairs: Pairs, queries: Tensor, shown: Tensor, sign: Tensor, sizes: list[tuple[int, ...]]) -> list[Tensor]:
    """Nats of evened detail that each pair shares, its candidate `shown` (Z, 1, …): (Z, windows) for each of the `sizes` of windows."""
    shape, at = queries.shape[2:], detail.lattice(queries.shape[2:])
    drawn = sampled(queries[pairs.query], pairs.places(pixels(shape))).reshape(len(pairs.query), 1, *shape)
    seen = sampled(detail.evened(drawn), at.expand(len(drawn), -1, -1)) * sign[:, None, None]
    known = sampled(detail.evened(shown), at.expand(len(drawn), -1, -1))
    both = Seen(seen, known, within(pairs.places(at), shape))
    return [detail.nats(both, shape, size).sum(1) for size in sizes]


def _windowed(seen: Seen, shape: torch.Size, sizes: list[tuple[int, ...]]) -> Tensor:
    """Nats in the best window of any of the `sizes`, (Z,)."""
    return torch.stack([detail.nats(seen, shape, size).sum(1).max(1).values for size in sizes]).max(0).values


def _explained(pairs: Pairs, queries: Tensor, known: Tensor) -> Tensor:
    window = registration.window(queries.ndim - 2)
    places = pairs.places(window)
    counts = within(places, queries.shape[2:])
    target = unit(sampled(known, window.expand(len(pairs.query), -1, -1))[:, 0], counts)
    return explained(unit(sampled(queries[pairs.query], places)[:, 0], counts), target, counts)


def explained(value: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Multiple correlation of `target` with `value` and its square, both unit vectors (N, P) of what `counts`: (N,).

    The square lets a regraded copy (gamma, contrast, even a negative) be the copy that it is.
    """
    square = unit(value**2, counts)
    square = square - (square * value).sum(1, keepdim=True) * value
    square = square / square.norm(dim=1, keepdim=True).clamp_min(1e-4)
    return torch.hypot((value * target).sum(1), (square * target).sum(1)).clamp_max(1)


def _distinct(candidates: Tensor, score: Tensor) -> Tensor:
    """Put all but the best of the places that name the same candidate out of the running."""
    same = candidates[:, :, None] == candidates[:, None, :]
    count = candidates.shape[1]
    earlier = torch.ones(count, count).tril(-1).bool()
    better = (score[:, None, :] > score[:, :, None]) | ((score[:, None, :] == score[:, :, None]) & earlier)
    return score.masked_fill((same & better).any(2), -1.0)


def _fits(fit: Tensor, other: Tensor) -> list[Tensor]:
    best = (fit * ~other).max(1).values
    ratio = -torch.log((1 - best + EPSILON) / (1 - (fit * other).max(1).values + EPSILON))
    return [torch.atanh(fit.max(1).values.clamp(-0.99999, 0.99999)), ratio]


def _pixels(gallery: Gallery, queries: Tensor, own: Tensor) -> Tensor:
    flat, near = queries.flatten(1), torch.empty(len(queries), 0)
    furthest = 4.0 * flat.shape[1]  # images lie in [-1, 1]
    for known, groups in zip(torch.split(gallery.images, BLOCK), torch.split(gallery.groups, BLOCK), strict=True):
        training = known.flatten(1).float()
        square = ((flat**2).sum(1)[:, None] + (training**2).sum(1) - 2 * flat @ training.T).clamp_min(0)
        near = torch.cat([near, square.masked_fill(groups == own[:, None], furthest)], 1)
        near = near.topk(min(NEIGHBOURS, near.shape[1]), largest=False).values
    return -0.5 * torch.log((near[:, 0] + EPSILON) / (near.mean(1) + EPSILON))


def _shared(held: Tensor, winner: Tensor) -> list[Tensor]:
    """Nats of the best candidate, by bands; and how far it leads."""
    groups = (slice(0, 4), slice(0, 3), slice(1, 3), slice(1, 2), slice(2, 3), slice(3, 4))
    return [*(torch.log(held[..., part].sum(2).max(1).values + 0.1) for part in groups), _lead(held.sum(2))]


def _shared_evenly(held: Tensor, nats: Tensor, candidates: Tensor, bent: Tensor) -> list[Tensor]:
    """Nats of evened detail of the best bent candidate of `held` (N, B), and how far it leads the others' `nats` (N, K)."""
    most, which = held.max(1)
    return [torch.log(most + 0.1), *_ahead(most, nats, candidates != bent.gather(1, which[:, None]))]


def _ahead(best: Tensor, nats: Tensor, other: Tensor) -> list[Tensor]:
    """How far the best (N,) leads the second best, and the mean, of the others' `nats` (N, K)."""
    others = nats * other
    mean = others.sum(1) / other.sum(1).clamp_min(1)
    return [torch.log((best + 0.5) / (rival + 0.5)) for rival in (others.max(1).values, mean)]


def _window_by_window(nats: Tensor) -> list[Tensor]:
    """Nats (N, B, windows) of the best window of any candidate, of the best median, and of the best mean."""
    return [torch.log(nats.amax((1, 2)) + 0.5), torch.log(nats.median(2).values.amax(1) + 0.1), torch.log(nats.mean(2).amax(1) + 0.1)]


def _beside(best: Tensor, nats: Tensor, other: Tensor) -> list[Tensor]:
    """How far the best (N, bands) leads the others' `nats` (N, K, bands), in all bands and in parts of them."""
    return [lead for part in PARTS.values() for lead in _ahead(best[:, part].sum(1), nats[..., part].sum(2), other)]


def _lead(scores: Tensor) -> Tensor:
    best = torch.cat([scores, torch.zeros(len(scores), 1)], 1).topk(2, dim=1).values
    return torch.log((best[:, 0] + 0.5) / (best[:, 1] + 0.5))


def _over_rest(scores: Tensor) -> Tensor:
    best = scores.max(1).values
    rest = (scores.sum(1) - best) / max(1, scores.shape[1] - 1)
    return torch.log((best + 0.5) / (rest + 0.5))


def _voted(ranking: Ranking) -> list[Tensor]:
    found = []
    for scores, mean, spread, least in (
        (ranking.whole_score, ranking.mean, ranking.spread, 0.15),
        (torch.atanh(ranking.single_score.clamp(-0.999, 0.999)), ranking.single_mean, ranking.single_spread, 0.05),
    ):
        ordered = torch.cat([scores, scores[:, -1:]], 1)  # a lone candidate is its own second
        lead = ordered[:, 0] - ordered[:, 1]
        found += [ordered[:, 0], lead, lead / (ordered[:, 1] - ordered[:, -1] + least), (ordered[:, 0] - mean) / spread]
    return found
