from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders_gates import CLASSES, cohort, dataset, people, spoiled

from medpipe import records
from medpipe.errors import InputError, RecordError
from medpipe.gates import jobs, plan
from medpipe.gates.frozen import Frozen
from medpipe.gates.job import ENCODER, PLAN, found, save
from medpipe.gates.validate import made_from, validate
from medpipe.images.dataset import Dataset
from medpipe.parallel import processes
from medpipe.recipe import Recipe, build
from medpipe.records import Record

RECIPE = build(
    {
        "gates": {
            "resamples": 20,
            "feature_images": 2000,
            "utility_images": 2000,
            "utility_seeds": 1,
            "curve_shares": [1.0],
            "curve_images": 3000,
            "copy_planted": 15,
            "copy_practice": 100,
        }
    }
)
ADDED = {"frechet_spectrum", "mmd", "mmd_texture", "repeats", "too_good", "outliers", "condition_label"}
PRIVATE = 37.1234
"""An age that one patient of the Dataset has."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Record:
    parts = {name: people(n, seed) for name, n, seed in (("train", 240, 1), ("holdout", 140, 2), ("validation", 20, 7), ("test", 120, 3))}
    ages = [PRIVATE, *np.random.default_rng(0).normal(50, 8, 519).tolist()]
    return dataset(tmp_path_factory.mktemp("gates") / "dataset", parts, CLASSES, {"age": ages})


def made(folder: Path, kind: str = "good", n: int = 250) -> Record:
    draws = np.random.default_rng(0)
    images, labels = spoiled(kind, *people(n, 4), draws)
    return cohort(folder, images, labels, CLASSES, {"age": draws.normal(50, 8, n).tolist()})


@pytest.fixture(scope="module")
def report(data: Record, tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("report")
    return validate(made(folder / "cohort").path, data.path, folder / "report", RECIPE)


def test_a_cohort_of_other_real_images_passes_every_gate(report: Record) -> None:
    assert report.facts["failed"] == []
    assert report.facts["passed"] is True
    text = json.loads((report.path / "report.json").read_text())
    assert text["passed"] is True
    names = [verdict["name"] for verdict in text["verdicts"]]
    assert names[:3] == ["copies_exact", "copies_near", "copy_detector_self_test"]
    assert {"frechet", "kid", "precision", "recall", "composition", "utility", "expectations_index", "expectations_metrics"} | ADDED <= set(
        names
    )
    assert all(verdict["meaning"] for verdict in text["verdicts"])
    assert "utility_added" in names
    assert {"Learning curve", "How frequent each class is in a group"} <= {table["title"] for table in text["tables"]}
    assert "data_docs/index.html" in report.files
    assert "membership_cohort" in names
    assert "membership inference on the model" in [gap["what"] for gap in text["not_assessed"]], "no Checkpoint was given"
    assert len(pd.read_parquet(report.path / "metrics.parquet")) == report.facts["gates"] == len(names)


def test_the_yardstick_does_not_depend_on_the_cohort(report: Record, data: Record, tmp_path: Path) -> None:
    bad = made(tmp_path / "cohort", "labels swapped")
    state = tmp_path / "state"
    state.mkdir()
    source, text = Dataset.open(data.path), json.loads((report.path / "report.json").read_text())
    index = pd.read_parquet(bad.path / "index.parquet")
    rows = plan.parts(source, plan.known_digests(source)[1], index, RECIPE.seed)
    save(state, PLAN, rows)
    work = [job for job in plan.first(bad.path, source, state, RECIPE, rows) if job.kind == "encoder"]
    work += [job for job in plan.second(bad.path, source, state, RECIPE, rows, len(index)) if job.kind == "embed" and job.what != "cohort"]
    work += plan.third(bad.path, source, state, RECIPE, rows, len(index), True)[:1]
    shutil.rmtree(bad.path)  # no image and no label of the cohort is read
    for job in work:
        jobs.perform(job)
    frozen = Frozen(found(state, work[-1].name))
    assert frozen.digest(found(state, ENCODER), RECIPE.gates) == text["baseline"]["digest"]
    assert text["baseline"]["sizes"]


def test_the_report_shows_every_measure_beside_real_images(report: Record) -> None:
    tables = {table["title"]: table for table in json.loads((report.path / "report.json").read_text())["tables"]}
    shown = {row[0]: row for row in tables["Likeness, measure by measure"]["rows"]}
    assert {"mmd", "density", "coverage", "vendi", "frechet_spectrum", "frechet_infinity", "similarity"} <= set(shown)
    assert all(row[1] >= 20 and row[-1].endswith(".") for row in shown.values())
    assert {row[0] for row in tables["Likeness, class by class"]["rows"]} >= {"clear: frechet", "shadow: recall"}
    assert {row[0] for row in tables["Do images show what they were asked to show?"]["rows"]} >= {"class", "age"}


def test_each_image_of_the_cohort_is_judged_once(report: Record) -> None:
    images = pd.read_parquet(report.path / "images.parquet")
    assert images["row"].tolist() == list(range(250))
    assert images["withheld"].sum() == report.facts["withheld"]
    assert images.loc[images["withheld"], "reason"].notna().all()
    assert images.loc[~images["withheld"], "reason"].isna().all()


def test_no_value_of_a_patient_and_no_small_count_is_in_the_report(report: Record) -> None:
    for path in (path for path in report.path.rglob("*") if path.is_file()):
        assert b"37.1234" not in path.read_bytes(), path.name
    text = json.loads((report.path / "report.json").read_text())
    counts = [count for entry in text["distributions"].values() for count in entry["real"]]
    counts += [row["real"] for row in text["composition"]]
    assert all(count is None or count == 0 or count >= text["small_cell"] for count in counts)
    assert {"age", "grey value of a pixel", "fine detail of an image"} <= set(text["distributions"])


def test_a_finished_report_is_returned_and_another_recipe_is_refused(report: Record, data: Record) -> None:
    folder = report.path.parent / "cohort"
    assert validate(folder, data.path, report.path, RECIPE).content == report.content
    other = Recipe.model_validate({**RECIPE.model_dump(), "seed": 1})
    with pytest.raises(RecordError, match="other seed"):
        validate(folder, data.path, report.path, other)


def test_a_cohort_of_other_size_or_an_altered_one_is_refused(data: Record, tmp_path: Path) -> None:
    images, labels = people(20, 4, side=16)
    other = cohort(tmp_path / "small", images, labels, CLASSES)
    with pytest.raises(InputError, match="shape"):
        validate(other.path, data.path, tmp_path / "out", RECIPE)
    assert not (tmp_path / "out" / records.RECORD).exists()
    (other.path / "index.parquet").write_bytes(b"x" * (other.path / "index.parquet").stat().st_size)
    with pytest.raises(RecordError, match="altered"):
        validate(other.path, data.path, tmp_path / "out2", RECIPE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "gates"),
    [
        ("collapsed", {"recall", "frechet"}),
        ("blurred", {"intensity_detail"}),
        ("grainy", {"intensity_detail"}),
        ("labels swapped", {"utility"}),
        ("one class", {"composition"}),
        ("copies", {"copies_exact", "copies_near"}),
        ("bad ids", {"expectations_index"}),
    ],
)
def test_a_bad_cohort_is_failed_by_the_right_gate(data: Record, tmp_path: Path, kind: str, gates: set[str]) -> None:
    images, labels = people(350, 4)
    if kind == "one class":
        images, labels = images[labels == 1], labels[labels == 1]
    elif kind == "copies":
        images[:20] = people(240, 1)[0][:20, :, :, ::-1]
    elif kind != "bad ids":
        images, labels = spoiled(kind, images, labels, np.random.default_rng(0))
    ages = [50.0] * len(images) if kind != "bad ids" else [500.0] * len(images)
    bad = cohort(tmp_path / "cohort", images, labels, CLASSES, {"age": ages})
    record = validate(bad.path, data.path, tmp_path / "report", RECIPE)
    assert record.facts["passed"] is False
    assert gates <= set(record.facts["failed"]), record.facts["failed"]


@pytest.mark.slow
def test_the_report_is_the_same_over_workers_and_after_a_kill(report: Record, data: Record, tmp_path: Path) -> None:
    folder = report.path.parent / "cohort"
    out = tmp_path / "report"
    process = multiprocessing.get_context("spawn").Process(target=validate, args=(folder, data.path, out, RECIPE))
    process.start()
    while process.is_alive() and not list(out.glob("state/utility-*.npz")):
        process.join(0.2)
    process.kill()
    process.join()
    assert not (out / records.RECORD).exists()
    with processes(2) as executor:
        assert validate(folder, data.path, out, RECIPE, executor=executor).content == report.content
    assert not (out / records.STATE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "depth"), [(3, 0), (1, 12)])
def test_colour_images_and_volumes_without_classes_are_judged(tmp_path: Path, channels: int, depth: int) -> None:
    def some(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return people(n, seed, side=16, channels=channels, depth=depth)

    parts = {"train": some(100, 1), "holdout": some(60, 2), "test": some(20, 3)}
    source = dataset(tmp_path / "dataset", parts, [])
    record = validate(cohort(tmp_path / "cohort", *some(80, 4), []).path, source.path, tmp_path / "report", RECIPE)
    assert "utility" not in [verdict["name"] for verdict in json.loads((record.path / "report.json").read_text())["verdicts"]]
    assert not {"frechet", "frechet_texture", "frechet_pixels", "recall"} & set(record.facts["failed"])


def test_what_a_report_is_made_from_are_its_inputs_the_gates_and_the_seed(report: Record, data: Record) -> None:
    wanted = made_from(report.path.parent / "cohort", data.path, RECIPE)
    assert set(wanted.inputs) == {"cohort", "dataset"}
    assert set(wanted.settings) == {"gates"}
    assert wanted.digest == report.made_from_digest


def test_a_dataset_without_training_images_is_refused(tmp_path: Path) -> None:
    images, labels = people(20, 4)
    source = dataset(tmp_path / "dataset", {"holdout": (images, labels)}, CLASSES)
    with pytest.raises(InputError, match="no training images"):
        validate(cohort(tmp_path / "cohort", images, labels, CLASSES).path, source.path, tmp_path / "out", RECIPE)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
