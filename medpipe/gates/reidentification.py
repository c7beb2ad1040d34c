"""Re-identification: can a synthetic image be matched to a patient it was learned from, though it is no copy of any image of theirs?

Where patients have several images, a verifier learns on the training split how images of one patient differ (probabilistic linear
discriminant analysis in its two-covariance form: Ioffe 2006; Brümmer & de Villiers 2010) on the gates' features. It is first measured on
patients who were held out: a verifier that cannot tell their images apart proves nothing. Then the best match of each synthetic image
among the training patients is set beside that of held-out patients' images, who cannot be among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.stats import rankdata

from medpipe import seeds
from medpipe.gates import copies, features
from medpipe.gates.table import table
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

SEVERAL_MIN = 20
"""Training patients with several images below this teach no verifier."""
PAIRS_MIN = 20
"""Pairs of images of the same held-out patient below this say nothing of its power."""
POWER_MIN = 0.1
"""True positives at 1 % false ones below this: the verifier proves nothing. Chance reaches 0.01."""
HELD_MIN = 50
"""Held-out images below this set no limit."""
DIRECTIONS = 64
SHRINK = 0.1
"""Part of each covariance that is replaced by its mean variance on the diagonal."""
Features = NDArray[np.float64]


@dataclass(frozen=True)
class Verifier:
    """The log-likelihood ratio of "the same patient" to "two patients" for two images."""

    mean: Features
    project: Features  # (features, directions), to whitened space
    same: Features  # (directions, directions), the quadratic term of each image
    cross: Features
    constant: float

    @classmethod
    def fit(cls, features: Features, patients: NDArray[Any]) -> Verifier:
        """Fit to `features` (N, d) of the training split and whose images they are (N,).

        Raises ValueError where no patient has two images.
        """
        mean = features.mean(0)
        scale = features.std(0) + 1e-9
        _, sizes, right = np.linalg.svd((features - mean) / scale, full_matrices=False)
        kept = int(min(DIRECTIONS, len(features) // 4, (sizes > 1e-6 * sizes[0]).sum())) or 1
        project = (right[:kept].T * (np.float64(len(features)) ** 0.5 / sizes[:kept])) / scale[:, None]
        points = (features - mean) @ project
        numbers = np.unique(patients, return_inverse=True)[1]
        counts = np.bincount(numbers)
        if not (counts > 1).any():
            raise ValueError("no patient has two images")
        means = np.stack([np.bincount(numbers, column) / counts for column in points.T], 1)
        within = _shrunk((points - means[numbers]).T @ (points - means[numbers]) / max(1, len(points) - len(counts)))
        total = _shrunk(np.cov(points, rowvar=False).reshape(kept, kept))
        between = _positive(total - within)
        # two images of a patient share the between part: their joint covariance is [[T, B], [B, T]], that of strangers [[T, 0], [0, T]]
        whole = between + within
        joint = np.block([[whole, between], [between, whole]])
        inverse = np.linalg.inv(joint)
        return cls(
            mean.astype(np.float64),
            np.array(project, np.float64),
            np.array(np.linalg.inv(whole) - inverse[:kept, :kept], np.float64),
            np.array(-inverse[:kept, kept:], np.float64),
            float(np.linalg.slogdet(whole)[1] - 0.5 * np.linalg.slogdet(joint)[1]),
        )

    def __call__(self, one: Features, other: Features) -> Features:
        """Return the ratios (N, M) of features (N, d) and (M, d)."""
        a, b = (one - self.mean) @ self.project, (other - self.mean) @ self.project
        own = [0.5 * np.einsum("nd,de,ne->n", points, self.same, points) for points in (a, b)]
        return np.asarray(own[0][:, None] + own[1][None] + a @ self.cross @ b.T + self.constant)


def _shrunk(matrix: Features) -> Features:
    return np.asarray((1 - SHRINK) * matrix + SHRINK * np.eye(len(matrix)) * (np.trace(matrix) / len(matrix)))


def _positive(matrix: Features) -> Features:
    """Set negative eigenvalues, which an estimate of few patients has, to zero."""
    values, vectors = linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def joined(raw: Mapping[str, Features]) -> Features:
    """Put the gates' own feature spaces side by side."""
    return np.concatenate([raw[name] for name in features.SPACES], axis=1)


