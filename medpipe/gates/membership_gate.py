"""The verdicts on membership: can anyone tell whom the model was trained on, from the model itself or from the cohort alone?

The bound is what an attacker who knows nothing may reach at this number of images, plus the excess that the recipe allows:
the area under the ROC curve is what stays stable where few patients were held out. How often an attacker is right when he is
nearly sure (true positives at 1 % and 0.1 % false positives) stands in the report as far as the holdout can resolve it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from medpipe import seeds
from medpipe.diffusion import canaries
from medpipe.gates import attack, features, fidelity, membership
from medpipe.gates.copy_gate import HOLDOUT_MIN, UNCERTIFIED
from medpipe.gates.job import Arrays
from medpipe.gates.table import table
from medpipe.gates.verdict import Verdict, judge
from medpipe.records import Record
from medpipe.settings import GatesSettings

MODEL, COHORT = "membership_model", "membership_cohort"
GROUP_MIN = 40
"""Fewest members and others of a group on which a figure rests."""
NEIGHBOURS = 5
COLUMNS = ("attack", "AUC", "low", "high", "found at 1 %", "low at 1 %", "high at 1 %", "found at 0.1 %", "low at 0.1 %", "high at 0.1 %")
NO_MODEL = (
    "membership inference on the model",
    "No Checkpoint was given, so that only the images were asked whom the model was trained on.",
)
_ON = {
    MODEL: "the model itself and an image can tell whether its patient was trained on: 0.5 is chance",
    COHORT: "the synthetic images alone and an image can tell whether its patient was trained on: 0.5 is chance",
}
_CANARIES = (
    "Made-up outliers were trained on, others like them were not. Exposure is log2 of how far up a planted one ranks by its loss among "
    "those held back (Carlini et al. 2019): rare patients would fare no better than they."
)
_SAID = (
    "Members are training images, others are images of patients that the model never saw. AUC with its 95 % interval, 0.5 is chance; "
    "and the share of members that is found where 1 % or 0.1 % of others are called members by mistake: empty where too few were held "
    "out to say."
)


@dataclass(frozen=True)
class Found:
    """What the attacks found."""

    verdicts: list[Verdict] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[tuple[str, str]] = field(default_factory=list)
    """What was not assessed, and why."""

    def __add__(self, other: Found) -> Found:
        return Found(self.verdicts + other.verdicts, self.tables + other.tables, self.gaps + other.gaps)


@dataclass(frozen=True)
class Evidence:
    """Scores by which members and others are told apart: named columns, small where an image is known."""

    names: Sequence[str]
    members: NDArray[np.float64]  # (N, k)
    others: NDArray[np.float64]  # (M, k)
    hard_members: NDArray[np.float64]  # (N, h): how hard an image is by itself
    hard_others: NDArray[np.float64]  # (M, h)


def by_model(results: Mapping[str, Arrays]) -> Evidence:
    """Return the evidence of the jobs' results for "members" and "others"."""
    return Evidence(
        membership.SCORES,
        results["members"]["scores"],
        results["others"]["scores"],
        _hardness(results["members"]),
        _hardness(results["others"]),
    )


def by_cohort(
    raw: Mapping[str, Mapping[str, NDArray[np.float64]]], statistics: Mapping[str, Arrays], rows: Mapping[str, NDArray[np.int64]]
) -> Evidence:
    """Return distances of members and others to the nearest of the cohort, in spaces that no member has shaped.

    `raw` holds features of "members", "others" and "cohort" by space, `statistics` those of the images; of the first two the
    `rows` are taken. The learned space is left out: its network was trained on the members, which would show in any cohort.
    """
    names, columns = [], []
    for space in ("texture", "pixels"):
        directions = features.Directions.fit(raw["cohort"][space])  # the attacker has nothing else
        cohort = directions(raw["cohort"][space])
        near = [_nearest(directions(raw[who][space][rows[who]]), cohort) for who in ("members", "others")]
        columns.append(np.concatenate(near))
        names += [f"nearest synthetic image, {space}", f"{NEIGHBOURS} nearest, {space}"]
    both, n = np.concatenate(columns, axis=1), len(rows["members"])
    hard = [_hardness({name: values[rows[who]] for name, values in statistics[who].items()}) for who in ("members", "others")]
    return Evidence(names, both[:n], both[n:], *hard)


def _hardness(statistics: Arrays) -> NDArray[np.float64]:
    return np.stack([np.log(statistics[name] + 1e-6) for name in fidelity.STATISTICS], axis=1)


