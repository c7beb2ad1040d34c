"""What samples may be conditioned on: classes and covariates, as one vector with presence flags.

A `Condition` is the class ("label") or a covariate. A table row becomes its values (one-hot for a categorical one, the
standardised number for a continuous one) times its presence, followed by the presence flags: a missing value and a
hidden value look alike to the network, so one checkpoint serves unconditional, partial and full conditioning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from medpipe.errors import InputError


@dataclass(frozen=True)
class Condition:
    """One thing to condition on, and how it is distributed in the training split within each class."""

    name: str
    kind: Literal["categorical", "continuous"]
    values: tuple[str, ...] = ()
    """Categorical: the values in the order of their slots."""
    mean: float = 0.0
    sd: float = 1.0
    population: Mapping[str, Mapping[str, float]] | None = None
    """Group to what its training images have: shares of `values`, or mean, sd, low, high (5th and 95th percentile).

    A group is a class, and within it the values of the categorical covariates before this one (see `group`)."""
    rare: Mapping[str, Sequence[str]] | None = None
    """Categorical: class to the values that fewer than COMBINATION_MIN of its training images have."""

    @property
    def width(self) -> int:
        return len(self.values) if self.kind == "categorical" else 1

    @property
    def seen(self) -> tuple[str, ...]:
        """Categorical: the values that some training image has."""
        shares = (self.population or {}).get(ANY, {})
        return tuple(value for value in self.values if shares.get(value, 1) > 0)


@dataclass(frozen=True)
class Conditions:
    """All conditions of a checkpoint in the order of their slots."""

    items: tuple[Condition, ...]

    @property
    def width(self) -> int:
        """Length K of the condition vector."""
        return sum(item.width for item in self.items) + len(self.items)

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(item) for item in self.items]

    @classmethod
    def from_json(cls, items: Sequence[Mapping[str, Any]]) -> Conditions:
        return cls(tuple(Condition(**{**item, "values": tuple(item["values"])}) for item in items))

    def encode(self, table: pd.DataFrame, *, unseen: Literal["refuse", "hide"] = "refuse") -> Tensor:
        """Encode the rows of `table` as condition vectors (N, K).

        A value that training never saw raises InputError, or counts as missing where `unseen` is "hide".
        """
        if unseen == "hide":
            table = table.assign(
                **{item.name: table[item.name].where(table[item.name].isin(item.seen)) for item in self.items if item.values}
            )
        values = [self._slots(item, table) for item in self.items]
        present = (
            np.stack([table[item.name].notna().to_numpy(float) for item in self.items], axis=1) if self.items else np.zeros((len(table), 0))
        )
        return torch.from_numpy(np.concatenate([*values, present], axis=1).astype(np.float32))

    @staticmethod
    def _slots(item: Condition, table: pd.DataFrame) -> NDArray[Any]:
        column = table[item.name]
        if item.kind == "continuous":
            numbers = column.fillna(item.mean).to_numpy(float)
            return ((numbers - item.mean) / item.sd)[:, None]
        unknown = set(column.dropna().astype(str)) - set(item.seen)
        if unknown:
            raise InputError(f"{item.name} has {len(unknown)} value(s) that training never saw: use {', '.join(item.seen)}")
        return np.stack([(column == value).to_numpy(float) for value in item.values], axis=1)

    def parts(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Split condition vectors (N, K) into the slots' values (N, w) and, for each slot, whether its condition is present (N, w)."""
        width = self.width - len(self.items)
        flags = [vector[:, width + number : width + number + 1].expand(-1, item.width) for number, item in enumerate(self.items)]
        return vector[:, :width], torch.cat(flags, dim=1) if flags else vector[:, :0]

    def hide(self, vector: Tensor, shown: Tensor) -> Tensor:
        """Hide of the vectors (N, K) what `shown` (N, conditions) says is not shown."""
        if not self.items:
            return vector
        slots = torch.cat([shown[:, i : i + 1].expand(-1, item.width) for i, item in enumerate(self.items)] + [shown], dim=1)
        return vector * slots.to(vector.device)


def width(classes: Sequence[str], covariates: Sequence[Mapping[str, Any]]) -> int:
    """Return the width of the condition vector for a Dataset with these classes and covariates, before it is read."""
    covered = [classes] if classes else []
    covered += [covariate.get("values", [None]) for covariate in covariates]
    return sum(len(values) + 1 for values in covered)


def shown(images: int, all_: float, each: Sequence[float], generator: torch.Generator) -> Tensor:
    """Choose which conditions training shows (images, conditions): none of an image's with chance `all_`, each hidden with its own."""
    if not each:
        return torch.ones(images, 0, dtype=torch.bool)
    single = torch.rand(images, len(each), generator=generator) >= torch.tensor(each)
    return single & (torch.rand(images, 1, generator=generator) >= all_)


ANY = ""
"""The class of images where there are no classes."""
COMBINATION_MIN = 11
"""A combination of fewer training patients is no group: it would be told on purpose."""


