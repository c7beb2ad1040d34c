"""Splits: who is trained on, who is held out, and who is neither; no patient is in two of them.

A unit (a patient, or a block of neighbouring rows) has a place in [0, 1) that is drawn from the seed and its pseudonym
alone, and the line is cut at the cumulated fractions: test, validation, holdout, train. So a unit stays in its split when
others join. That alone would leave the shares to chance (binomial), and shares can be exact only if units move; therefore
each class is cut for itself, and a cut is moved, by the fewest units, only where it is further than `_TOLERANCE` of the smaller
neighbouring share from the one asked for, or where a split would lack the class. Measured, when a class grows by a tenth:
1.3 % of 200 patients move, 0.5 % of 400, 0.03 % of 2,000; exact shares would move 2.2 %, 1.6 % and 0.6 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.errors import InputError
from medpipe.images.dataset import SPLITS, Split
from medpipe.images.reasons import Reason
from medpipe.seeds import child
from medpipe.settings import ImagesSettings

_LINE: tuple[Split, ...] = ("test", "validation", "holdout", "train")
"""Order of the splits along the line, and of their strength: of two identical images the one further left is kept."""
_NEED: tuple[Split, ...] = ("train", "holdout", "test", "validation")
"""Order in which the splits get a unit of a class that has too few for all."""
_TOLERANCE = 0.15


def assign(images: pd.DataFrame, settings: ImagesSettings, seed: int) -> pd.DataFrame:
    """Return `images` with the columns `split` (null where left out) and `reason` (the code, null where used).

    `images` has one row per image: patient, label (str or null), order, split (as given, or null) and digest of the
    pixels. With blocks, the `patient` returned is the block: the smallest unit known to be apart from the others.
    Raises InputError where a split would be empty.
    """
    out = images.assign(reason=None)
    if settings.split == "blocks":
        out["patient"] = _blocks(out["order"].to_numpy(), settings.blocks)
    _leave_out(out, _small_classes(out, settings.patients_per_class_min), Reason.CLASS_TOO_SMALL)
    if settings.split == "given":
        out["split"] = _given(out, settings, seed)
    else:
        used = out[out["reason"].isna()]
        fractions: dict[Split, float] = {name: getattr(settings, name) for name in ("test", "validation", "holdout")}
        out["split"] = out["patient"].map(cut(strata(used), fractions, seed))
    if settings.split == "blocks":
        _leave_out(out, _block_edges(out, settings.block_gap), Reason.BLOCK_EDGE)
    _leave_out(out, _across_splits(out), Reason.PATIENT_ACROSS_SPLITS)
    _leave_out(out, _duplicates(out), Reason.DUPLICATE)
    out.loc[out["reason"].notna(), "split"] = None
    _check(out, settings)
    return out


def cut(units: Mapping[str, str], fractions: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Assign each unit (unit to stratum) to a split; what the fractions leave is for training."""
    splits = [name for name in _LINE if name == "train" or name in fractions]
    shares = [fractions[name] if name != "train" else 1 - sum(fractions.values()) for name in splits]
    members: dict[str, list[tuple[float, str]]] = {}
    for unit, stratum in units.items():
        members.setdefault(stratum, []).append((child(seed, "split", unit) / 2**63, unit))
    assigned: dict[str, Split] = {}
    for line in members.values():
        line.sort()
        ends = _cuts([place for place, _ in line], splits, shares)
        for name, start, stop in zip(splits, [0, *ends], [*ends, len(line)], strict=True):
            assigned.update({unit: name for _, unit in line[start:stop]})
    return assigned


def _cuts(places: Sequence[float], splits: Sequence[Split], shares: Sequence[float]) -> list[int]:
    """Return how many of the sorted `places` lie before each cut between two splits."""
    n = len(places)
    asked = [name for name in _NEED if name in splits and shares[splits.index(name)] > 0]
    least = [int(name in asked[:n]) for name in splits]
    ends: list[int] = []
    for index in range(len(splits) - 1):
        wanted = n * sum(shares[: index + 1])
        slack = max(0.5, _TOLERANCE * n * min(shares[index], shares[index + 1]))
        end = int(np.searchsorted(places, sum(shares[: index + 1])))
        end = min(max(end, math.ceil(wanted - slack)), math.floor(wanted + slack))
        ends.append(min(max(end, (ends[-1] if ends else 0) + least[index]), n - sum(least[index + 1 :])))
    return ends