def _nearest(images: NDArray[np.float64], cohort: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln of the distance (N, 2) to the nearest of the cohort and of the mean of that to the NEIGHBOURS nearest."""
    found = []
    for start in range(0, len(images), 256):
        k = min(NEIGHBOURS, len(cohort))
        near = np.partition(cdist(images[start : start + 256], cohort), k - 1, axis=1)[:, :k]
        found.append(np.log(np.stack([near.min(1), near.mean(1)], axis=1) + 1e-6))
    return np.concatenate(found) if found else np.empty((0, 2))


def assess(
    name: str, evidence: Evidence, groups: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]], excess: float, seed: int
) -> Found:
    """Judge one kind of attack; `groups` names which members (N,) and others (M,) are of a group."""
    n, m = len(evidence.members), len(evidence.others)
    whole = np.isfinite(evidence.members).all() and np.isfinite(evidence.others).all()
    if min(n, m) < HOLDOUT_MIN or not whole:
        return Found([_verdict(name, attack.strength(np.empty(0), np.empty(0)), math.nan, excess, n, m)])
    member = np.arange(n + m) < n
    scores = -np.concatenate([evidence.members, evidence.others])
    hard = np.concatenate([evidence.hard_members, evidence.hard_others])
    fold = attack.folds(member, seeds.generator(seed, "gates", name))
    relative = attack.calibrated(scores, hard, member, fold)
    logit = attack.combined(np.concatenate([scores, relative, hard], axis=1), member, fold)
    blind = attack.combined(hard, member, fold)

    def measured(values: NDArray[np.float64]) -> attack.Strength:
        return attack.strength(values[member], values[~member])

    rows = [("all together", measured(logit)), ("without the model" if name == MODEL else "without the cohort", measured(blind))]
    for place, what in enumerate(evidence.names):
        rows += [(what, measured(scores[:, place])), (f"{what}, against what is expected", measured(relative[:, place]))]
    small = []
    for group, (of_members, of_others) in groups.items():
        if min(of_members.sum(), of_others.sum()) >= GROUP_MIN:
            here = np.concatenate([of_members, of_others])
            rows.append((f"all together: {group}", attack.strength(logit[member & here], logit[~member & here])))
        elif ", " not in group:
            small.append(group)
    title = "Who was trained on: attacks on the model" if name == MODEL else "Who was trained on: attacks on the cohort alone"
    gaps = [(f"membership for some groups ({'model' if name == MODEL else 'cohort'})", f"Too few images: {', '.join(small)}.")]
    verdict = _verdict(name, rows[0][1], rows[1][1].auc, excess, n, m)
    return Found([verdict], [table(title, _SAID, COLUMNS, [_row(*row) for row in rows])], gaps if small else [])


def _row(what: str, found: attack.Strength) -> list[str | float | None]:
    cells: list[str | float | None] = [what, *(round(value, 3) for value in (found.auc, found.low, found.high))]
    for at in found.at:
        cells += [None] * 3 if at is None else [round(value, 4) for value in at]
    return cells


def _verdict(name: str, found: attack.Strength, blind: float, excess: float, members: int, others: int) -> Verdict:
    certifiable = math.isfinite(found.auc)
    return judge(
        name,
        "privacy",
        found.auc,
        (found.low, found.high),
        bound=attack.chance(members, others) + excess,
        direction="at most",
        baseline=blind,
        n=members + others,
        meaning=f"How well someone who has {_ON[name]}; real images were held out to try it on." if certifiable else UNCERTIFIED,
    )


def exposed(attacked: Mapping[str, Arrays]) -> Found:
    """Show how far the planted canaries stand out from those held back, by the mean of ln loss over the levels of noise."""
    if not attacked.get(membership.CANARIES):
        return Found()
    losses = attacked[membership.CANARIES]["scores"][:, : len(membership.LEVELS)].mean(1)
    planted, held_back = np.split(losses, 2)
    exposure, told = canaries.exposures(planted, held_back), attack.strength(-planted, -held_back)
    figures: list[tuple[str, float | None]] = [
        ("canaries planted, and as many held back", len(planted)),
        ("mean exposure, bits", round(float(exposure.mean()), 2)),
        ("mean exposure of canaries that are not known, bits", round(canaries.by_chance(len(held_back)), 2)),
        ("highest exposure that can be shown, bits", round(math.log2(len(held_back) + 1), 2)),
        ("AUC, planted against held back", round(told.auc, 3)),
        ("its lower end", round(told.low, 3)),
        ("its upper end", round(told.high, 3)),
    ]
    return Found(tables=[table("Canaries: how much is given away of planted outliers", _CANARIES, ("figure", "value"), figures)])


def all_of(
    attacked: Mapping[str, Arrays],
    raw: Mapping[str, Mapping[str, NDArray[np.float64]]],
    statistics: Mapping[str, Arrays],
    places: Mapping[str, NDArray[np.int64]],
    groups: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]],
    settings: GatesSettings,
    seed: int,
) -> Found:
    """Judge both attacks: on the model, where a Checkpoint was given and `attacked`, and on the cohort alone."""
    if attacked.get("members") and attacked.get("others"):
        found = assess(MODEL, by_model(attacked), groups, settings.membership_model_excess_max, seed) + exposed(attacked)
    else:
        found = Found(gaps=[NO_MODEL])
    nothing = np.empty((0, 1))
    alone = by_cohort(raw, statistics, places) if all(raw.values()) else Evidence(["none"], nothing, nothing, nothing, nothing)
    return found + assess(COHORT, alone, groups, settings.membership_cohort_excess_max, seed)


def guarantee(model: Record | None) -> Found:
    """Show the guarantee of differential privacy that a Checkpoint was trained with, or say that there is none."""
    if model is None:
        return Found()
    told = model.facts.get("privacy")
    if told is None:
        return Found(gaps=[("differential privacy", "The model was trained without it: what attacks find bounds no attack of tomorrow.")])
    names = {"epsilon": "ε", "delta": "δ", "noise": "noise, in clipping norms", "clip": "clipping norm", "steps": "steps"}
    rows = [(said, float(told[name])) for name, said in names.items()]
    unit, but = told["unit"], told["not_covered"]
    sentence = f"DP-SGD with the {unit} as unit: no attacker learns more of anyone trained on than ε and δ say. But {but}."
    return Found(tables=[table("Differential privacy of the training", sentence, ("figure", "value"), rows)])
