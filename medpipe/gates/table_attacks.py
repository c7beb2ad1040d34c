"""Three attacks on the table that is released: singling out, linkability and inference, as the Article 29 Working Party names them (WP216).

The formulation is that of Giomi et al. 2022 (A Unified Framework for Quantifying Privacy Risk in Synthetic Data): each attack is run
with the synthetic table against patients of the training split and against patients who were held out. What it gains on the first
over the second, of what there was to gain, is the risk that training on a patient brings. Values are compared by Gower's distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from medpipe import seeds
from medpipe.gates import singling_out
from medpipe.gates.table import table
from medpipe.gates.verdict import Verdict, judge
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe

TARGETS = 2000
"""Most patients of a kind that are attacked."""
ROWS = 4000
"""Most synthetic rows that the attacker uses."""
SPLITS = 4
"""Ways in which the columns are divided between two data sets that the attacker links."""
NEIGHBOURS = 5
TOLERANCE = 0.05
"""How near an inferred continuous value must come, in units of its range."""
Values = NDArray[np.float64]
Hits = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Values (N, columns) as numbers, continuous ones in units of their range; NaN is unknown."""

    values: Values
    continuous: NDArray[np.bool_]  # (columns,)

    def __len__(self) -> int:
        return len(self.values)

    def some(self, most: int, generator: np.random.Generator) -> Table:
        """Return at most `most` rows."""
        return Table(self.values[np.sort(generator.permutation(len(self))[:most])], self.continuous)


@dataclass(frozen=True)
class Attack:
    """One attack: its name, what it was tried with, how often it hit training patients, held-out ones, and how often a guess hits."""

    kind: str
    what: str
    hits: float
    targets: int
    control: float
    controls: int
    guess: float
    by_group: float = 0.0
    """Standard deviation of `control` by who was held out, where the tries are not patients of their own."""
    parts: int = 1
    """Groups of training patients of which `hits` is the mean."""

    def risk(self, tries: int) -> tuple[float, float, float]:
        """Return the risk with the ends of its 95 % interval, wider where it is one of `tries` attacks (Bonferroni)."""
        z = float(ndtri(1 - 0.025 / tries))
        (p, e), (q, f) = _wilson(self.hits, self.targets, z), _wilson(self.control, self.controls, z)
        if q >= 1:
            return 0.0, -math.inf, math.inf
        e, f = (math.hypot(error, z * self.by_group / math.sqrt(groups)) for error, groups in ((e, self.parts), (f, 1)))
        risk, half = (p - q) / (1 - q), math.hypot(e / (1 - q), f * (1 - p) / (1 - q) ** 2)
        return risk, risk - half, risk + half


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    """Centre and half-width of Wilson's interval."""
    scale = 1 + z**2 / n
    return (share + z**2 / (2 * n)) / scale, z / scale * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))


def tables(of: Sequence[pd.DataFrame], columns: Mapping[str, bool]) -> list[Table]:
    """Return the tables as numbers; `columns` is the name and whether it is continuous. The first lays out the ranges."""
    out: list[list[Values]] = [[] for _ in of]
    for name, continuous in columns.items():
        if continuous:
            numbers = [part[name].to_numpy(np.float64, na_value=np.nan) for part in of]
            known = numbers[0][np.isfinite(numbers[0])]
            reach = float(np.ptp(known)) if len(known) else 0.0
            parts = [number / (reach or 1.0) for number in numbers]
        else:
            codes = {value: float(k) for k, value in enumerate(dict.fromkeys(v for part in of for v in part[name].dropna()))}
            parts = [part[name].map(codes).to_numpy(np.float64, na_value=np.nan) for part in of]
        for column, found in zip(out, parts, strict=True):
            column.append(found)
    kinds = np.array(list(columns.values()), dtype=bool)
    return [Table(np.stack(column, 1), kinds) for column in out]