def group(label: str, *values: str) -> str:
    """Name the group of a class and of the values of the first categorical covariates."""
    return "\x1f".join((label, *values))


def fit(table: pd.DataFrame, classes: Sequence[str], covariates: Sequence[Mapping[str, Any]]) -> Conditions:
    """Learn the conditions from the training rows: the class where there is one, then the covariates as the Dataset lists them."""
    labels = table["label"].fillna(ANY) if classes else pd.Series(ANY, index=table.index)
    people = table["patient"] if "patient" in table else pd.Series(range(len(table)), index=table.index)
    items = []
    if classes:
        shares = {name: float((labels == name).mean()) for name in classes}
        items.append(Condition("label", "categorical", tuple(classes), population={ANY: shares}))
    before: list[str] = []
    for covariate in covariates:
        column = table[covariate["name"]]
        combined = _combinations(table, labels, before, column, people)
        groups = {ANY: column} | {name: column[labels == name] for name in classes} | combined
        if covariate["kind"] == "categorical":
            values = tuple(covariate["values"])
            population = {name: _shares(part, values, people, all_=name not in combined) for name, part in groups.items()}
            rare = {name: _rare(part, values, people) for name, part in groups.items() if name not in combined}
            items.append(Condition(covariate["name"], "categorical", values, population=population, rare=rare))
            before.append(covariate["name"])
        else:
            column = column.astype(float)
            sd = float(column.std()) if column.notna().sum() > 1 else 1.0
            known = {name: part.astype(float).dropna() for name, part in groups.items()}
            common = {name: part for name, part in known.items() if name == ANY or people[part.index].nunique() >= COMBINATION_MIN}
            population = {name: _spread(part) for name, part in common.items()}
            items.append(
                Condition(covariate["name"], "continuous", mean=float(np.nan_to_num(column.mean())), sd=sd or 1.0, population=population)
            )
    return Conditions(tuple(items))


def _shares(column: pd.Series[Any], values: Sequence[str], people: pd.Series[Any], *, all_: bool) -> dict[str, float]:
    """Return the share of each value; without `all_`, a value that too few patients have is not told, unless all are like that."""
    counts = {value: int((column == value).sum()) for value in values}
    shared = {value: people[column.index[column == value]].nunique() for value in values}
    common = {value: count if shared[value] >= COMBINATION_MIN else 0 for value, count in counts.items()}
    told = common if not all_ and any(common.values()) else counts
    return {value: count / max(len(column), 1) for value, count in told.items()}


def _rare(column: pd.Series[Any], values: Sequence[str], people: pd.Series[Any]) -> list[str]:
    return [value for value in values if people[column.index[column == value]].nunique() < COMBINATION_MIN]


def _combinations(
    table: pd.DataFrame, labels: pd.Series[str], before: Sequence[str], column: pd.Series[Any], people: pd.Series[Any]
) -> dict[str, pd.Series[Any]]:
    """Return the values of `column` in each combination of class and the covariates `before` that enough of `people` have."""
    found = {}
    for depth in range(1, len(before) + 1):
        known = table[list(before[:depth])].notna().all(axis=1) & column.notna()
        for key, part in column[known].groupby([labels[known], *(table.loc[known, name] for name in before[:depth])], sort=True):
            if people[part.index].nunique() >= COMBINATION_MIN:
                found[group(*(str(value) for value in key))] = part
    return found


