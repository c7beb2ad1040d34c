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
    """Class to what its training images have: shares of `values`, or mean, sd, low, high (5th and 95th percentile)."""

    @property
    def width(self) -> int:
        return len(self.values) if self.kind == "categorical" else 1


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

    def encode(self, table: pd.DataFrame) -> Tensor:
        """Encode the rows of `table` as condition vectors (N, K); raises InputError for a value that training never saw."""
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
        unknown = sorted(set(column.dropna().astype(str)) - set(item.values))
        if unknown:
            raise InputError(f"{item.name} has {len(unknown)} value(s) that training never saw: use {', '.join(item.values)}")
        return np.stack([(column == value).to_numpy(float) for value in item.values], axis=1)

    def parts(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Split condition vectors (N, K) into the slots' values (N, w) and, for each slot, whether its condition is present (N, w)."""
        width = self.width - len(self.items)
        flags = [vector[:, width + number : width + number + 1].expand(-1, item.width) for number, item in enumerate(self.items)]
        return vector[:, :width], torch.cat(flags, dim=1) if flags else vector[:, :0]

    def hide(self, vector: Tensor, all_: float, each: float, generator: torch.Generator) -> Tensor:
        """Hide all conditions of a row with probability `all_` and each single one with `each`; vector (N, K)."""
        count = len(self.items)
        if not count:
            return vector
        keep = (torch.rand(len(vector), count, generator=generator) >= each) & (torch.rand(len(vector), 1, generator=generator) >= all_)
        slots = torch.cat([keep[:, i : i + 1].expand(-1, item.width) for i, item in enumerate(self.items)] + [keep], dim=1)
        return vector * slots.to(vector.device)


ANY = ""
"""The class of images where there are no classes."""


def fit(table: pd.DataFrame, classes: Sequence[str], covariates: Sequence[Mapping[str, Any]]) -> Conditions:
    """Learn the conditions from the training rows: the class where there is one, then the covariates as the Dataset lists them."""
    labels = table["label"].fillna(ANY) if classes else pd.Series(ANY, index=table.index)
    items = []
    if classes:
        shares = {name: float((labels == name).mean()) for name in classes}
        items.append(Condition("label", "categorical", tuple(classes), population={ANY: shares}))
    for covariate in covariates:
        column = table[covariate["name"]]
        groups = {ANY: column} | {name: column[labels == name] for name in classes}
        if covariate["kind"] == "categorical":
            values = tuple(covariate["values"])
            population = {group: {value: float((part == value).mean()) for value in values} for group, part in groups.items()}
            items.append(Condition(covariate["name"], "categorical", values, population=population))
        else:
            column = column.astype(float)
            sd = float(column.std()) if column.notna().sum() > 1 else 1.0
            population = {group: _spread(part.astype(float).dropna()) for group, part in groups.items()}
            items.append(
                Condition(covariate["name"], "continuous", mean=float(np.nan_to_num(column.mean())), sd=sd or 1.0, population=population)
            )
    return Conditions(tuple(items))


def _spread(values: pd.Series[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    low, high = np.percentile(values, [5, 95])
    return {"mean": float(values.mean()), "sd": float(values.std()), "low": float(low), "high": float(high)}


def draw(
    conditions: Conditions, images: int, composition: Literal["as_trained", "balanced"], generator: np.random.Generator
) -> pd.DataFrame:
    """Draw what each of `images` synthetic images is conditioned on: one column per condition.

    Classes come in exact shares (largest remainder); covariates are drawn within the class, independently of each
    other, so that no training patient's combination is repeated on purpose; continuous ones lie between the 5th and
    the 95th percentile.
    """
    table = pd.DataFrame(index=range(images))
    labels = np.full(images, ANY, dtype=object)
    for item in conditions.items:
        population = item.population or {}
        if item.name == "label":
            shares = np.array([population[ANY][value] for value in item.values])
            if composition == "balanced":
                shares = (shares > 0).astype(float)
            labels = _exact(item.values, shares / shares.sum(), images, generator)
            table["label"] = labels
            continue
        column = np.full(images, np.nan if item.kind == "continuous" else None, dtype=float if item.kind == "continuous" else object)
        for label in sorted(set(labels)):
            here = np.flatnonzero(labels == label)
            spread = population.get(label) or population[ANY]
            if item.kind == "continuous":
                if spread:
                    column[here] = np.clip(generator.normal(spread["mean"], spread["sd"], len(here)), spread["low"], spread["high"]).round(
                        1
                    )
            elif sum(spread.values()) > 0:
                weights = np.array([spread[value] for value in item.values])
                column[here] = generator.choice(np.array(item.values, dtype=object), len(here), p=weights / weights.sum())
        table[item.name] = column
    return table


def _exact(values: Sequence[str], shares: NDArray[np.float64], images: int, generator: np.random.Generator) -> NDArray[Any]:
    counts = np.floor(shares * images).astype(int)
    remainder = np.argsort(-(shares * images - counts), kind="stable")[: images - counts.sum()]
    counts[remainder] += 1
    return generator.permutation(np.repeat(np.array(values, dtype=object), counts))