def run(train: Table, control: Table, made: Table, names: Sequence[str], seed: int) -> list[Attack]:
    """Run all three attacks with the synthetic table `made` on training patients and on held-out ones, one row each."""
    draws = seeds.generator(seed, "gates", "table attacks")
    train, control, made = train.some(TARGETS, draws), control.some(TARGETS, draws), made.some(ROWS, draws)
    return [
        *_single_out(train, control, made, draws),
        *_link(train, control, made, names, draws),
        *_infer(train, control, made, names, draws),
    ]


def _single_out(train: Table, control: Table, made: Table, draws: np.random.Generator) -> Iterator[Attack]:
    """Predicates that hold for one synthetic row alone: for how many does one patient alone fulfil them?"""
    for found in singling_out.tried(train.values, control.values, made.values, made.continuous, draws):
        yield Attack(
            "singling_out", found.what, found.hits, found.tries, found.control, found.tries, found.guess,
            by_group=found.by_group, parts=found.parts,
        )  # fmt: skip


def _nearest(targets: Table, made: Table, columns: Sequence[int], k: int, draws: np.random.Generator) -> NDArray[np.int64]:
    """Return the `k` nearest synthetic rows (N, k) by Gower's distance over `columns`; ties fall at random."""
    k, out = min(k, len(made)), []
    for start in range(0, len(targets), 256):
        part = targets.values[start : start + 256]
        far = draws.random((len(part), len(made))) * 1e-6
        for column in columns:
            gap = np.abs(part[:, column, None] - made.values[None, :, column])
            gap = gap if made.continuous[column] else (gap != 0) + 0.0 * gap
            far += np.minimum(np.where(np.isnan(gap), 1.0, gap), 1.0)
        out.append(np.argpartition(far, k - 1, axis=1)[:, :k])
    return np.concatenate(out)


