"""Singling out: predicates that hold for one synthetic row alone, and for how many of them one patient alone fulfils them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GUESSES = 500
"""Predicates that are tried to single a patient out."""
GUESSES_MIN = 20
"""Fewer predicates than this say nothing."""
GROUPS = 200
"""Groups of patients as many as were held out, drawn to see how much the isolated ones depend on who was."""
REACH = 0.01
"""Half-width of a predicate on a continuous value, in units of its range."""
Values = NDArray[np.float64]


class Tried(NamedTuple):
    """How often one patient alone fulfilled predicates of a kind, of the training patients, of those held out, and by guessing."""

    what: str
    tries: int
    hits: float
    control: float
    guess: float
    by_group: float
    """Standard deviation of `control` by who was held out."""
    parts: int
    """Groups of training patients, each as large as the control, of which `hits` is the mean."""


def tried(train: Values, control: Values, made: Values, continuous: NDArray[np.bool_], draws: np.random.Generator) -> Iterator[Tried]:
    """Try predicates on one column and on several, drawn from the synthetic rows `made` (N, columns).

    The training patients are taken in parts as large as the control, since whether a predicate isolates one depends on how many there are.
    """
    shuffled = np.stack([draws.permutation(column) for column in made.T], 1)
    parts = np.array_split(draws.permutation(len(train)), max(1, len(train) // len(control)))
    for what, sizes in (("one column", (1, 1)), ("several columns", (2, made.shape[1]))):
        if sizes[1] < sizes[0]:
            continue
        boxes, guesses = (_boxes(of, continuous, sizes, draws) for of in (made, shuffled))
        if len(boxes) < GUESSES_MIN:
            continue
        inside, naive = (_inside(of, np.concatenate((train, control))) for of in (boxes, guesses))
        known, held = inside[:, : len(train)], inside[:, len(train) :]
        hits, guess = (float(np.mean([_alone(of[:, part]) for part in parts])) for of in (known, naive))
        yield Tried(what, len(boxes), hits, _alone(held), guess, _by_group(inside, len(control), draws), len(parts))


def _by_group(inside: NDArray[np.bool_], size: int, draws: np.random.Generator) -> float:
    """Standard deviation of the share that predicates isolate among `size` patients, by which patients these are.

    All predicates are tried on the same few patients, so their hits go up and down together. Groups are drawn from all patients,
    `inside` (P, N), without replacement: one that is a large part of them varies less than a fresh one would.
    """
    n = inside.shape[1]
    shares = [_alone(inside[:, draws.permutation(n)[:size]]) for _ in range(GROUPS)]
    return float(np.std(shares, ddof=1)) / math.sqrt(1 - size / n)


def _boxes(made: Values, continuous: NDArray[np.bool_], sizes: tuple[int, int], draws: np.random.Generator) -> Values:
    """Draw predicates (P, columns, 2), each a lowest and a highest value of each column, that hold for one row of `made`."""
    n, width = made.shape
    known = np.isfinite(made)
    found: list[Values] = []
    for row in draws.integers(0, n, 2 * GUESSES) if n else ():
        size = int(draws.integers(sizes[0], sizes[1] + 1))
        columns = draws.permutation(np.flatnonzero(known[row]))[:size]
        if len(columns) < size:
            continue
        box = np.tile([-np.inf, np.inf], (width, 1))
        for column in columns:
            value = made[row, column]
            reach = REACH if continuous[column] else 0.25
            box[column] = value - reach, value + reach
        found.append(box)
    for column in np.flatnonzero(continuous) if sizes == (1, 1) else ():  # the ends of a column are the classical predicate
        if known[:, column].any():
            for end, value in ((1, np.nanmin(made[:, column])), (0, np.nanmax(made[:, column]))):
                box = np.tile([-np.inf, np.inf], (width, 1))
                box[column, end] = value
                found.append(box)
    if not found:
        return np.empty((0, width, 2))
    boxes = np.unique(np.stack(found), axis=0)
    boxes = boxes[np.flatnonzero(_inside(boxes, made).sum(1) == 1)]
    return boxes[draws.permutation(len(boxes))[:GUESSES]]


def _inside(boxes: Values, values: Values) -> NDArray[np.bool_]:
    """Say which rows of `values` lie in which boxes (P, columns, 2): (P, N). An unknown value lies in no box that asks for it."""
    out = np.empty((len(boxes), len(values)), dtype=bool)
    for number, box in enumerate(boxes):
        asked = np.isfinite(box).any(1)
        out[number] = ((values[:, asked] >= box[asked, 0]) & (values[:, asked] <= box[asked, 1])).all(1)
    return out


def _alone(inside: NDArray[np.bool_]) -> float:
    """Share of predicates in which exactly one row lies; 0 where there are no predicates."""
    return float((inside.sum(1) == 1).mean()) if len(inside) else 0.0
