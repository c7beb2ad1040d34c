"""Everything that was measured, ready to be judged."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.gates import copies, copy_gate, fairness, features, fidelity, fidelity_gate, plan, selftest, utility_gate
from medpipe.gates.copy_rule import CopyRule
from medpipe.gates.fidelity_gate import Sample
from medpipe.gates.job import Job, found, numbers
from medpipe.gates.verdict import Verdict
from medpipe.images.dataset import Dataset
from medpipe.recipe import Recipe
from medpipe.records import Record


class Measured:
    """What the jobs found, each part to be judged on its own."""

    def __init__(
        self,
        cohort: Record,
        data: Dataset,
        index: pd.DataFrame,
        rows: dict[str, NDArray[np.int64]],
        known: set[bytes],
        work: list[Job],
        recipe: Recipe,
    ) -> None:
        self.cohort, self.data, self.index, self.rows, self.work, self.recipe = cohort, data, index, rows, work, recipe
        self.known = known
        self.classes: list[str] = list(cohort.facts["classes"])  # none where candidates of others came without
        self.covariates: list[dict[str, Any]] = list(cohort.facts["covariates"])
        self.real = numbers(data.index["label"], self.classes)
        self.made = numbers(index["label"], self.classes)
        self.scored = plan.gathered(work, "score", "cohort")
        self.held = plan.gathered(work, "calibrate", "holdout")
        self.train = plan.gathered(work, "describe", "train")

    def copies(self) -> copy_gate.Found:
        """Judge copies."""
        planted = {}
        for family in copies.FAMILIES:
            result = plan.gathered(self.work, "planted", family)
            planted[family] = (result["copy_measures"], self._same(result["digests"]))
        rule = CopyRule.fit(*(plan.gathered(self.work, "practice", what)["copy_measures"] for what in ("copies", "real")))
        scored = self.scored["copy_measures"]
        held = self.held.get("copy_measures", np.empty((0, scored.shape[1])))
        return copy_gate.assess(scored, self._same(self.scored["digests"]), held, planted, rule, self.recipe.gates)

    def _same(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([digest.tobytes() in self.known for digest in digests], dtype=bool)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """What was embedded, by kind."""
        raw = {what: plan.gathered(self.work, "embed", what) for what in ("train", "holdout", "cohort")}
        directions = {space: features.Directions.fit(raw["train"][space]) for space in features.SPACES}
        kinds = (
            ("train", self.rows["train"], self.train, self.real),
            ("holdout", self.rows["holdout"], self.held, self.real),
            ("cohort", np.arange(len(self.index)), self.scored, self.made),
        )
        samples = {}
        for what, of_statistics, statistics, strata in kinds:
            embedded = self.rows[f"embed_{what}"]
            places = np.searchsorted(of_statistics, embedded)
            samples[what] = Sample(
                {space: directions[space](raw[what][space]) for space in features.SPACES} if raw[what] else {},
                {name: statistics[name][places] for name in fidelity.STATISTICS} if statistics else {},
                strata[embedded],
            )
        return samples

    def fidelity(self) -> list[Verdict]:
        """Judge likeness."""
        samples = self.samples
        return fidelity_gate.assess(samples["train"], samples["holdout"], samples["cohort"], self.recipe.gates, self.recipe.seed)

    def fairness(self, withheld: NDArray[np.bool_]) -> tuple[list[Verdict], list[dict[str, Any]]]:
        """Judge each group of patients; return the verdicts and the figures of every group."""
        train = np.zeros(len(self.real), dtype=bool)
        train[self.rows["train"]] = True
        groups = fairness.find(self.data.index, self.index, self.covariates, self.classes, train)
        compared = fairness.Evidence(
            {what: (sample, self.rows[f"embed_{what}"]) for what, sample in self.samples.items()},
            self.arms(),
            self.rows["tested"],
            self.real[self.rows["tested"]],
            withheld,
            fairness.expected(groups, train, self.real, self.made),
        )
        return fairness.assess(groups, compared, self.recipe.gates, self.recipe.seed)

    def arms(self) -> dict[str, list[NDArray[np.float32]]]:
        """Return the probabilities of the classifiers of each arm of the utility gate."""
        return {
            what: [found(job.state, job.name)["probabilities"] for job in self.work if (job.kind, job.what) == ("utility", what)]
            for what in ("real", "synthetic")
        }

    def self_test(self) -> tuple[Verdict | None, list[dict[str, Any]]]:
        """Judge the gates by the cohorts that were spoiled on purpose; return the verdict and a row for each."""
        tried = {job.what: found(job.state, job.name) for job in self.work if job.kind == "selftest"}
        rows = selftest.table({what: result["rejected_by"].tolist() for what, result in tried.items()})
        return selftest.assess(rows, max((int(result["n"]) for result in tried.values()), default=0)), rows

    def composition(self) -> Verdict | None:
        """Judge the classes' shares."""
        made, train, held = (
            np.bincount(labels[labels >= 0], minlength=len(self.classes)).astype(np.int64)
            for labels in (self.made, self.real[self.rows["train"]], self.real[self.rows["holdout"]])
        )
        return fidelity_gate.composition(made, train, held, str(self.cohort.facts.get("composition", "as_trained")), self.recipe.gates)

    def utility(self) -> Verdict | None:
        """Judge use; None where there are not two classes to tell apart."""
        if len(self.classes) < 2:
            return None
        arms = self.arms()
        return utility_gate.assess(arms["real"], arms["synthetic"], self.real[self.rows["tested"]], self.recipe.gates, self.recipe.seed)