def _link(train: Table, control: Table, made: Table, names: Sequence[str], draws: np.random.Generator) -> Iterator[Attack]:
    """Two data sets hold other columns of the same people: do both lead to the same synthetic row?"""
    width = len(names)
    halves = [half for size in range(1, width // 2 + 1) for half in combinations(range(width), size) if 2 * size < width or 0 in half]
    for half in [halves[k] for k in np.sort(draws.permutation(len(halves))[:SPLITS])]:
        rest = [column for column in range(width) if column not in half]

        def linked(targets: Table, half: Sequence[int] = half, rest: Sequence[int] = rest) -> float:
            one, other = (_nearest(targets, made, columns, NEIGHBOURS, draws) for columns in (half, rest))
            return float((one[:, :, None] == other[:, None, :]).any((1, 2)).mean())

        guess = 1 - math.prod(1 - NEIGHBOURS / max(len(made) - k, NEIGHBOURS) for k in range(min(NEIGHBOURS, len(made))))
        what = f"{', '.join(names[column] for column in half)} with the rest"
        yield Attack("linkability", what, linked(train), len(train), linked(control), len(control), guess)


def _infer(train: Table, control: Table, made: Table, names: Sequence[str], draws: np.random.Generator) -> Iterator[Attack]:
    """All columns but one are known of a person: does the nearest synthetic row tell the last?"""
    for secret, name in enumerate(names):
        others = [column for column in range(len(names)) if column != secret]
        reach = TOLERANCE if made.continuous[secret] else 0.25

        def told(targets: Table, choose: Callable[[Table], NDArray[np.int64]], secret: int = secret, reach: float = reach) -> Hits:
            known = Table(targets.values[np.isfinite(targets.values[:, secret])], targets.continuous)
            return np.abs(made.values[choose(known), secret] - known.values[:, secret]) <= reach if len(known) else np.empty(0)

        def near(targets: Table, others: Sequence[int] = others) -> NDArray[np.int64]:
            return _nearest(targets, made, others, 1, draws)[:, 0]

        hits, held = told(train, near), told(control, near)
        guess = told(train, lambda targets: draws.integers(0, len(made), len(targets)))
        if len(hits) and len(held):
            yield Attack("inference", name, float(hits.mean()), len(hits), float(held.mean()), len(held), float(guess.mean()))


def of_tables(
    data: Dataset, released: pd.DataFrame, covariates: Sequence[Mapping[str, Any]], classes: Sequence[str], recipe: Recipe
) -> tuple[list[Verdict], list[dict[str, Any]], list[dict[str, str]]]:
    """Attack the table `released` with the patients of `data`; return verdicts, tables, and what could not be judged.

    Held-out patients are those of every split but the training split; of the holdout alone where the source gave the splits, since its
    test patients may be others.
    """
    columns = {item["name"]: item["kind"] == "continuous" for item in covariates if item["name"] in data.index and item["name"] in released}
    columns |= {"label": False} if columns and len(classes) > 1 else {}
    given = data.record.made_from["settings"].get("images", {}).get("split") == "given"
    people = data.index.drop_duplicates("patient")
    train = people[people["split"] == "train"]
    control = people[(people["split"] == "holdout") if given else (people["split"] != "train")]
    if not columns:
        return [], [], []
    if min(len(train), len(control), len(released)) < recipe.gates.small_cell:
        return (
            [],
            [],
            [{"what": "attacks on the table", "why": "Fewer patients than a published count may have: nothing can be told from them."}],
        )
    train_, control_, made = tables((train, control, released), columns)
    verdicts, shown, gaps = assess(run(train_, control_, made, list(columns), recipe.seed), recipe.gates.disclosure_risk_max)
    return verdicts, [shown], gaps


SAID = {
    "singling_out": "to single a patient out by a predicate that holds for one synthetic subject alone",
    "linkability": "to link two data sets that hold different covariates of the same patients",
    "inference": "to infer a covariate of a patient from the others",
}


def assess(attacks: Sequence[Attack], risk_max: float) -> tuple[list[Verdict], dict[str, Any], list[dict[str, str]]]:
    """Judge the worst attack of each kind; return the verdicts, the table of all attacks, and what could not be judged.

    Where so few patients are there that an attack that gains nothing would more often than by chance have an interval that reaches
    beyond the bound (it is wider than half the bound to each side), nothing is certified; only an attack whose whole interval lies
    beyond the bound then fails.
    """
    verdicts, gaps, rows = [], [], []
    for kind, said in SAID.items():
        mine = [attack for attack in attacks if attack.kind == kind]
        if not mine:
            gaps.append(
                {"what": f"disclosure by {kind.replace('_', ' ')}", "why": "The table has too few columns or subjects for this attack."}
            )
            continue
        risks = [attack.risk(len(mine)) for attack in mine]
        value, low, high = (max(risk[number] for risk in risks) for number in range(3))
        if max(upper - risk for risk, _, upper in risks) <= risk_max / 2 or low > risk_max:
            verdicts.append(_verdict(kind, said, (value, low, high), risk_max, mine))
        else:
            why = f"Too few patients: the attack {said} was run, and its risk is {value:.2f} with an interval of {low:.2f} to {high:.2f}."
            gaps.append({"what": f"disclosure by {kind.replace('_', ' ')}", "why": why})
        rows += [[f"{kind}: {a.what}", *(f"{100 * x:.1f} %" for x in (a.hits, a.control, a.guess)), f"{risk:.2f} [{low:.2f}, {high:.2f}]"]
                 for a, (risk, low, high) in zip(mine, risks, strict=True)]  # fmt: skip
    sentence = (
        "How often an attacker who has the released table succeeds on training patients, on patients who were held out, and by "
        "guessing. The risk is what is gained on the first over the second, of all that could be gained."
    )
    columns = ("attack", "training patients", "held-out patients", "guess", "risk [95 %]")
    return verdicts, table("Attacks on the table", sentence, columns, rows), gaps


def _verdict(kind: str, said: str, risk: tuple[float, float, float], risk_max: float, mine: Sequence[Attack]) -> Verdict:
    return judge(
        f"disclosure_{kind}",
        "privacy",
        risk[0],
        risk[1:],
        bound=risk_max,
        direction="at most",
        baseline=0.0,
        n=min(attack.targets for attack in mine),
        meaning=f"Risk of an attack {said}: what it gains on training over held-out patients, of all there is; worst of {len(mine)}.",
        on="interval",
    )
