"""The learning curve: what real images, as many synthetic ones, and both together teach a classifier, at several sizes.

Train-on-real, train-on-synthetic and real + cohort are tested on the same real images (Esteban et al. 2017,
arXiv:1706.02633, for train-on-synthetic-test-on-real). Each classifier draws its own training images, the smaller sets lie
in the larger, and every class keeps its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.gates import bootstrap, utility
from medpipe.gates.arms import Source, nested
from medpipe.gates.job import Arrays, Job, found
from medpipe.gates.table import table
from medpipe.gates.verdict import Verdict, judge
from medpipe.recipe import Recipe
from medpipe.settings import GatesSettings

Arm = Literal["real", "synthetic", "both"]
ARMS: tuple[Arm, ...] = get_args(Arm)
FEWEST = 20
"""Real images at the beginning of a curve: fewer teach nothing, and their number would be too small to publish."""
Found = dict[int, dict[Arm, list[NDArray[np.float32]]]]
"""Real images to arm to the probabilities of its classifiers."""
MEANING = (
    "How much better (below 0: worse) a classifier of real patients gets by adding the cohort to all the real training images, in AUC; "
    "the bound is how much it may lose."
)
SENTENCE = (
    "AUC on real test images, with 95 % intervals over these images: of classifiers that learned from so many real images, from "
    "as many synthetic ones, and from the real ones with the cohort added. Gain is what adding the cohort brings; an "
    "interval that holds 0 shows no gain."
)


def sizes(shares: Sequence[float], real: int, classes: int) -> list[int]:
    """Return the numbers of real images on the curve, of `real` that there are: two of each class and FEWEST at least."""
    return sorted({min(real, max(FEWEST, 2 * classes, round(share * real))) for share in shares})


def jobs(cohort: Path, dataset: Path, state: Path, recipe: Recipe, rows: Mapping[str, NDArray[np.int64]], classes: int) -> list[Job]:
    """Return one job per arm, size and classifier, the largest first; none where the recipe asks for no curve."""
    text, points = recipe.model_dump_json(), sizes(recipe.gates.curve_shares, len(rows["utility_real"]), classes)
    return [
        Job("curve", f"{arm}-{n}", number, number + 1, cohort, dataset, state, text)
        for n in reversed(points)
        for arm in ARMS
        for number in range(recipe.gates.curve_seeds)
    ]


def perform(job: Job) -> Arrays:
    """Train one classifier of one arm at one size: its probabilities for the real test images."""
    arm, _, n = job.what.rpartition("-")
    seed, settings = job.settings
    source = Source.of(job)
    of = {"real": source.real, "synthetic": source.made}
    drawn = {
        name: nested(
            source.plan[f"utility_{name}"],
            labels[source.plan[f"utility_{name}"]],
            seeds.generator(seed, "gates", "curve", name, job.start),
        )
        for name, labels in of.items()
    }
    none = np.empty(0, np.int64)
    real = drawn["real"][: int(n)] if arm in ("real", "both") else none
    made = drawn["synthetic"] if arm == "both" else drawn["synthetic"][: int(n)] if arm == "synthetic" else none
    return source.probabilities(real, made, budget=settings.curve_images, names=("curve", arm, n, str(job.start)))


def gathered(work: Sequence[Job]) -> Found:
    """Return the results of the jobs of the curve, smallest size first."""
    out: Found = {}
    for job in sorted((job for job in work if job.kind == "curve"), key=lambda job: (int(job.what.rpartition("-")[2]), job.start)):
        arm, _, n = job.what.rpartition("-")
        for name in ARMS:
            if name == arm:
                out.setdefault(int(n), {}).setdefault(name, []).append(found(job.state, job.name)["probabilities"])
    return out


def assess(found: Found, labels: NDArray[np.int64], settings: GatesSettings, seed: int) -> tuple[Verdict | None, dict[str, Any] | None]:
    """Judge what adding the cohort does at the largest size, and return the table of the curve; None where there is none.

    `labels` (N,) are the class numbers of the test images. Each interval is of a paired bootstrap over them.
    """
    if not found:
        return None, None
    rows: list[list[str | float | None]] = []
    series: dict[str, list[float]] = {"real": [], "synthetic": [], "real + cohort": []}
    gain = bootstrap.Estimate(float("nan"), float("nan"), float("nan"))
    for n, arms in found.items():
        draws = seeds.generator(seed, "gates", "curve", "test")
        values, resampled = bootstrap.paired({str(arm): got for arm, got in arms.items()}, labels, utility.auc, settings.resamples, draws)
        gain = bootstrap.difference("both", "real", values, resampled)
        rows.append([n, *(str(bootstrap.estimate(values[arm], resampled[arm])) for arm in ARMS), str(gain)])
        for name, arm in zip(series, ARMS, strict=True):
            series[name].append(values[arm])
    verdict = judge(
        "utility_added",
        "utility",
        gain.value,
        (gain.low, gain.high),
        bound=-settings.utility_drop_max,
        direction="at least",
        baseline=0.0,
        n=len(labels),
        meaning=MEANING,
    )
    columns = ("real images", "real", "as many synthetic", "real + cohort", "gain")
    chart = {"x": list(found), "series": series, "x_name": "real images", "y_name": "AUC"}
    return verdict, table("Learning curve", SENTENCE, columns, rows) | {"chart": chart}
