"""The verdicts on likeness: the cohort beside the training split, against real held-out images beside the training split.

Everything is measured on resamples of one size and one mix of classes: distances of small samples are larger than those
of large ones (tenfold from n = 100 to 1200), and a cohort that was asked to be balanced may not be failed for it. Half of
the held-out images are drawn at a time, without replacement: the spread over such halves is that of a fresh sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.gates import fidelity
from medpipe.gates.copy_gate import HOLDOUT_MIN, UNCERTIFIED
from medpipe.gates.features import SPACES
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

LARGEST = 512
"""Most images in a resample; up to 1,024 held-out images are used."""
SMALLEST = 20
"""Fewest images in a resample that say anything."""
LIKENESS = {
    "frechet": "Distance between the synthetic and the training images in the features of a network trained here; "
    "images of other real patients are the yardstick.",
    "frechet_texture": "The same distance in features of texture (random convolutions): it sees grain, blur and pattern.",
    "frechet_pixels": "The same distance in the layout of light and dark: it sees anatomy that is mirrored, misplaced or lacks variety.",
    "kid": "A second distance in the network's features, which assumes nothing about their shape: 0 means alike.",
    "precision": "Share of synthetic images that lie where real images lie: low means images that no patient would give.",
    "recall": "Share of real images that lie where synthetic images lie: low means that kinds of patients are missing.",
    "intensity": "Largest gap between the distributions of mean brightness, synthetic against real.",
    "intensity_spread": "Largest gap between the distributions of contrast within the image, synthetic against real.",
    "intensity_detail": "Largest gap between the distributions of fine detail, synthetic against real: it sees blur and noise.",
}


@dataclass(frozen=True)
class Sample:
    """Images as the gates see them: features by space (N, d), statistics by name (N,), class numbers (N,)."""

    features: Mapping[str, NDArray[np.float64]]
    statistics: Mapping[str, NDArray[np.float64]]
    strata: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.strata)

    def take(self, rows: NDArray[np.int64]) -> Sample:
        """Return the images at `rows`."""
        return Sample(
            {name: value[rows] for name, value in self.features.items()},
            {name: value[rows] for name, value in self.statistics.items()},
            self.strata[rows],
        )


def mix(holdout: Sample, *others: Sample) -> dict[int, float]:
    """Return the share of each class among the held-out images, of the classes that all samples have."""
    counts = {int(number): int((holdout.strata == number).sum()) for number in np.unique(holdout.strata)}
    counts = {number: count for number, count in counts.items() if all((other.strata == number).any() for other in others)}
    return {number: count / sum(counts.values()) for number, count in counts.items()}


def size(shares: Mapping[int, float], *samples: Sample) -> int:
    """Return how many images half of the smallest sample gives in the mix `shares`: at most LARGEST."""
    rooms = [int((sample.strata == number).sum()) / share for sample in samples for number, share in shares.items()]
    return min(LARGEST, int(min(rooms, default=0) / 2))


def draw(sample: Sample, shares: Mapping[int, float], n: int, draws: np.random.Generator) -> Sample:
    """Draw `n` images of `sample` in the mix `shares`, without replacement."""
    parts = [draws.permutation(np.flatnonzero(sample.strata == number))[: round(n * share)] for number, share in shares.items()]
    return sample.take(np.sort(np.concatenate(parts)))


def measure(reference: Sample, against: Sample, train: Sample, shares: Mapping[int, float]) -> dict[str, float]:
    """Compare `against` with the training split: `train` whole (weighted to `shares`), `reference` a draw of the same size."""
    weights = np.zeros(len(train))
    for number, share in shares.items():
        here = train.strata == number
        weights[here] = share / here.sum()
    found = {}
    for space in SPACES:
        name = "frechet" if space == "learned" else f"frechet_{space}"
        whole = fidelity.moments(train.features[space], weights)
        found[name] = fidelity.frechet(whole, fidelity.moments(against.features[space]))
    found["kid"] = fidelity.kid(reference.features["learned"], against.features["learned"])
    pair = reference.features["learned"], against.features["learned"]
    found["precision"], found["recall"] = fidelity.precision_recall(*pair)
    for name, statistic in zip(("intensity", "intensity_spread", "intensity_detail"), fidelity.STATISTICS, strict=True):
        found[name] = fidelity.ks(reference.statistics[statistic], against.statistics[statistic])
    return found


def assess(train: Sample, holdout: Sample, cohort: Sample, settings: GatesSettings, seed: int) -> list[Verdict]:
    """Judge how alike the cohort is to the training split: one Verdict per measure of LIKENESS."""
    shares = mix(holdout, train, cohort)
    n = size(shares, holdout, cohort, train) if len(holdout) >= HOLDOUT_MIN else 0
    real: dict[str, list[float]] = {name: [] for name in LIKENESS}
    made: dict[str, list[float]] = {name: [] for name in LIKENESS}
    if n >= SMALLEST:
        for number in range(settings.resamples):
            draws = seeds.generator(seed, "gates", "resample", number)
            reference = draw(train, shares, n, draws)
            for values, sample in ((real, holdout), (made, cohort)):
                for name, value in measure(reference, draw(sample, shares, n, draws), train, shares).items():
                    values[name].append(value)
    return [_verdict(name, real[name], made[name], n, settings) for name in LIKENESS]


def _verdict(name: str, real: list[float], made: list[float], n: int, settings: GatesSettings) -> Verdict:
    middle, low, high = fidelity.spread(real)
    value, *interval = fidelity.spread(made)
    direction: Literal["at most", "at least"] = "at least" if name in ("precision", "recall") else "at most"
    bound = _bound(name, settings)(middle, low, high)
    return judge(
        name,
        "fidelity",
        value,
        (interval[0], interval[1]),
        bound=bound,
        direction=direction,
        baseline=middle,
        n=n,
        meaning=LIKENESS[name] if math.isfinite(value) else UNCERTIFIED,
    )


def _bound(name: str, settings: GatesSettings) -> Callable[[float, float, float], float]:
    """Return the bound as a function of what real held-out images reach (median, 2.5th and 97.5th percentile)."""
    match name:
        case "frechet" | "frechet_texture" | "frechet_pixels":
            return lambda middle, low, high: max(settings.frechet_ratio_max * middle, high)
        case "kid":
            return lambda middle, low, high: middle + settings.kid_ratio_max * (high - low)
        case "precision":
            return lambda middle, low, high: min(middle - settings.precision_drop_max, low)
        case "recall":
            return lambda middle, low, high: min(middle - settings.recall_drop_max, low)
        case _:
            return lambda middle, low, high: max(middle + settings.intensity_excess_max, high)


def composition(
    have: NDArray[np.int64],
    real: NDArray[np.int64],
    held: NDArray[np.int64],
    asked: str,
    settings: GatesSettings,
    shares: NDArray[np.float64] | None = None,
) -> Verdict | None:
    """Judge whether each class is there as often as asked ("as_trained" or "balanced"): counts by class of the cohort, the
    training split and the holdout. Where `shares` are given they are what was asked, and classes stand for a value within a class
    too. None where there is no class."""
    if len(real) == 0 or real.sum() == 0:
        return None
    if shares is None:
        shares = (real > 0) / (real > 0).sum() if asked == "balanced" else real / real.sum()
    worst = _shortfall(have, shares)
    return judge(
        "composition",
        "fidelity",
        worst,
        (worst, worst),
        bound=settings.class_shortfall_max,
        direction="at most",
        baseline=_shortfall(held, real / real.sum()),
        n=int(have.sum()),
        meaning="How much of the class (with a balanced covariate, of the value within a class) that falls shortest of what was asked is "
        "lacking: 1 means that it is missing.",
    )


def _shortfall(have: NDArray[np.int64], shares: NDArray[Any]) -> float:
    """Largest share of a class that is lacking; one image is forgiven, unless it is the only one."""
    expected = shares * have.sum()
    lacking = np.where(have == 0, expected >= 1, (expected - 1 - have) / np.maximum(expected, 1))
    return float(np.clip(lacking, 0, 1).max()) if have.sum() else 1.0
