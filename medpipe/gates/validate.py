"""validate: a Cohort beside the Dataset that its model learned from becomes a Report.

Every bound is what real held-out images reach against the training split, at the same number of images, plus a margin
that the recipe names. The verb returns a Report also when a gate fails; `facts["passed"]` says which, and `release`
refuses what did not pass.
"""

from __future__ import annotations

import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medpipe import __version__, consent, records
from medpipe.gates import copies, copy_gate, distributions, expectations, features, fidelity, fidelity_gate, jobs, plan, utility_gate
from medpipe.gates.fidelity_gate import Sample
from medpipe.gates.jobs import Job
from medpipe.gates.verdict import Verdict, judge
from medpipe.images.dataset import Dataset
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Record
from medpipe.release import report_page

NOT_ASSESSED = (
    ("membership inference", "Whether an attacker could tell from the images or the model that a given patient was trained on."),
    ("re-identification of a patient", "Whether an image that is no copy could still be matched to another image of the same patient."),
    ("fairness", "Quality and utility by sex, age, site, scanner or their combinations."),
    ("covariates", "Whether an image shows the age, sex or other covariate that it was asked to show."),
    (
        "disclosure by the table",
        "Whether a combination of covariates singles out a patient; covariates were drawn independently within a class.",
    ),
    (
        "too good to be true",
        "Distances below those of real held-out images: they can be a sign of memorised images and are not gated by themselves.",
    ),
    (
        "heavily altered copies",
        "Copies by strong warps, of a part of an image, or blended from several patients: the detector's recall is listed by kind.",
    ),
    ("clinical truth", "No physician has looked at the images."),
)


def made_from(cohort: Path, dataset: Path, recipe: Recipe) -> MadeFrom:
    """Say what the Report would be made from."""
    inputs = {"cohort": records.load(cohort, "Cohort").content, "dataset": records.load(dataset, "Dataset").content}
    return MadeFrom("Report", inputs, recipe.settings("gates"), recipe.seed, __version__)


def validate(
    cohort: Path, dataset: Path, out: Path, recipe: Recipe, *, executor: Executor | None = None, progress: Progress = silent
) -> Record:
    """Judge the Cohort at `cohort` against the Dataset at `dataset` and write the Report to `out`.

    Raises RecordError for an altered input, InputError where the two do not belong together. A failed gate is no error.
    """
    wanted = made_from(cohort, dataset, recipe)
    if (done := records.finished(out, wanted)) is not None:
        return done
    source, data = records.load(cohort, "Cohort", verify=True), Dataset.open(dataset, verify=True)
    plan.comparable(source, data.record)
    begun = time.monotonic()
    with records.making(out, wanted) as making:
        index = pd.read_parquet(source.path / "index.parquet")
        known, holdout = plan.known_digests(data)
        rows = plan.parts(data, holdout, index, recipe.seed)
        jobs.save(making.state, jobs.PLAN, rows)
        work = plan.first(source.path, data, making.state, recipe, rows, len(index))
        later = plan.second(source.path, data, making.state, recipe, rows)
        _run(work, later, executor, progress)
        measured = Measured(source, data, index, rows, known, [*work, *later], recipe)
        facts = _write(measured, making.path)
        return making.seal(facts | {"cost": {"seconds": round(time.monotonic() - begun, 1)}})


def _run(work: list[Job], later: list[Job], executor: Executor | None, progress: Progress) -> None:
    total = len(work) + len(later)
    ready = sum(jobs.done(job) for job in (*work, *later))
    progress("measure", ready, total)
    for phase in (work, later):
        for _ in each(executor, jobs.perform, [job for job in phase if not jobs.done(job)]):
            ready += 1
            progress("measure", ready, total)


