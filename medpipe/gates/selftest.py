"""The gates' own test: cohorts that are known to be bad have to be rejected, in every run, or its verdicts prove nothing.

The holdout is cut in two, between patients. One half is spoiled in a known way and judged as a cohort, with the other half as the
holdout; unspoiled it is the ideal cohort, images of other real patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.gates import copies, fidelity_gate, likeness, outliers
from medpipe.gates.conditions import CLASS
from medpipe.gates.copy_gate import HOLDOUT_MIN
from medpipe.gates.fidelity_gate import Sample
from medpipe.gates.frozen import Frozen
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

Images = NDArray[np.unsignedinteger[Any]]
Labels = NDArray[np.int64]
IDEAL = "ideal"
COPIES = "training images"
UNCERTIFIABLE = "not certifiable"
FAULTS: dict[str, bool] = {
    "10 images repeated": True,
    "a quarter of the images repeated": False,
    "blur 0.5 px": False,
    "blur 1 px": True,
    "noise 2 %": False,
    "noise 6 %": True,
    "gamma 1.15": False,
    "gamma 1.4": True,
    "contrast 0.9": False,
    "contrast 0.6": True,
    "JPEG quality 30": False,
    "JPEG quality 10": False,
    "10 % upside down": False,
    "half upside down": True,
    "10 % mirrored": False,
    "all mirrored": False,
    "a class missing": True,
    "rarest class at 3 %": False,
    "20 % of labels swapped": False,
    "labels swapped": False,
    COPIES: False,
}
"""Each fault, and whether it must be rejected: the others show from which strength on faults are seen."""
LABELLED = ("a class missing", "rarest class at 3 %", "20 % of labels swapped", "labels swapped")
"""Faults that need classes."""
RESAMPLES = 20
HALF_MIN = HOLDOUT_MIN
"""Fewest images in each half of the holdout."""


def halves(
    strata: Labels, draws: np.random.Generator, patients: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut held-out images of the classes `strata` (N,) into places (to spoil, to judge by): no one of the `patients` (N,) is in both.

    Half of each class goes to either, as nearly as whole patients allow: in halves of unequal mix one class may be too few to draw
    from, and what then cannot be certified would count as rejected. Patients with most images are dealt first, each to the half
    that has less of its classes.
    """
    _, person = np.unique(np.arange(len(strata)) if patients is None else patients, return_inverse=True)
    _, number = np.unique(strata, return_inverse=True)
    counts = np.zeros((person.max(initial=-1) + 1, number.max(initial=0) + 1))
    np.add.at(counts, (person, number), 1)
    excess, judging = np.zeros(counts.shape[1]), np.zeros(len(counts), dtype=np.bool_)  # of the half to judge by
    for who in np.lexsort((draws.random(len(counts)), counts.argmax(1), -counts.sum(1))):
        lead, whole = excess @ counts[who], excess.sum()
        judging[who] = lead < 0 or (lead == 0 and whole <= 0)
        excess += counts[who] if judging[who] else -counts[who]
    judging ^= excess.sum() < 0  # the larger half judges
    return np.flatnonzero(~judging[person]), np.flatnonzero(judging[person])


def applicable(classes: int, holdout: int) -> list[str]:
    """Return the cohorts that can be tried; none where the holdout is too small to be halved."""
    return [name for name in (IDEAL, *FAULTS) if classes > 1 or name not in LABELLED] if holdout >= 2 * HALF_MIN else []


