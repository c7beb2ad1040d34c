"""How well an attacker tells members from others: one attacker made of many scores, and what he reaches.

Members are training images, others are images of held-out patients. The attacker is a logistic regression on all scores and on
how hard an image is by itself, learned on half of both and tried on the other half, and the other way round: as if he knew of half
of the people whether they were in (a strong attacker; Carlini et al. 2022 say why he is measured where he is nearly sure).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression

from medpipe.gates.copies import clopper_pearson

Values = NDArray[np.float64]
RATES = (0.01, 0.001)
"""False-positive rates at which an attack is measured."""
PENALTY = 0.3
"""Inverse strength of the ridge penalty: few images have to bear a dozen scores."""


@dataclass(frozen=True)
class Strength:
    """What an attack reaches."""

    auc: float
    low: float
    high: float
    """95 % interval of the AUC (DeLong et al. 1988)."""
    at: tuple[tuple[float, float, float] | None, ...]
    """For each of RATES the share of members found, with its Clopper-Pearson interval; None where too few others were held out."""


def strength(members: Values, others: Values) -> Strength:
    """Measure an attack whose scores (N,) and (M,) are high where it says "member"; NaN where either is empty."""
    if not len(members) or not len(others) or not (np.isfinite(members).all() and np.isfinite(others).all()):
        return Strength(math.nan, math.nan, math.nan, tuple(None for _ in RATES))
    n, m = len(members), len(others)
    ranks = stats.rankdata(np.concatenate([members, others]))
    of_members = (ranks[:n] - stats.rankdata(members)) / m  # share of others below each member, ties half
    of_others = 1 - (ranks[n:] - stats.rankdata(others)) / n
    auc = float(of_members.mean())
    spread = math.sqrt(_variance(of_members) / n + _variance(of_others) / m)
    return Strength(auc, max(0.0, auc - 1.96 * spread), min(1.0, auc + 1.96 * spread), tuple(_found(members, others, r) for r in RATES))


def _variance(values: Values) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25


def _found(members: Values, others: Values, rate: float) -> tuple[float, float, float] | None:
    if len(others) * rate < 1:
        return None
    limit = np.sort(others)[::-1][int(len(others) * rate)]
    hits = int((members > limit).sum())
    return (hits / len(members), *clopper_pearson(hits, len(members)))


def chance(members: int, others: int) -> float:
    """Return the upper end (97.5 %) of the AUC of an attack that knows nothing (Mann and Whitney 1947)."""
    if not members or not others:
        return math.nan
    return min(1.0, 0.5 + 1.96 * math.sqrt((members + others + 1) / (12 * members * others)))


def calibrated(scores: Values, hardness: Values, members: NDArray[np.bool_], fold: NDArray[np.int64]) -> Values:
    """Take off each score (N, k) what the image's own statistics (N, h) foretell, by ridge regression on the others of the other fold.

    It is what a likelihood ratio does with a reference model (Watson et al. 2022): an image is no member because it is easy.
    """
    out = np.empty_like(scores)
    known = _design(hardness)
    for number in (0, 1):
        learn, apply = ~members & (fold != number), fold == number
        ridge = known[learn].T @ known[learn] + np.eye(known.shape[1])
        out[apply] = scores[apply] - known[apply] @ np.linalg.solve(ridge, known[learn].T @ scores[learn])
    return out


def _design(hardness: Values) -> Values:
    """Return standardised statistics, their squares and a constant."""
    scaled = _standard(hardness)
    return np.concatenate([scaled, scaled**2, np.full((len(hardness), 1), 10.0)], axis=1)  # so that the penalty spares the constant


def _standard(values: Values) -> Values:
    return np.asarray((values - values.mean(0)) / np.maximum(values.std(0), 1e-9))


def folds(members: NDArray[np.bool_], draws: np.random.Generator) -> NDArray[np.int64]:
    """Cut members and others into two halves each: 0 or 1 (N,)."""
    fold = np.zeros(len(members), np.int64)
    for part in (members, ~members):
        places = draws.permutation(np.flatnonzero(part))
        fold[places[len(places) // 2 :]] = 1
    return fold


def combined(known: Values, members: NDArray[np.bool_], fold: NDArray[np.int64]) -> Values:
    """Return the logit of membership (N,) by an attacker who learned it from `known` (N, k) of the other half."""
    scaled, out = _standard(known), np.empty(len(known))
    for number in (0, 1):
        learn, apply = fold != number, fold == number
        learner = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=500)
        out[apply] = learner.fit(scaled[learn], members[learn]).decision_function(scaled[apply])
    return out
