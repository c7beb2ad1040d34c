"""The audit of bias: what differs between groups of patients in the training data, in the cohort, and in models trained on each.

Gates compare the cohort with the patients it was trained on; a bias that these have is kept by an honest cohort. So it is shown, in
figures, where each difference comes from: the data's composition, or what was learned from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe import seeds
from medpipe.gates import bootstrap, copies, utility
from medpipe.gates.fairness import GROUP_MIN, Evidence, Group
from medpipe.gates.table import table
from medpipe.settings import GatesSettings

Labels = NDArray[np.int64]
Row = list[str | float | None]
PREVALENCE = (
    "How frequent each class is within a group, among the patients trained on and in the cohort (95 % interval). A share that would tell "
    "a count of few patients is not published."
)
BIAS = (
    "The widest difference between the groups of a covariate: in their share of the images, in how frequent a class is in them, and in "
    "how well their real patients are told apart (AUC, 95 % interval) by models trained on patients and on the cohort. What the "
    "patients' columns show was in the training data; what the cohort's show beyond that was added. Groups differ by chance too: "
    "the interval says by how much the figure varies."
)


@dataclass(frozen=True)
class Figures:
    """The groups that are large enough, and what is known of their images."""

    groups: Sequence[Group]
    train: NDArray[np.bool_]
    real: Labels
    made: Labels
    classes: Sequence[str]
    evidence: Evidence

    def tables(self, settings: GatesSettings, seed: int) -> list[dict[str, Any]]:
        """Return the tables of prevalence and of bias, as far as there are groups of a covariate and classes."""
        by_attribute: dict[str, list[Group]] = {}
        for group in self.groups:
            if group.attribute not in ("", "class"):
                by_attribute.setdefault(group.attribute, []).append(group)
        found = []
        if by_attribute and len(self.classes) > 1:
            rows = [row for groups in by_attribute.values() for group in groups for row in self._prevalence(group, settings.small_cell)]
            columns = ("group", "class", "patients", "cohort", "difference")
            found.append(table("How frequent each class is in a group", PREVALENCE, columns, rows))
        compared = [self._bias(name, groups, settings, seed) for name, groups in by_attribute.items() if len(groups) > 1]
        if compared:
            columns = ("covariate", "share, patients", "share, cohort", "prevalence, patients", "prevalence, cohort")
            found.append(
                table(
                    "Where differences come from",
                    BIAS,
                    (*columns, "AUC, trained on patients", "AUC, trained on cohort", "in words"),
                    compared,
                )
            )
        return found

    def _within(self, group: Group, small_cell: int) -> list[float | None]:
        """Return the share of each class among the group's training images, all None where one would tell a small count."""
        counts = np.bincount(self.real[group.real & self.train & (self.real >= 0)], minlength=len(self.classes))
        total = int(counts.sum())
        hidden = total == 0 or any(0 < count < small_cell for count in counts)
        return [None if hidden else float(count / total) for count in counts]

    def _made(self, group: Group) -> NDArray[np.int64]:
        return np.bincount(self.made[group.made & (self.made >= 0)], minlength=len(self.classes)).astype(np.int64)

    def _prevalence(self, group: Group, small_cell: int) -> list[Row]:
        counts = self._made(group)
        total = int(counts.sum())
        rows: list[Row] = []
        for name, count, real in zip(self.classes, counts, self._within(group, small_cell), strict=True):
            low, high = copies.clopper_pearson(int(count), total)
            share = count / max(1, total)
            said = f"{share:.1%} [{low:.1%}, {high:.1%}]"
            rows.append(
                [
                    group.name,
                    name,
                    None if real is None else f"{real:.1%}",
                    said,
                    None if real is None else f"{100 * (share - real):+.1f} points",
                ]
            )
        return rows

    def _bias(self, name: str, groups: Sequence[Group], settings: GatesSettings, seed: int) -> Row:
        known = self.train & np.any([group.real for group in groups], axis=0)
        real = _range([float(group.real[known].mean()) for group in groups])
        made = _range([float(group.made.mean()) for group in groups])
        within = [self._within(group, settings.small_cell) for group in groups]
        prevalence = None if any(None in row for row in within) else _widest([[float(value or 0) for value in row] for row in within])
        synthetic = _widest([(counts / max(1, counts.sum())).tolist() for counts in (self._made(group) for group in groups)])
        gaps = {arm: self._gap(arm, groups, settings, seed) for arm in ("real", "synthetic")}
        few = len(self.classes) < 2
        words = f"shares of the groups of {name} differ by {100 * real:.0f} points among patients and by {100 * made:.0f} in the cohort"
        if (one := gaps["real"]) is not None and (other := gaps["synthetic"]) is not None:
            words += f"; between them AUC differs by {one.value:.3f} for models trained on patients, {other.value:.3f} on the cohort"
        return [
            name,
            f"{100 * real:.1f} points",
            f"{100 * made:.1f} points",
            None if few or prevalence is None else f"{100 * prevalence:.1f} points",
            None if few else f"{100 * synthetic:.1f} points",
            None if gaps["real"] is None else str(gaps["real"]),
            None if gaps["synthetic"] is None else str(gaps["synthetic"]),
            f"{words}.",
        ]

    def _gap(self, arm: str, groups: Sequence[Group], settings: GatesSettings, seed: int) -> bootstrap.Estimate | None:
        """Return the widest difference of AUC between the groups that have test images enough; None where there are not two."""
        found = self.evidence
        places = [np.flatnonzero(group.real[found.tested]) for group in groups]
        places = [rows for rows in places if len(rows) >= GROUP_MIN and (np.bincount(found.truth[rows]) >= 10).sum() >= 2]
        if len(places) < 2 or not found.arms.get(arm):
            return None

        def widest(some: Sequence[NDArray[np.int64]]) -> float:
            return _range([float(np.mean([utility.auc(one[rows], found.truth[rows]) for one in found.arms[arm]])) for rows in some])

        draws = seeds.generator(seed, "gates", "bias", groups[0].attribute)
        resampled = [widest([draws.choice(rows, len(rows)) for rows in places]) for _ in range(settings.resamples)]
        return bootstrap.estimate(widest(places), np.array(resampled))


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _widest(shares: Sequence[Sequence[float]]) -> float:
    """Return the widest difference between rows (groups), over columns (classes)."""
    return max(_range(column) for column in zip(*shares, strict=True)) if shares and shares[0] else 0.0