def _spread(values: pd.Series[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    low, high = np.percentile(values, [5, 95])
    return {"mean": float(values.mean()), "sd": float(values.std()), "low": float(low), "high": float(high)}


def draw(
    conditions: Conditions,
    images: int,
    composition: Literal["as_trained", "balanced"],
    generator: np.random.Generator,
    classes: Sequence[str] = (),
    balance: str | None = None,
) -> pd.DataFrame:
    """Draw what each of `images` synthetic images is conditioned on: one column per condition; of some `classes`, or of all.

    The values of the categorical covariate `balance` are equally frequent within each class, those of at least COMBINATION_MIN
    training patients of the class; all else is drawn given them.

    Classes come in exact shares (largest remainder); a covariate is drawn within the class and the categorical covariates
    before it, as far as that combination is common among the training patients, so that a scanner stays at its site and
    no rare combination is repeated on purpose; continuous ones are drawn from a normal distribution cut at the 5th and the 95th
    percentile, never copied. Raises InputError for a class that training never saw, and for a covariate that cannot be balanced.
    """
    labels = next((item.seen for item in conditions.items if item.name == "label"), ())
    if never := [name for name in classes if name not in labels]:
        raise InputError(
            f"cohort.classes has '{never[0]}', which no training image shows: use {', '.join(labels) or 'none, as there are no classes'}"
        )
    table = pd.DataFrame(index=range(images))
    groups: list[tuple[str, ...]] = [(ANY,)] * images
    forced = _balanced(conditions, balance, groups, generator) if balance is not None and not labels else {}
    for item in conditions.items:
        population = item.population or {}
        if item.name == "label":
            shares = np.array([population[ANY][value] if value in (classes or labels) else 0.0 for value in item.values])
            if composition == "balanced":
                shares = (shares > 0).astype(float)
            table["label"] = _exact(item.values, shares / shares.sum(), images, generator)
            groups = [(label,) for label in table["label"]]
            forced = {} if balance is None else _balanced(conditions, balance, groups, generator)
            continue
        column = np.full(images, np.nan if item.kind == "continuous" else None, dtype=float if item.kind == "continuous" else object)
        for key in sorted(set(groups)) if item.name not in forced else ():
            here = np.array([place for place, other in enumerate(groups) if other == key])
            spread = _of_group(item, key)
            if item.kind == "continuous":
                if spread:
                    column[here] = _within(spread, len(here), generator).round(1)
            elif sum(spread.values()) > 0:
                weights = np.array([spread[value] for value in item.values])
                column[here] = generator.choice(np.array(item.values, dtype=object), len(here), p=weights / weights.sum())
        column = forced.get(item.name, column)
        table[item.name] = column
        if item.kind == "categorical":
            groups = [(*key, str(value)) for key, value in zip(groups, column, strict=True)]
    return table


def _of_group(item: Condition, key: Sequence[str]) -> Mapping[str, float]:
    """Return how `item` is distributed in the group `key`, or in the smallest larger one that is common enough."""
    population = item.population or {}
    spread = next((population[group(*key[:depth])] for depth in range(len(key), 0, -1) if group(*key[:depth]) in population), {})
    return spread or population[ANY]


def _balanced(
    conditions: Conditions, balance: str, groups: Sequence[tuple[str, ...]], generator: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Draw the covariate `balance` in equal shares within each class (`groups`), and given it the categorical ones before it.

    Those are stored as P(before | class) and P(balance | class, before); Bayes' theorem turns them round. None stands where no value
    of the class, or no combination with it, is common enough.
    """
    categorical = [item for item in conditions.items if item.kind == "categorical" and item.name != "label"]
    place = next((number for number, item in enumerate(categorical) if item.name == balance), None)
    if place is None:
        known = ", ".join(item.name for item in categorical) or "none"
        raise InputError(f"cohort.balance is '{balance}', which is no categorical covariate of the Checkpoint: use one of them ({known})")
    before, item = categorical[:place], categorical[place]
    if item.rare is None:
        raise InputError(f"the Checkpoint does not say which values of '{balance}' are rare: train it again to use cohort.balance")
    drawn = {one.name: np.full(len(groups), None, dtype=object) for one in (*before, item)}
    for key in sorted(set(groups)):
        here = np.array([number for number, other in enumerate(groups) if other == key])
        common = np.array([value for value in item.values if value not in item.rare[key[0]]], dtype=object)
        if len(common):
            drawn[balance][here] = generator.permutation(np.resize(generator.permutation(common), len(here)))
        for value in common:
            some = here[drawn[balance][here] == value]
            ways = _ways(before, item, key, value)
            if before and (total := sum(ways.values())):
                chosen = generator.choice(len(ways), len(some), p=np.array(list(ways.values())) / total)
                for number, one in enumerate(before):
                    drawn[one.name][some] = np.array([way[number] for way in ways], dtype=object)[chosen]
    return drawn


def _ways(before: Sequence[Condition], item: Condition, key: tuple[str, ...], value: str) -> dict[tuple[str, ...], float]:
    """Return the weight of each combination of the covariates `before`, where `item` has `value`."""
    ways = {key: 1.0}
    for one in before:
        ways = {(*way, other): weight * share for way, weight in ways.items() for other, share in _shares_of(one, way).items() if share}
    return {way[len(key) :]: weight * _shares_of(item, way).get(value, 0.0) for way, weight in ways.items()}


def _shares_of(item: Condition, way: tuple[str, ...]) -> dict[str, float]:
    spread = _of_group(item, way)
    total = sum(spread.values())
    return {value: share / total for value, share in spread.items()} if total else {}


def _within(spread: Mapping[str, float], n: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw from the normal distribution cut at its ends; values heaped on an end would tell it, which may be a patient's."""
    mean, sd, low, high = (spread[name] for name in ("mean", "sd", "low", "high"))
    if sd <= 0 or low >= high:
        return np.full(n, mean)
    ends = ndtr((np.array([low, high]) - mean) / sd)
    return np.asarray(mean + sd * ndtri(generator.uniform(float(ends[0]), float(ends[1]), n)))


def _exact(values: Sequence[str], shares: NDArray[np.float64], images: int, generator: np.random.Generator) -> NDArray[Any]:
    counts = np.floor(shares * images).astype(int)
    remainder = np.argsort(-(shares * images - counts), kind="stable")[: images - counts.sum()]
    counts[remainder] += 1
    return generator.permutation(np.repeat(np.array(values, dtype=object), counts))
