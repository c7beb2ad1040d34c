"""The verdicts on likeness: the cohort beside the training split, against real held-out images beside the training split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.gates import fidelity, measures
from medpipe.gates.bands import LARGEST, SMALLEST, Band, Baseline, calibrate, draw, mix, size, values
from medpipe.gates.copy_gate import UNCERTIFIED
from medpipe.gates.measures import BY_NAME, GATED, Measure, Sample
from medpipe.gates.verdict import Verdict, judge
from medpipe.settings import GatesSettings

__all__ = ["LARGEST", "SMALLEST", "Sample", "assess", "composition", "draw", "figures", "mix", "size", "verdicts"]

LIKENESS = tuple(name for name in GATED if name != "frechet_own")
"""Gates of every run: with a network of the user's own there is one more."""
FEW = "Cannot be certified: the cohort has too few images of a class to be compared in the mix of the real ones."
TOO_GOOD = (
    "How much more alike to the training images the synthetic ones are than images of other real patients, in standard errors, at the "
    "measure where it is most"
)


def assess(train: Sample, holdout: Sample, cohort: Sample, settings: GatesSettings, seed: int) -> list[Verdict]:
    """Calibrate on the holdout, then judge how alike the cohort is to the training split."""
    baseline = calibrate(train, holdout, len(cohort), settings.resamples, seed)
    return verdicts(baseline, figures(baseline, train, cohort, settings.resamples, seed), cohort, settings)


def figures(baseline: Baseline, train: Sample, cohort: Sample, resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Measure the cohort as the baseline was measured: by measure (resamples,); empty where it cannot be."""
    n, own = baseline.size_for(cohort)
    if not n:
        return {}
    whole = measures.moments(train, baseline.shares)
    return values(train, cohort, baseline.shares, own, whole, baseline.twin, n, resamples, seed)


def known_bands(baseline: Baseline, cohort: Sample, settings: GatesSettings) -> tuple[int, dict[str, Band]]:
    """Return the size of the resamples and the band of each measure for this cohort's size."""
    n, _ = baseline.size_for(cohort)
    if not n:
        return 0, {}
    judged = sum(name in GATED for name in baseline.names) + 2  # and those of outliers and conditions
    columns = zip(baseline.names, baseline.real[n].T, strict=True)
    return n, {name: Band.of(column, n, baseline.held, len(cohort), settings.family_level, judged) for name, column in columns}


def verdicts(
    baseline: Baseline,
    made: Mapping[str, NDArray[np.float64]],
    cohort: Sample,
    settings: GatesSettings,
    nearer: Mapping[str, float] | None = None,
) -> list[Verdict]:
    """Judge the cohort's values: one Verdict per measure, and one on figures that are too good to be true.

    `nearer` says by how many standard errors the cohort lies too near to the training images, by space. Where patients have several
    images, a Fréchet distance below that of held-out ones is no sign of copies: a resample shows few of them.
    """
    n, known = known_bands(baseline, cohort, settings)
    why = FEW if baseline.real else UNCERTIFIED
    names = [name for name in GATED if name in known] if known else list(LIKENESS)
    found = [_verdict(BY_NAME[name], known.get(name), made.get(name), n, settings, why) for name in names]
    fair = {name: band for name, band in known.items() if not (baseline.grouped and name.startswith("frechet"))}
    return [*found, _too_good(fair, made, nearer or {}, n, settings, why)]


def _verdict(measure: Measure, band: Band | None, made: NDArray[np.float64] | None, n: int, settings: GatesSettings, why: str) -> Verdict:
    value, low, high = fidelity.spread([] if made is None else made.tolist())
    return judge(
        measure.name,
        "fidelity",
        value,
        (low, high),
        bound=math.nan if band is None else band.bound(measure, settings),
        direction=measure.direction,
        baseline=math.nan if band is None else band.middle,
        n=n,
        meaning=measure.meaning if math.isfinite(value) else why,
        on="interval",
    )


def _too_good(
    known: Mapping[str, Band],
    made: Mapping[str, NDArray[np.float64]],
    nearer: Mapping[str, float],
    n: int,
    settings: GatesSettings,
    why: str,
) -> Verdict:
    """A distance below the band of real images, or a precision above it: what copies of the training images reach."""
    gaps = {name: band.better(BY_NAME[name], float(np.median(made[name]))) for name, band in known.items() if BY_NAME[name].suspicious}
    gaps |= nearer if known else {}
    unknown = not gaps or any(not math.isfinite(gap) for gap in gaps.values())
    most = max(gaps, key=lambda name: gaps[name]) if not unknown else ""
    value = max(0.0, gaps[most]) if most else math.nan
    return judge(
        "too_good",
        "fidelity",
        value,
        (value, value),
        bound=next(iter(known.values())).reach + settings.too_good_excess_max if most else math.nan,
        direction="at most",
        baseline=0.0,
        n=n,
        meaning=f"{TOO_GOOD} ({most}): where this is more than chance, images are repeated." if most else why,
    )


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
    """Largest share of a class that is lacking; two standard deviations of chance are forgiven (one image at least), unless none is
    left."""
    expected = shares * have.sum()
    forgiven = np.maximum(1, 2 * np.sqrt(expected * (1 - shares)))
    lacking = np.where(have == 0, expected >= 1, (expected - forgiven - have) / np.maximum(expected, 1))
    return float(np.clip(lacking, 0, 1).max()) if have.sum() else 1.0