def spoil(images: Images, labels: Labels, fault: str, draws: np.random.Generator) -> tuple[Images, Labels]:
    """Return images (N, C, …) and labels (N,) with a fault; their number may fall."""
    top = float(np.iinfo(images.dtype).max)
    everyone = np.arange(len(images))
    match fault.split():
        case ["10", "images", *_]:
            rows = _repeated(labels, 10 / len(images), draws)
            return images[rows], labels[rows]
        case ["a", "quarter", *_]:
            rows = _repeated(labels, 0.25, draws)
            return images[rows], labels[rows]
        case ["blur", strength, _]:
            spread = (0, 0, *[float(strength)] * (images.ndim - 2))
            return _stored(ndimage.gaussian_filter(images.astype(np.float32), spread), images), labels
        case ["noise", strength, _]:
            return _stored(images + draws.normal(0, float(strength) / 100 * top, images.shape), images), labels
        case ["gamma", strength]:
            return _stored((images / top) ** float(strength) * top, images), labels
        case ["contrast", strength]:
            return _stored((images - top / 2) * float(strength) + top / 2, images), labels
        case ["JPEG", "quality", quality]:
            return _stored(copies.jpeg(images / top, int(quality)) * top, images), labels
        case [share, *_, "down" | "mirrored" as how]:
            turned = images.copy()
            some = draws.permutation(everyone)[: len(images) // {"10": 10, "half": 2, "all": 1}[share]]
            turned[some] = np.flip(images[some], axis=2 if how == "down" else -1)
            return turned, labels
        case ["a", "class", "missing"]:
            rows = np.flatnonzero(labels != _rarest(labels))
            return images[rows], labels[rows]
        case ["rarest", *_]:
            rare = np.flatnonzero(labels == _rarest(labels))
            others = np.flatnonzero(labels != _rarest(labels))
            rows = np.concatenate([others, rare[: max(1, round(0.03 * len(others) / 0.97))]])
            return images[rows], labels[rows]
        case [*some, "labels", "swapped"]:
            known = np.unique(labels[labels >= 0])
            following = dict(zip(known.tolist(), np.roll(known, 1).tolist(), strict=True)) | {-1: -1}
            swapped = np.array([following[label] for label in labels.tolist()], dtype=np.int64)
            return images, np.where(draws.random(len(labels)) < (0.2 if some else 1), swapped, labels)
        case _:
            return images, labels


def _repeated(labels: Labels, share: float, draws: np.random.Generator) -> NDArray[np.int64]:
    """Return the places of a share of the images of each class (one at least), again and again: the mix of the classes stays."""
    rows = np.arange(len(labels))
    for number in np.unique(labels):
        mine = np.flatnonzero(labels == number)
        rows[mine] = draws.choice(mine[: max(1, round(share * len(mine)))], len(mine))
    return rows


def _rarest(labels: Labels) -> int:
    known, counts = np.unique(labels[labels >= 0], return_counts=True)
    return int(known[counts.argmin()]) if len(known) else -1


def _stored(values: NDArray[np.floating[Any]], like: Images) -> Images:
    stored: Images = np.rint(np.clip(values, 0, np.iinfo(like.dtype).max)).astype(like.dtype)
    return stored


def rejected_by(
    frozen: Frozen, train: Sample, cohort: Sample, classes: int, settings: GatesSettings, seed: int, resamples: int = RESAMPLES
) -> list[str]:
    """Return the gates that fail a cohort, of those on likeness, on outliers, on conditions and on the classes' shares.

    `frozen` is the yardstick that was fixed on the other half of the holdout. Of a cohort with too few images of a class to be
    compared, UNCERTIFIABLE stands for the gates that had nothing to measure.
    """
    far, near = outliers.distances(cohort.features, train.features)
    truths = {probe.name: (probe.values, np.where(cohort.strata >= 0, cohort.strata, np.nan)) for probe in frozen.probes}
    assert set(truths) <= {CLASS}, "the gates' own test knows classes only"
    judged = likeness.judge(frozen, train, cohort, far, near, np.arange(len(cohort)), truths, settings, resamples, seed)
    verdicts: list[Verdict | None] = list(judged.verdicts)
    if classes > 1:
        made, trained = (_counts(sample, classes) for sample in (cohort, train))
        verdicts.append(fidelity_gate.composition(made, trained, trained, "as_trained", settings))
    failed = [verdict for verdict in verdicts if verdict is not None and not verdict.passed]
    if frozen.baseline.size_for(cohort)[0]:
        return [verdict.name for verdict in failed]
    return [UNCERTIFIABLE, *(verdict.name for verdict in failed if math.isfinite(verdict.value))]


def _counts(sample: Sample, classes: int) -> Labels:
    return np.bincount(sample.strata[sample.strata >= 0], minlength=classes).astype(np.int64)


def table(rejected: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return one row per cohort that was tried: what it was, which gates rejected it, and whether they had to."""
    return [{"what": name, "rejected_by": list(gates), "required": FAULTS.get(name, False)} for name, gates in rejected.items()]


def assess(rows: Sequence[Mapping[str, Any]], n: int) -> Verdict | None:
    """Judge whether every cohort that had to be rejected was; None where none was tried.

    A gate that rejects the ideal cohort too does not count: it has not told the one from the other.
    """
    required = [row for row in rows if row["required"]]
    if not required:
        return None
    blind = {gate for row in rows if row["what"] == IDEAL for gate in row["rejected_by"]}
    missed = [row["what"] for row in required if not set(row["rejected_by"]) - blind]
    share = 1 - len(missed) / len(required)
    return judge(
        "gates_self_test",
        "fidelity",
        share,
        (share, share),
        bound=1.0,
        direction="at least",
        baseline=1.0,
        n=n,
        meaning="Share of cohorts, spoiled on purpose, that these gates rejected of those that they have to reject"
        + (f"; passed: {', '.join(missed)}." if missed else "."),
    )
