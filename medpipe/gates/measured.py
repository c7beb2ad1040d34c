"""Everything that was measured, ready to be judged."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe.gates import (
    asked,
    bias,
    conditions,
    copies,
    copy_gate,
    disclosure,
    fairness,
    fidelity,
    fidelity_gate,
    likeness,
    membership,
    membership_gate,
    of_use,
    plan,
    reidentification,
    selftest,
    table_attacks,
    utility_gate,
)
from medpipe.gates.copy_rule import CopyRule
from medpipe.gates.fidelity_gate import Sample
from medpipe.gates.frozen import Frozen, Part
from medpipe.gates.job import ENCODER, Job, found, numbers
from medpipe.gates.likeness_jobs import SIMILARITY
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
        model: Record | None = None,
    ) -> None:
        self.cohort, self.data, self.index, self.rows, self.work, self.recipe = cohort, data, index, rows, work, recipe
        self.known, self.model = known, model
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
        practised = (plan.gathered(self.work, "practice", what)["copy_measures"] for what in ("copies", "real", "altered", "strange"))
        copied, *others = practised
        rule = CopyRule.fit(copied, np.concatenate(others))
        scored = self.scored["copy_measures"]
        held = self.held.get("copy_measures", np.empty((0, scored.shape[1])))
        people = self.data.index["patient"].to_numpy()[self.rows["holdout"]]
        return copy_gate.assess(scored, self._same(self.scored["digests"]), held, planted, rule, self.recipe.gates, people)

    def _same(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([digest.tobytes() in self.known for digest in digests], dtype=bool)

    @cached_property
    def frozen(self) -> Frozen:
        """The yardstick, which was fixed from the Dataset alone."""
        job = next(job for job in self.work if job.kind == "baseline" and job.what != "halves")
        return Frozen(found(job.state, job.name))

    @cached_property
    def yardstick(self) -> dict[str, Any]:
        """What the Report says of the yardstick: its digest, and what real images were drawn."""
        weights, baseline = found(self.work[0].state, ENCODER), self.frozen.baseline
        digest = self.frozen.digest(weights, self.recipe.gates)
        return {"digest": digest, "held_out": baseline.held, "sizes": list(baseline.real), "resamples": self.recipe.gates.resamples}

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """What was embedded, by kind."""
        samples: dict[str, Sample] = {}
        raw = {what: plan.gathered(self.work, "embed", what) for what in ("train", "holdout", "cohort")}
        for what, values in raw.items():
            rows, made = self.rows[f"embed_{what}"], what == "cohort"
            per_image = {name: value[: len(rows)] for name, value in (values or raw["train"]).items() if name != SIMILARITY}
            strata = (self.made if made else self.real)[rows]
            samples[what] = self.frozen.sample(Part(per_image, strata, None if made else self.data.index.iloc[rows]))
        return samples

    @cached_property
    def likeness(self) -> likeness.Judged:
        """Judge likeness, outliers and whether images show what they were asked to."""
        embedded, distances = self.rows["embed_cohort"], plan.gathered(self.work, "outlier", "cohort")
        truths = conditions.targets(self.made[embedded], self.classes, self.index.iloc[embedded], list(self.data.facts["covariates"]))
        return likeness.judge(
            self.frozen,
            self.samples["train"],
            self.samples["cohort"],
            distances["far"],
            distances["near"],
            embedded,
            truths,
            self.recipe.gates,
            self.recipe.gates.resamples,
            self.recipe.seed,
        )

    def likeness_tables(self) -> list[dict[str, Any]]:
        """Return the tables of figures on likeness."""
        pairs = {what: plan.gathered(self.work, "embed", what).get(SIMILARITY, np.empty(0)) for what in ("cohort", "holdout")}
        return likeness.tables(self.likeness, self.frozen, self.samples, pairs, self.classes, self.recipe.seed)

    def fairness(self, withheld: NDArray[np.bool_]) -> tuple[list[Verdict], list[dict[str, Any]], list[dict[str, Any]]]:
        """Judge each group of patients; return the verdicts, the figures of every group, and tables of prevalence and bias."""
        train = np.zeros(len(self.real), dtype=bool)
        train[self.rows["train"]] = True
        groups = fairness.find(self.data.index, self.index, self.covariates, self.classes, train)
        balance = self.balance
        compared = fairness.Evidence(
            {what: (sample, self.rows[f"embed_{what}"]) for what, sample in self.samples.items()},
            self.arms(),
            self.rows["tested"],
            self.real[self.rows["tested"]],
            withheld,
            fairness.expected(groups, train, self.real, self.made, None if balance is None else balance.parts),
        )
        verdicts, rows = fairness.assess(groups, compared, self.recipe.gates, self.recipe.seed)
        known = {row["group"] for row in rows if row["assessed"]}
        figures = bias.Figures([group for group in groups if group.name in known], train, self.real, self.made, self.classes, compared)
        return verdicts, rows, figures.tables(self.recipe.gates, self.recipe.seed)

    @cached_property
    def balance(self) -> asked.Balance | None:
        """The covariate that the Cohort was asked to balance, None where there is none."""
        name = self.cohort.facts.get("balance")
        item = next((item for item in self.covariates if item["name"] == name and item["kind"] == "categorical"), None)
        if item is None or item["name"] not in self.data.index or item["name"] not in self.index:
            return None
        train = np.zeros(len(self.real), dtype=bool)
        train[self.rows["train"]] = True
        return asked.Balance.of(self.data.index[item["name"]], list(item["values"]), self.real, train)

    def membership(self) -> membership_gate.Found:
        """Judge what the model and the cohort tell of who was trained on."""
        settings, seed, rows = self.recipe.gates, self.recipe.seed, self.rows
        both = {"members": "train", "others": "holdout"}
        raw = {who: plan.gathered(self.work, "embed", part) for who, part in (both | {"cohort": "cohort"}).items()}
        statistics = {
            who: {name: of[name][np.searchsorted(rows[part], rows[f"embed_{part}"])] for name in fidelity.STATISTICS} if of else {}
            for who, part, of in (("members", "train", self.train), ("others", "holdout", self.held))
        }
        places = {who: np.searchsorted(rows[f"embed_{part}"], rows[f"attack_{who}"]) for who, part in both.items()}
        attacked = {who: plan.gathered(self.work, "attack", who) for who in (*both, membership.CANARIES)}
        train = np.isin(np.arange(len(self.real)), rows["train"])
        groups = {
            group.name: (group.real[rows["attack_members"]], group.real[rows["attack_others"]])
            for group in fairness.find(self.data.index, self.index, self.covariates, self.classes, train)
        }
        return membership_gate.all_of(attacked, raw, statistics, places, groups, settings, seed)

    def arms(self) -> dict[str, list[NDArray[np.float32]]]:
        """Return the probabilities of the classifiers of each arm of the utility gate."""
        return {
            what: [found(job.state, job.name)["probabilities"] for job in self.work if (job.kind, job.what) == ("utility", what)]
            for what in ("real", "synthetic")
        }

    def self_test(self) -> tuple[Verdict | None, list[dict[str, Any]]]:
        """Judge the gates by the cohorts that were spoiled on purpose; return the verdict and a row for each.

        Nothing where too few images were held out to judge even half of them, unspoiled, by the other half.
        """
        tried = {job.what: found(job.state, job.name) for job in self.work if job.kind == "selftest"}
        if not tried or selftest.UNCERTIFIABLE in tried[selftest.IDEAL]["rejected_by"]:
            return None, []
        rows = selftest.table({what: result["rejected_by"].tolist() for what, result in tried.items()})
        return selftest.assess(rows, max((int(result["n"]) for result in tried.values()), default=0)), rows

    def table(self) -> disclosure.Found:
        """Judge what the released table may tell: which covariates are hidden in which row, and identifiers."""
        real = self.data.index.iloc[self.rows["train"]]
        return disclosure.assess(real, self.index, self.covariates, self.classes, self.recipe.gates)

    def attacks(self, released: pd.DataFrame) -> tuple[list[Verdict], list[dict[str, Any]], list[dict[str, str]]]:
        """Attack the table as it is `released`; return verdicts, tables, and what could not be judged."""
        return table_attacks.of_tables(self.data, released, self.covariates, self.classes, self.recipe)

    def patients(self) -> reidentification.Found:
        """Judge whether synthetic images can be matched to training patients."""
        if (why := plan.unidentifiable(self.data, self.rows)) is not None:
            return reidentification.Found(None, None, why, None)
        job = next(job for job in self.work if job.kind == "reidentify")
        return reidentification.assess(found(job.state, job.name), self.recipe.gates)

    def composition(self) -> Verdict | None:
        """Judge the shares of the classes, and within them those of a covariate that was to be balanced."""
        made, train, held = (
            np.bincount(labels[labels >= 0], minlength=len(self.classes)).astype(np.int64)
            for labels in (self.made, self.real[self.rows["train"]], self.real[self.rows["holdout"]])
        )
        composed = str(self.cohort.facts.get("composition", "as_trained"))
        if self.balance is None or not self.balance.cells:
            return fidelity_gate.composition(made, train, held, composed, self.recipe.gates)
        name = self.cohort.facts["balance"]
        real, counts = self.data.index[name], self.balance.counts
        have = counts(self.made, self.index[name])
        of_train, of_held = (counts(self.real[self.rows[split]], real.iloc[self.rows[split]]) for split in ("train", "holdout"))
        of_class = (train > 0) / max(1, int((train > 0).sum())) if composed == "balanced" else train / max(1, int(train.sum()))
        return fidelity_gate.composition(have, of_train, of_held, composed, self.recipe.gates, self.balance.shares(of_class))

    def utility(self) -> Verdict | None:
        """Judge use; None where there are not two classes to tell apart."""
        if len(self.classes) < 2:
            return None
        arms = self.arms()
        return utility_gate.assess(arms["real"], arms["synthetic"], self.real[self.rows["tested"]], self.recipe.gates, self.recipe.seed)

    def use(self) -> tuple[list[Verdict], list[dict[str, Any]]]:
        """Judge what else was asked about use; return the verdicts and the tables."""
        return of_use.assess(self.work, self.real[self.rows["tested"]], self.classes, self.recipe)