class Measured:
    """Everything that was measured, ready to be judged."""

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
        self.classes: list[str] = list(data.facts["classes"])
        self.real = jobs.numbers(data.index["label"], self.classes)
        self.made = jobs.numbers(index["label"], self.classes)
        self.scored = plan.gathered(work, "score", "cohort")
        self.held = plan.gathered(work, "calibrate", "holdout")
        self.train = plan.gathered(work, "describe", "train")

    def copies(self) -> copy_gate.Found:
        """Judge copies."""
        planted = {}
        for family in copies.FAMILIES:
            result = plan.gathered(self.work, "planted", family)
            planted[family] = (result["scores"], self._same(result["digests"]))
        held = self.held.get("scores", np.empty((0, len(self.scored["scores"][0]))))
        return copy_gate.assess(self.scored["scores"], self._same(self.scored["digests"]), held, planted, self.recipe.gates)

    def _same(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([digest.tobytes() in self.known for digest in digests], dtype=bool)

    def fidelity(self) -> list[Verdict]:
        """Judge likeness."""
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
        return fidelity_gate.assess(samples["train"], samples["holdout"], samples["cohort"], self.recipe.gates, self.recipe.seed)

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
        arms = {
            what: [jobs.found(job.state, job.name)["probabilities"] for job in self.work if (job.kind, job.what) == ("utility", what)]
            for what in ("real", "synthetic")
        }
        return utility_gate.assess(arms["real"], arms["synthetic"], self.real[self.rows["tested"]], self.recipe.gates, self.recipe.seed)


def _table_verdict(result: dict[str, Any], what: str, n: int) -> Verdict:
    broken = float(sum(not entry["success"] for entry in result["results"])) if result["results"] else float("nan")
    return judge(
        f"expectations_{result['suite']}",
        "table",
        broken,
        (broken, broken),
        bound=0,
        direction="at most",
        baseline=0,
        n=n,
        meaning=f"Rules that {what} breaks, of {len(result['results'])} that it was checked for.",
    )


def _ranges(data: Dataset, covariates: list[dict[str, Any]], train: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Return for each continuous covariate the range of the training patients, widened to whole steps of its spread, so that
    the range tells no patient's value."""
    found = {}
    for item in covariates:
        if item["kind"] == "continuous":
            values = data.index[item["name"]].to_numpy(np.float64, na_value=np.nan)[train]
            values = values[np.isfinite(values)]
            if len(values) > 1:
                step = float(f"{max(float(values.std()), 1e-9):.1g}")
                found[item["name"]] = (step * np.floor(values.min() / step), step * np.ceil(values.max() / step))
    return found


def _write(measured: Measured, out: Path) -> dict[str, Any]:
    """Judge, write the Report's files, and return the record's facts."""
    copied = measured.copies()
    verdicts = [*copied.verdicts, *measured.fidelity()]
    verdicts += [verdict for verdict in (measured.composition(), measured.utility()) if verdict is not None]
    covariates = list(measured.data.facts["covariates"])
    facts = {"images": int(measured.cohort.facts["images"]), "classes": measured.classes, "covariates": covariates}
    wanted = expectations.of_index(facts, _ranges(measured.data, covariates, measured.rows["train"]))
    of_index = expectations.check(measured.index, wanted, "index")
    verdicts.append(_table_verdict(of_index, "the table of synthetic subjects", len(measured.index)))
    metrics = pd.DataFrame([vars(verdict) for verdict in verdicts]).drop(columns="meaning")
    of_metrics = expectations.check(metrics, expectations.of_metrics([verdict.name for verdict in verdicts]), "metrics")
    verdicts.append(_table_verdict(of_metrics, "the table of measurements", len(metrics)))
    passed = all(verdict.passed for verdict in verdicts)
    report = _report(measured, verdicts, copied, passed)
    pd.DataFrame([vars(verdict) for verdict in verdicts]).drop(columns="meaning").to_parquet(out / "metrics.parquet", index=False)
    pd.DataFrame(copy_gate.table(copied, measured.scored["scores"])).to_parquet(out / "images.parquet", index=False)
    records.write_json(out / "expectations.json", {"index": of_index, "metrics": of_metrics})
    records.write_json(out / "report.json", report)
    withheld = {int(row) for row in np.flatnonzero(copied.withheld)}
    fingerprints = {"dataset": measured.data.record.content}
    page = report_page.render(report, measured.cohort.path, withheld=withheld, fingerprints=fingerprints)
    records.write_bytes(out / "report.html", page.encode())
    return {
        "passed": passed,
        "gates": len(verdicts),
        "failed": [verdict.name for verdict in verdicts if not verdict.passed],
        "withheld": len(withheld),
        "images": len(measured.index),
    }


def _report(measured: Measured, verdicts: list[Verdict], copied: copy_gate.Found, passed: bool) -> dict[str, Any]:
    cohort, data, cell = measured.cohort.facts, measured.data.facts, measured.recipe.gates.small_cell
    real = measured.data.index.iloc[measured.rows["train"]]
    asked = consent.evidence(cohort.get("consent"), cell)
    unknown = ("consent", consent.LEGAL if asked["checked"] else consent.NOT_CHECKED)
    gaps = [{"what": what, "why": why} for what, why in (*NOT_ASSESSED, unknown)]
    if not any(verdict.name == "utility" for verdict in verdicts):
        gaps.insert(0, {"what": "utility", "why": "The images have no classes to tell apart."})
    curve = pd.read_parquet(measured.cohort.path / "training.parquet") if (measured.cohort.path / "training.parquet").exists() else None
    splits = distributions.suppressed(list(data["splits"].values()), cell)
    return {
        "passed": passed,
        "verdicts": [verdict.as_json() for verdict in verdicts],
        "small_cell": cell,
        "not_assessed": gaps,
        "consent": asked,
        "copy_detector": copied.detector,
        "distributions": distributions.all_of(measured.train, measured.scored, real, measured.index, list(data["covariates"]), cell),
        "composition": distributions.composition(real["label"], measured.index["label"], measured.classes, cell),
        "cohort": {name: value for name, value in cohort.items() if name not in ("cost", "covariates", "consent")},
        "dataset": {name: data.get(name) for name in ("shape", "dtype", "dimensions", "classes", "modality", "spacing_mm", "licence")}
        | {"splits": dict(zip(data["splits"], splits, strict=True))},
        "training": {} if curve is None or curve.empty else {name: _number(curve[name].iloc[-1]) for name in curve.columns},
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
