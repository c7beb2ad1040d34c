"""Other people's synthetic images, in every form in which they come: read in order, judged, and accounted for one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import zarr
from builders_gates import CLASSES, QUICK, cohort, dataset, people
from numpy.typing import NDArray
from PIL import Image

from medpipe import cli, recipe
from medpipe.errors import InputError
from medpipe.gates import audit as audits
from medpipe.images.dataset import Dataset
from medpipe.progress import silent
from medpipe.sources import candidates

SIDE = 24


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dataset of 260 people."""
    folder = tmp_path_factory.mktemp("real") / "dataset"
    parts = {name: people(n, seed, SIDE) for seed, (name, n) in enumerate({"train": 130, "holdout": 90, "test": 40}.items())}
    return dataset(folder, parts, CLASSES).path


def stored(given: Path, real: Path, out: Path) -> tuple[NDArray[Any], pd.DataFrame]:
    """Read candidates as an audit does; return their pixels and the table of what became of each."""
    data = Dataset.open(real)
    record = audits._cohort(candidates.find(given, list(data.facts["classes"])), data, out, silent)
    array = zarr.open_array(out / "images.zarr" / "image", mode="r")
    return np.asarray(array), pd.read_parquet(record.path / "candidates.parquet")


def test_copies_are_withheld_one_by_one_and_the_evidence_is_written(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = people(60, 9, SIDE)
    taken = Dataset.open(real).images(np.array([3, 5]))
    images[[10, 40]] = taken[..., ::-1]
    images[20] = 7  # nothing is on it
    np.savez(tmp_path / "candidates.npz", images=images[:, 0], labels=labels)
    flags = [text for name, value in QUICK.items() for text in (f"--gates.{name}", str(value))]
    where = ["--dataset", str(real), "--out", str(tmp_path / "out")]
    status = cli.main(["audit", str(tmp_path / "candidates.npz"), *where, "--self-test", "--compute.workers", "1", *flags])
    said = capsys.readouterr()
    assert status == 3, said.err  # a gate said no
    assert said.out.strip() == str(tmp_path / "out")
    assert "Planted copies" in said.err
    table = pd.read_parquet(tmp_path / "out" / "images.parquet")
    assert table["index"].tolist() == list(range(60))
    assert table["withheld"][[10, 20, 40]].all()
    assert table["reason"][[10, 20, 40]].tolist() == ["exact_copy", "constant", "exact_copy"]
    assert table["withheld"].sum() <= 6
    assert table.loc[10, "aligned_correlation"] > table["aligned_correlation"].drop([10, 40]).max()
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert not evidence["passed"]
    assert {"copies_exact", "frechet", "utility", "composition"} <= {verdict["name"] for verdict in evidence["verdicts"]}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "given as synthetic by somebody else" in page
    assert "drew these anew" not in page
    assert "images were asked for" not in page
    assert "The gates withhold" in page


def test_candidates_without_classes_are_judged_by_the_gates_that_need_none(real: Path, tmp_path: Path) -> None:
    images, _ = people(60, 11, SIDE)
    np.savez(tmp_path / "candidates.npz", images=images[:, 0].astype(np.float32) / 255)
    done = audits.audit(tmp_path / "candidates.npz", real, tmp_path / "out", recipe.build({"gates": QUICK}))
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert not {"utility", "composition"} & {verdict["name"] for verdict in evidence["verdicts"]}
    assert any(gap["what"] == "utility" and "without classes" in gap["why"] for gap in evidence["not_assessed"])
    again = audits.audit(tmp_path / "candidates.npz", real, tmp_path / "out", recipe.build({"gates": QUICK}))
    assert again.report.content == done.report.content


@pytest.mark.parametrize("form", ["float", "signed float", "colour", "last axis", "16 bits"])
def test_numbers_of_every_kind_become_the_same_grey_levels(form: str, real: Path, tmp_path: Path) -> None:
    images, _ = people(12, 3, SIDE)
    plain = images[:, 0]
    given: NDArray[Any] = {
        "float": plain.astype(np.float32) / 255,
        "signed float": plain.astype(np.float32) / 127.5 - 1,
        "colour": np.repeat(plain[..., None], 3, axis=-1),
        "last axis": plain,
        "16 bits": plain.astype(np.uint16) * 257,
    }[form]
    if form == "last axis":
        zarr.create_array(tmp_path / "store.zarr" / "images", data=np.repeat(given[..., None], 3, axis=-1))
        path = tmp_path / "store.zarr"
    else:
        path = tmp_path / "given.npz"
        np.savez(path, images=given)
    pixels, table = stored(path, real, tmp_path / "out")
    assert table["reason"].isna().all()
    assert np.array_equal(pixels, images)


def test_a_folder_of_pictures_has_its_classes_from_folders_or_a_table(real: Path, tmp_path: Path) -> None:
    images, _ = people(8, 4, SIDE)
    for number, image in enumerate(images):
        place = tmp_path / "folder" / CLASSES[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(place)
    (tmp_path / "folder" / "clear" / "broken.png").write_bytes(b"no picture")
    found = candidates.find(tmp_path / "folder", CLASSES)
    assert found.labels == ("clear",) * 5 + ("shadow",) * 4
    pixels, table = stored(tmp_path / "folder", real, tmp_path / "out")
    assert table["reason"].dropna().tolist() == ["UNREADABLE"]
    assert np.array_equal(pixels[:4], images[::2])
    (tmp_path / "folder" / "labels.csv").write_text("file,label\nclear/0.png,1\n")
    assert candidates.find(tmp_path / "folder", CLASSES).labels[0] == "shadow"


def test_larger_pictures_are_brought_to_the_datasets_grid(real: Path, tmp_path: Path) -> None:
    images, _ = people(4, 5, 2 * SIDE)
    np.savez(tmp_path / "given.npz", images=images[:, 0])
    pixels, _ = stored(tmp_path / "given.npz", real, tmp_path / "out")
    assert pixels.shape == (4, 1, SIDE, SIDE)


def test_volumes_come_as_nifti(tmp_path: Path) -> None:
    parts = {name: people(n, seed, 8, depth=8) for seed, (name, n) in enumerate({"train": 6, "holdout": 4}.items())}
    real = dataset(tmp_path / "dataset", parts, CLASSES).path
    volume, _ = people(1, 7, 8, depth=8)
    (tmp_path / "volumes").mkdir()
    turned = volume[0, 0, :, ::-1, ::-1].transpose(2, 1, 0)  # (z, y, x) of the Dataset to right, anterior, superior
    nibabel.save(nibabel.Nifti1Image(turned.astype(np.float32), np.eye(4)), tmp_path / "volumes" / "a.nii.gz")
    pixels, table = stored(tmp_path / "volumes", real, tmp_path / "out")
    assert table["reason"].isna().all()
    correlation = np.corrcoef(pixels[0, 0].ravel(), volume[0, 0].ravel())[0, 1]
    assert correlation > 0.99


def test_a_cohort_of_ours_is_read_with_its_classes(real: Path, tmp_path: Path) -> None:
    images, labels = people(10, 6, SIDE)
    cohort(tmp_path / "cohort", images, labels, CLASSES)
    found = candidates.find(tmp_path / "cohort", CLASSES)
    assert found.labels == tuple(CLASSES[label] for label in labels)
    pixels, _ = stored(tmp_path / "cohort", real, tmp_path / "out")
    assert np.array_equal(pixels, images)


def test_what_cannot_be_candidates_is_refused_in_one_sentence(real: Path, tmp_path: Path) -> None:
    images, labels = people(4, 5, SIDE)
    np.savez(tmp_path / "labels.npz", images=images[:, 0], labels=labels + 7)
    np.savez(tmp_path / "volumes.npz", images=np.repeat(images, 5, axis=1))
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "absent", "is not there"),
        (tmp_path / "empty", "holds no PNG"),
        (tmp_path / "labels.npz", "labels run from"),
    ):
        with pytest.raises(InputError, match=words):
            candidates.find(path, CLASSES)
    with pytest.raises(InputError, match="none of the 4 candidates"):
        stored(tmp_path / "volumes.npz", real, tmp_path / "out")
