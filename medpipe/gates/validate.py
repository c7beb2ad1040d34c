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

from medpipe import __version__, records
from medpipe.gates import (
    copy_gate,
    data_docs,
    evidence,
    expectations,
    jobs,
    membership,
    membership_gate,
    officer,
    plan,
    privacy,
    segmentation,
)
from medpipe.gates.job import PLAN, Job, done, save
from medpipe.gates.measured import Measured
from medpipe.gates.verdict import Verdict, judge
from medpipe.images.dataset import Dataset
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Record
from medpipe.release import report_page
from medpipe.threads import threads


def made_from(cohort: Path, dataset: Path, recipe: Recipe, checkpoint: Path | None = None) -> MadeFrom:
    """Say what the Report would be made from."""
    inputs = {"cohort": records.load(cohort, "Cohort").content, "dataset": records.load(dataset, "Dataset").content}
    if checkpoint is not None:
        inputs["checkpoint"] = records.load(checkpoint, "Checkpoint").content
    return MadeFrom("Report", inputs, recipe.settings("gates"), recipe.seed, __version__)


def validate(
    cohort: Path,
    dataset: Path,
    out: Path,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Record:
    """Judge the Cohort at `cohort` against the Dataset at `dataset` and write the Report to `out`.

    With the Checkpoint that made the Cohort, the model itself is attacked, too. Raises RecordError for an altered input,
    InputError where they do not belong together. A failed gate is no error.
    """
    wanted = made_from(cohort, dataset, recipe, checkpoint)
    if (report := records.finished(out, wanted)) is not None:
        return report
    source, data = records.load(cohort, "Cohort", verify=True), Dataset.open(dataset, verify=True)
    plan.comparable(source, data.record)
    model = None if checkpoint is None else records.load(checkpoint, "Checkpoint", verify=True)
    if model is not None:
        membership.belongs(model, source, data.record)
    begun = time.monotonic()
    with records.making(out, wanted) as making:
        index = pd.read_parquet(source.path / "index.parquet")
        known, holdout, patients = plan.known_digests(data)
        rows = plan.parts(data, holdout, index, recipe.seed) | segmentation.parts(source.path, data, holdout, recipe.seed)
        rows |= membership.chosen(rows["embed_train"], rows["embed_holdout"], recipe.gates.membership_images, recipe.seed)
        rows |= {"patients": patients}
        save(making.state, PLAN, rows)
        work = plan.first(source.path, data, making.state, recipe, rows)
        if model is not None:
            work += membership.planned(source.path, data.record.path, making.state, recipe.model_dump_json(), rows, model.path)
        later = plan.second(source.path, data, making.state, recipe, rows, len(index))
        frozen = plan.third(source.path, data, making.state, recipe, rows, len(index), bool(source.facts["classes"]))
        last = plan.fourth(source.path, data, making.state, recipe, rows, len(index))
        _run((work, later, frozen, last), executor, progress)
        measured = Measured(source, data, index, rows, known, [*work, *later, *frozen, *last], recipe, model)
        with threads(1):
            facts = _write(measured, making.path)
        return making.seal(facts | {"cost": {"seconds": round(time.monotonic() - begun, 1)}})


def _run(phases: tuple[list[Job], ...], executor: Executor | None, progress: Progress) -> None:
    """Do the jobs of each phase; a phase needs the results of those before."""
    total = sum(len(phase) for phase in phases)
    ready = sum(done(job) for phase in phases for job in phase)
    progress("measure", ready, total)
    for phase in phases:
        for _ in each(executor, jobs.perform, [job for job in phase if not done(job)]):
            ready += 1
            progress("measure", ready, total)


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


def _withheld(images: pd.DataFrame, outliers: NDArray[np.bool_]) -> pd.DataFrame:
    """Withhold outliers too, each for that reason unless it is a copy."""
    reason = images["reason"].where(~(outliers & ~images["withheld"]), "outlier")
    return images.assign(withheld=images["withheld"] | outliers, reason=reason)


def _write(measured: Measured, out: Path) -> dict[str, Any]:
    """Judge, write the Report's files, and return the record's facts."""
    copied = measured.copies()
    images = _withheld(pd.DataFrame(copy_gate.table(copied, measured.scored["copy_measures"])), measured.likeness.outliers)
    guarded = privacy.assess(measured, images["withheld"].to_numpy())
    withheld = {int(row) for row in np.flatnonzero(images["withheld"])}
    verdicts = [*copied.verdicts, *guarded.verdicts, *measured.likeness.verdicts]
    verdicts += [verdict for verdict in (measured.composition(), measured.utility()) if verdict is not None]
    used, tables = measured.use()
    verdicts += used
    fair, by_group, of_groups = measured.fairness(copied.withheld)
    member = measured.membership()
    tested, tried = measured.self_test()
    verdicts += [*member.verdicts, *fair, *([tested] if tested is not None else [])]
    facts = {"images": int(measured.cohort.facts["images"]), "classes": measured.classes, "covariates": measured.covariates}
    wanted = expectations.of_index(facts, _ranges(measured.data, measured.covariates, measured.rows["train"]))
    of_index = expectations.check(measured.index, wanted, "index")
    verdicts.append(_table_verdict(of_index, "the table of synthetic subjects", len(measured.index)))
    metrics = pd.DataFrame([vars(verdict) for verdict in verdicts]).drop(columns="meaning")
    of_metrics = expectations.check(metrics, expectations.of_metrics([verdict.name for verdict in verdicts]), "metrics")
    verdicts.append(_table_verdict(of_metrics, "the table of measurements", len(metrics)))
    passed = all(verdict.passed for verdict in verdicts)
    bound = membership_gate.guarantee(measured.model)
    tables += [copied.false_alarms, *measured.likeness_tables(), *member.tables, *bound.tables, *of_groups, *guarded.tables]
    report = evidence.report(measured, verdicts, copied, by_group, tried, tables, [*member.gaps, *bound.gaps])
    report["not_assessed"] = [*guarded.gaps, *report["not_assessed"]]
    report["quarantine"] = guarded.selection.as_json()
    report["privacy"] = officer.section(report)
    pd.DataFrame([vars(verdict) for verdict in verdicts]).drop(columns="meaning").to_parquet(out / "metrics.parquet", index=False)
    images.assign(**guarded.columns).to_parquet(out / "images.parquet", index=False)
    records.write_json(out / "expectations.json", {"index": of_index, "metrics": of_metrics})
    data_docs.write(out, {"index": of_index, "metrics": of_metrics})
    records.write_json(out / "report.json", report)
    fingerprints = {"dataset": measured.data.record.content}
    page = report_page.render(report, measured.cohort.path, withheld=withheld, selection=guarded.selection, fingerprints=fingerprints)
    records.write_bytes(out / "report.html", page.encode())
    return {
        "passed": passed,
        "gates": len(verdicts),
        "failed": [verdict.name for verdict in verdicts if not verdict.passed],
        "withheld": len(withheld),
        "images": len(measured.index),
        **{name: guarded.selection.as_json()[name] for name in ("asked", "replaced", "short")},
    }
