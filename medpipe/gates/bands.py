"""What real images reach against real images, frozen before a cohort is looked at, and the bounds that follow from it.

Resamples of one size and one mix of classes: distances of small samples are larger than those of large ones (tenfold from
n = 100 to 1200), and a cohort that was asked to be balanced may not be failed for it. Half of the held-out patients at
most are drawn at a time, without replacement: the spread over such draws, scaled, is that of fresh samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import cdist

from medpipe import seeds
from medpipe.gates import fidelity, measures
from medpipe.gates.copy_gate import HOLDOUT_MIN
from medpipe.gates.measures import Measure, Sample
from medpipe.settings import GatesSettings

LARGEST = 512
"""Most images in a resample; up to 1,024 held-out images are used."""
SMALLEST = 20
"""Fewest images in a resample that say anything."""
SLACK = 1.5
"""How far a resample may go beyond half of what there is of a class: the mix of a cohort is never exactly that of the holdout."""
ONE = 1.49
"""What is rounded to one image."""
UNLABELLED = -1
"""The class of images that have none."""
GROUPED = 1.5
"""Images of a patient, on average, from which on the patients count."""
TWIN = 0.01
"""Share of real images that have another one nearer than the distance that counts as a twin."""


def mix(holdout: Sample, *others: Sample) -> dict[int, float]:
    """Return the share of each class among the held-out images, of the classes that all samples have.

    Images without a class are left out, unless none has one: what lacks labels is not made, so a cohort has none of it.
    """
    counts = {int(number): int((holdout.strata == number).sum()) for number in np.unique(holdout.strata)}
    if max(counts, default=UNLABELLED) > UNLABELLED:
        counts.pop(UNLABELLED, None)
    counts = {number: count for number, count in counts.items() if all((other.strata == number).any() for other in others)}
    return {number: count / sum(counts.values()) for number, count in counts.items()}


def size(shares: Mapping[int, float], *samples: Sample, part: float = 0.5) -> int:
    """Return how many images a `part` of the smallest sample gives in the mix `shares`: at most LARGEST.

    One image of a class is always given: a class that is one image in a resample may not be what makes it impossible.
    """
    counts = [(int((sample.strata == number).sum()), share) for sample in samples for number, share in shares.items()]
    return min(LARGEST, int(min((max(part * count, ONE) / share if count else 0 for count, share in counts), default=0)))


def draw(sample: Sample, shares: Mapping[int, float], n: int, draws: np.random.Generator) -> Sample:
    """Draw `n` images of `sample` in the mix `shares`, without replacement; where patients are known, patient by patient."""
    if sample.patients is None:
        order = draws.permutation(len(sample))
    else:
        _, place = np.unique(sample.patients, return_inverse=True)
        order = np.lexsort((draws.random(len(sample)), draws.permutation(int(place.max()) + 1)[place]))
    parts = [order[sample.strata[order] == number][: round(n * share)] for number, share in shares.items()]
    return sample.take(np.sort(np.concatenate(parts)))


@dataclass(frozen=True)
class Baseline:
    """Real against real: for each size of resample the values (resamples, measures) of the held-out images."""

    shares: Mapping[int, float]
    real: Mapping[int, NDArray[np.float64]]
    names: tuple[str, ...]
    held: int
    """Held-out images."""
    patients: int
    """Held-out patients."""
    twin: float

    @property
    def grouped(self) -> bool:
        """Whether a resample shows few patients several times each: it then lies further from all patients than single images would."""
        return self.held > GROUPED * self.patients

    def size_for(self, cohort: Sample) -> tuple[int, dict[int, float]]:
        """Return the largest size that the cohort can be drawn at, 0 where there is none, and the mix to draw it in.

        A class that the cohort does not have at all is left out of its mix, and so widens its distance.
        """
        shares = mix_of(self.shares, cohort)
        room = size(shares, cohort, part=SLACK / 2)
        return max((n for n in self.real if n <= room), default=0), shares

    def as_arrays(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64] | NDArray[np.str_]]:
        """Return everything as arrays, to be stored and digested."""
        return {f"real-{n}": values for n, values in self.real.items()} | {
            "sizes": np.array(list(self.real), dtype=np.int64),
            "names": np.array(self.names, dtype=np.str_),
            "classes": np.array(list(self.shares), dtype=np.int64),
            "shares": np.array(list(self.shares.values())),
            "held": np.array([self.held, self.patients], dtype=np.int64),
            "twin": np.array([self.twin]),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Baseline:
        """Return what `as_arrays` stored."""
        shares = dict(zip(arrays["classes"].tolist(), arrays["shares"].tolist(), strict=True))
        real = {int(n): np.asarray(arrays[f"real-{n}"], dtype=np.float64) for n in arrays["sizes"].tolist()}
        held, patients = arrays["held"].tolist()
        return cls(shares, real, tuple(arrays["names"].tolist()), held, patients, float(arrays["twin"].tolist()[0]))


def mix_of(shares: Mapping[int, float], sample: Sample) -> dict[int, float]:
    """Keep the shares of the classes that `sample` has, made to sum to 1."""
    have = {number: share for number, share in shares.items() if (sample.strata == number).any()}
    return {number: share / sum(have.values()) for number, share in have.items()}


def calibrate(train: Sample, holdout: Sample, images: int, resamples: int, seed: int) -> Baseline:
    """Measure held-out images against the training split, for a cohort of `images`: nothing else of it is known here.

    Sizes go down by halves from the largest that the holdout has room for, for cohorts that have few images of a class.
    """
    shares = mix(holdout, train)
    n = min(size(shares, holdout, train), images // 2) if len(holdout) >= HOLDOUT_MIN else 0
    patients = len(holdout) if holdout.patients is None else len(np.unique(holdout.patients))
    if n < SMALLEST:
        return Baseline(shares, {}, (), len(holdout), patients, math.nan)
    whole, twin = measures.moments(train, shares), _twin(holdout, shares, n, seed)
    real: dict[int, NDArray[np.float64]] = {}
    names: tuple[str, ...] = ()
    while n >= SMALLEST:
        found = values(train, holdout, shares, shares, whole, twin, n, resamples, seed)
        names = tuple(found)
        real[n] = np.stack([found[name] for name in names], axis=1)
        n //= 2
    return Baseline(shares, real, names, len(holdout), patients, twin)


def _twin(holdout: Sample, shares: Mapping[int, float], n: int, seed: int) -> float:
    """Distance within the learned space below which real images hardly ever have another one."""
    some = [draw(holdout, shares, n, seeds.generator(seed, "gates", "twin", k)).features["learned"] for k in range(4)]
    return float(np.quantile(np.concatenate([measures.nearest(cdist(part, part)) for part in some]), TWIN))


def values(
    train: Sample,
    sample: Sample,
    shares: Mapping[int, float],
    own: Mapping[int, float],
    whole: measures.Moments,
    twin: float,
    n: int,
    resamples: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Measure draws of `n` of `sample`, in the mix `own`, against the training split in the mix `shares`: by measure (resamples,)."""
    rows = []
    for number in range(resamples):
        draws = seeds.generator(seed, "gates", "resample", n, number)
        reference = draw(train, shares, n, draws)
        rows.append(measures.measure(reference, draw(sample, own, n, draws), whole, twin))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True)