def measure(
    train: Features, patients: NDArray[Any], held: Features, held_patients: NDArray[Any], made: Features, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of pairs of held-out images, of the same patient and of two, and the best matches.

    "same" and "other" (n,) are of held-out patients among themselves; "held" and "made" the best match of each held-out and of each
    synthetic image among the training images; "made_held" that of synthetic images among the held-out ones, and "made_some" among as many
    training images: a cohort that repeats nobody is as near to the one as to the other.
    """
    verifier = Verifier.fit(train, patients)
    scores = verifier(held, held)
    first, second = np.triu_indices(len(held), 1)
    equal = held_patients[first] == held_patients[second]
    others = np.flatnonzero(~equal)
    draws = seeds.generator(seed, "gates", "reidentification")
    others = draws.permutation(others)[:100_000]
    some = train[np.sort(draws.permutation(len(train))[: len(held)])]
    return {
        "same": scores[first[equal], second[equal]],
        "other": scores[first[others], second[others]],
        "held": _best(verifier, held, train),
        "made": _best(verifier, made, train),
        "made_some": _best(verifier, made, some),
        "made_held": _best(verifier, made, held),
    }


def _best(verifier: Verifier, images: Features, among: Features) -> Features:
    parts = [verifier(images[k : k + 512], among).max(1) for k in range(0, len(images), 512)]
    return np.concatenate(parts) if parts else np.empty(0)


def auc(same: Features, other: Features) -> float:
    """Area under the ROC curve: how often a pair of one patient scores above a pair of two."""
    ranks = rankdata(np.concatenate([same, other]))[: len(same)]
    return float((ranks.sum() - len(same) * (len(same) + 1) / 2) / (len(same) * len(other)))


def unfit(patients: Sequence[Any], held_patients: Sequence[Any], split: str) -> str | None:
    """Say why patients cannot be re-identified here by `measure`; None where they can."""
    if split == "blocks":
        return "The source does not say which images are of one patient: its splits are blocks of neighbouring rows."
    several = [int((np.unique(people, return_counts=True)[1] > 1).sum()) if len(people) else 0 for people in (patients, held_patients)]
    if not several[0]:
        return "The Dataset has one image of each patient, so nothing can be learned of how two images of one patient are alike."
    if several[0] < SEVERAL_MIN or several[1] < 2:
        return "Too few patients have several images to teach a verifier and to test it on held-out patients."
    return None


@dataclass(frozen=True)
class Found:
    """What the verifier says; no verdict where it proves nothing."""

    verdict: Verdict | None
    table: dict[str, Any] | None
    gap: str | None
    power: str | None
    """How well the verifier tells held-out patients apart, in words."""


def assess(scores: Mapping[str, NDArray[np.float64]], settings: GatesSettings) -> Found:
    """Judge what `measure` found.

    The limit is set on held-out images so that at most `gates.copy_false_positive` of them match a training patient, who is not them.
    The bound is what they may reach, at the upper end of their interval, plus `gates.copy_excess_max`.
    """
    same, other, held, made = (scores[name] for name in ("same", "other", "held", "made"))
    if len(same) < PAIRS_MIN or not len(other) or len(held) < HELD_MIN:
        return Found(None, None, "Too few images of held-out patients to set a limit and to know what the verifier can tell.", None)
    found = int((same > np.quantile(other, 0.99)).sum())
    low, high = copies.clopper_pearson(found, len(same))
    area, power = auc(same, other), found / len(same)
    said = f"tells {100 * power:.0f} % of pairs of images of one held-out patient at 1 % of pairs of two (AUC {area:.2f})"
    limit = float(np.sort(held)[-1 - int(settings.copy_false_positive * len(held))])
    called, hits = int((held > limit).sum()), int((made > limit).sum())
    nearer = [float((scores[name] > limit).mean()) if len(scores[name]) else math.nan for name in ("made_some", "made_held")]
    rows: list[list[str | float | None]] = [
        ["pairs of one held-out patient, at 1 % of pairs of two", power, f"{low:.2f} to {high:.2f}"],
        ["area under the ROC curve", area, None],
        ["held-out images that match a training patient", called / len(held), _interval(called, len(held))],
        ["synthetic images that match a training patient", hits / len(made), _interval(hits, len(made))],
        ["synthetic images that match one of as many training images as were held out", nearer[0], None],
        ["synthetic images that match a held-out image", nearer[1], None],
    ]
    sentence = (
        f"A verifier that learned on training patients {said}. Then each synthetic image's best match among these was sought: "
        "the limit is the one that held-out patients, who are not among them, hardly exceed."
    )
    shown = table("Could a patient be recognised?", sentence, ("figure", "share", "95 %"), rows)
    bound = max(settings.copy_false_positive, copies.clopper_pearson(called, len(held))[1]) + settings.copy_excess_max
    verdict = judge(
        "reidentification",
        "privacy",
        hits / len(made) if len(made) else math.nan,
        copies.clopper_pearson(hits, len(made)),
        bound=bound,
        direction="at most",
        baseline=called / len(held),
        n=len(made),
        meaning="Share of synthetic images that a verifier takes for another image of a training patient; images of held-out patients, who "
        f"are none, are its measure. It {said}.",
        on="interval",
    )
    if power < POWER_MIN and verdict.passed:
        return Found(None, shown, f"The verifier {said}: too weak to prove anything, so its silence is no verdict.", said)
    return Found(verdict, shown, None, said)


def _interval(hits: int, n: int) -> str:
    low, high = copies.clopper_pearson(hits, n)
    return f"{low:.3f} to {high:.3f}"
