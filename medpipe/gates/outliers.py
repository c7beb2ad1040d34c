"""How far each image lies from the training images: far ones are outliers, a cohort that is near throughout repeats patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import binom, rankdata

from medpipe.gates import copies, copy_gate
from medpipe.gates.copies import clopper_pearson
from medpipe.gates.copy_gate import UNCERTIFIED
from medpipe.gates.measures import GATED
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

Distances = NDArray[np.float64]
K = 5
"""Neighbours whose mean distance says how far an image lies out."""
ROWS = 256
UNUSUAL = 4
"""The gate counts images beyond a nearer limit, which this many times as many real images pass: a share is told from 0 by many."""
NEARER = 0.1
"""How far above one half the chance to lie nearer than a held-out image may be: paler images lie a little nearer too."""


def distances(features: Mapping[str, NDArray[np.float64]], train: Mapping[str, NDArray[np.float64]]) -> tuple[Distances, Distances]:
    """Return the mean distance to the K nearest training images and the distance to the nearest one, by space: (N, spaces) each."""
    far, near = [], []
    for space, values in features.items():
        k = min(K, len(train[space]))
        found = []
        for start in range(0, len(values), ROWS):
            found.append(np.sort(np.partition(cdist(values[start : start + ROWS], train[space]), k - 1, axis=1)[:, :k], axis=1))
        nearest = np.concatenate(found) if found else np.empty((0, k))
        far.append(nearest.mean(1))
        near.append(nearest[:, 0])
    return np.stack(far, axis=1), np.stack(near, axis=1)


def limits(held: Distances, settings: GatesSettings) -> NDArray[np.float64]:
    """Set two limits per space, that of outliers and the nearer one of unusual images: (2, spaces).

    At most the stated share of held-out images (N, spaces), or UNUSUAL times it, lies beyond any.
    NaN where there are too few, infinite where nobody looks.
    """
    if len(held) < copy_gate.HOLDOUT_MIN or not np.isfinite(held).all():
        return np.full((2, held.shape[1]), math.nan)
    level = settings.outlier_false_positive
    if not level:
        return np.full((2, held.shape[1]), math.inf)
    return np.stack([copies.thresholds(held, share) for share in (level, UNUSUAL * level)])


def beyond(far: Distances, limit: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which images (N, spaces) are outliers by `limit` (2, spaces), (N,); where there is no limit, those that could not be measured."""
    out = copies.flagged(far, limit[0]) if np.isfinite(limit).all() else ~np.isfinite(far).all(axis=1)
    return np.asarray(out, dtype=np.bool_)


def assess(cohort: Distances, held: Distances, limit: NDArray[np.float64], settings: GatesSettings) -> tuple[Verdict, NDArray[np.bool_]]:
    """Judge the share of unusual images in the cohort (N, spaces); return the verdict and which images are outliers."""
    certifiable, n = bool(np.isfinite(limit).all()), len(cohort)
    hits, called = (int(copies.flagged(part, limit[1]).sum()) if certifiable else 0 for part in (cohort, held))
    real = max(UNUSUAL * settings.outlier_false_positive, clopper_pearson(called, len(held))[1])
    chance = int(binom.ppf(1 - settings.family_level / (2 * len(GATED)), n, real)) if n else 0  # of real images as many, at the level
    verdict = judge(
        "outliers",
        "fidelity",
        hits / n if certifiable and n else math.nan,
        clopper_pearson(hits, n),
        bound=max(real + settings.outlier_excess_max, clopper_pearson(chance, n)[1]),
        direction="at most",
        baseline=called / len(held) if certifiable else math.nan,
        n=n,
        meaning="Share of synthetic images that lie further from every training image than all but a few images of other real patients: "
        "turned, damaged or impossible ones. The furthest are withheld; too many mean that the model makes such images."
        if certifiable
        else UNCERTIFIED,
        on="interval",
    )
    return verdict, beyond(cohort, limit)


def nearness(cohort: NDArray[np.float64], held: NDArray[np.float64], patients: NDArray[np.int64] | None) -> tuple[float, float]:
    """Return the chance that a synthetic image lies nearer to its nearest training image than a held-out one, and by how many
    standard errors that is above one half by more than NEARER.

    The data-copying test of Meehan et al. 2020 (equation 2, a Mann-Whitney U), with the errors of DeLong et al. 1988 and, where a
    patient has several images, patients as the units. `cohort` (N,), `held` (M,) distances to the nearest training image.
    """
    n, m = len(cohort), len(held)
    together = rankdata(np.concatenate([cohort, held]))
    of_held = (together[n:] - rankdata(held)) / n  # share of the cohort that is nearer than each held-out image
    of_cohort = 1 - (together[:n] - rankdata(cohort)) / m
    chance = float(of_held.mean())
    if patients is None:
        error = of_held.var() / m
    else:
        _, who = np.unique(patients, return_inverse=True)
        sums = np.bincount(who, of_held - chance)
        error = float(np.square(sums).sum()) / m**2
    least = (n + m + 1) / (12 * n * m)  # of two equal distributions
    return chance, (chance - 0.5 - NEARER) / math.sqrt(max(error + of_cohort.var() / n, least))


def too_near(names: Sequence[str], cohort: Distances, held: Distances, patients: NDArray[np.int64] | None) -> dict[str, float]:
    """Return by how many standard errors the cohort is too near to the training images beside held-out ones of `patients`, by space;
    empty where there are too few of these."""
    if len(held) < copy_gate.HOLDOUT_MIN:
        return {}
    return {
        f"nearness, {name}": nearness(cohort[:, k], held[:, k], patients)[1]
        for k, name in enumerate(names)
        if name in ("learned", "pixels")
    }