class Band:
    """What real images reach: middle and interval over the resamples, the error of a difference, and how many errors are allowed."""

    middle: float
    low: float
    high: float
    error: float
    """Standard error of the difference between two middles: that of the holdout and that of an ideal cohort."""
    reach: float
    """Errors beyond which a difference is not chance, at the level of one of all the measures."""

    @classmethod
    def of(cls, real: NDArray[np.float64], n: int, held: int, images: int, level: float, judged: int) -> Band:
        """Take the values of `real` resamples of `n` of `held` images, for a cohort of `images`.

        A draw of n of H varies by σ²/n · (1 - n/H), a middle over all draws by σ²/H, and that of an ideal cohort of N by σ²/N: the
        error is taken from that. The tail is that of Student's t, since resamples cannot show it; `level` is split over
        `judged` measures and two sides.
        """
        middle, low, high = fidelity.spread(real.tolist())
        share = n / max(held, 1)
        ratio = math.sqrt((share + n / max(images, 1)) / max(1 - share, 0.1))
        spread = max(float(real.std(ddof=1)), (high - low) / 3.92) if len(real) > 1 else math.nan
        reach = float(stats.t.ppf(1 - level / (2 * judged), max(len(real) - 1, 1)))
        return cls(middle, low, high, spread * ratio, reach)

    def bound(self, measure: Measure, settings: GatesSettings) -> float:
        """Return how far the unfavourable end of a cohort's interval may lie: what real images reach at the level, or what the recipe
        allows beyond their own unfavourable end, whichever is more."""
        allowed, beyond = measure.allowed(settings), self.reach * self.error
        if measure.direction == "at least":
            return self.low - max(beyond, allowed)
        match measure.margin:
            case "ratio":
                # a distance that odd images inflate is skewed: its logarithm is not
                return self.high * max(math.exp(beyond / self.middle), allowed) if self.middle > 0 else math.nan
            case "spread":
                return self.high + max(beyond, (allowed - 0.5) * (self.high - self.low))
            case _:
                return self.high + max(beyond, allowed)

    def better(self, measure: Measure, value: float) -> float:
        """Return by how many errors `value` is better than that of real images; below 0 where it is worse."""
        gap = self.middle - value if measure.direction == "at most" else value - self.middle
        return gap / self.error if self.error > 0 else math.nan