def strata(images: pd.DataFrame) -> dict[str, str]:
    """Return unit to stratum: the rarest of its classes, counted in units, so that rare classes are spread evenly."""
    pairs = images[["patient", "label"]].fillna({"label": ""}).drop_duplicates()
    rarity = pairs["label"].value_counts()
    pairs = pairs.assign(rarity=pairs["label"].map(rarity)).sort_values(["rarity", "label"])
    return dict(pairs.drop_duplicates("patient").set_index("patient")["label"].sort_index())


def _given(images: pd.DataFrame, settings: ImagesSettings, seed: int) -> pd.Series[Any]:
    """Keep the splits that the source has and cut the missing ones, the holdout always, from its training population."""
    if images["split"].isna().all():
        raise InputError("images.split is 'given' and the source has no splits: set it to 'patient' or 'blocks'")
    present = set(images["split"].dropna())
    missing: list[Split] = [name for name in ("test", "validation", "holdout") if name not in present]
    population = images[(images["split"].fillna("train") == "train") & images["reason"].isna()]
    assigned = cut(strata(population), {name: getattr(settings, name) for name in missing}, seed)
    return images["split"].where(~images.index.isin(population.index), images["patient"].map(assigned))


def _blocks(order: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the block of each row: `count` runs of neighbours in `order`, of equal length to one row."""
    if len(order) < count:
        raise InputError(f"images.blocks is {count} and there are {len(order)} images: lower it")
    ranks = np.empty(len(order), np.int64)
    ranks[np.argsort(order, kind="stable")] = np.arange(len(order))
    return np.array([f"block-{rank * count // len(order):04d}" for rank in ranks], dtype=object)


def _block_edges(images: pd.DataFrame, gap: int) -> NDArray[np.bool_]:
    """Mark the rows nearer than `gap` to a block of a stronger split: only the weaker side gives way."""
    ordered = images.sort_values("order")
    strength = ordered["split"].map({name: _LINE.index(name) for name in SPLITS}).fillna(-1).to_numpy()
    edge = np.zeros(len(ordered), bool)
    for boundary in np.flatnonzero(np.diff(strength)) + 1:
        before, after = strength[boundary - 1], strength[boundary]
        side = slice(max(0, boundary - gap), boundary) if before > after else slice(boundary, boundary + gap)
        edge[side] |= strength[side] == max(before, after)
    return np.asarray(pd.Series(edge, index=ordered.index).reindex(images.index))


def _small_classes(images: pd.DataFrame, least: int) -> NDArray[np.bool_]:
    patients = images.groupby("label")["patient"].nunique()
    return np.asarray(images["label"].isin(patients[patients < least].index))


def _across_splits(images: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the images of a patient that is also in a stronger split."""
    strength = images["split"].map({name: _LINE.index(name) for name in SPLITS}).where(images["reason"].isna())
    return np.asarray(strength > strength.groupby(images["patient"]).transform("min"))


def _duplicates(images: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark all but the strongest of the images that are identical in every pixel; among equals the first stays."""
    used = images[images["reason"].isna()]
    strength = used["split"].map({name: _LINE.index(name) for name in SPLITS})
    ordered = used.assign(strength=strength).sort_values("strength", kind="stable")
    return np.asarray(images.index.isin(ordered.index[ordered["digest"].duplicated()]))


def _leave_out(images: pd.DataFrame, marked: NDArray[np.bool_], reason: Reason) -> None:
    images.loc[marked & images["reason"].isna().to_numpy(), "reason"] = reason.name


def _check(images: pd.DataFrame, settings: ImagesSettings) -> None:
    """Refuse a Dataset in which a split is empty."""
    used = images[images["reason"].isna()]
    empty = [name for name in SPLITS if not (used["split"] == name).any()]
    if not empty:
        return
    unit = "blocks" if settings.split == "blocks" else "patients"
    zero = [name for name in empty if name != "train" and getattr(settings, name) == 0]
    remedy = f"set images.{zero[0]} above 0" if zero else f"give at least {len(SPLITS)} {unit} of one class"
    raise InputError(
        f"{used['patient'].nunique()} {unit} with {len(used)} usable images leave the {' and '.join(empty)} split without any"
        f"{_left_out(images)}: {remedy}"
    )


def _left_out(images: pd.DataFrame) -> str:
    counts = images["reason"].value_counts().sort_index()
    return f" ({', '.join(f'{count} {code}' for code, count in counts.items())} left out)" if len(counts) else ""
