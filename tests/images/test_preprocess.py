from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import builders_images as make
import numpy as np
import pandas as pd
import pytest

from medpipe import records, store
from medpipe.errors import InputError, RecordError
from medpipe.images import preprocess as verb
from medpipe.images.dataset import Dataset
from medpipe.images.preprocess import preprocess
from medpipe.images.reasons import Reason
from medpipe.recipe import Recipe, build

RNG = np.random.default_rng(11)
MODEL = {"channels": [32, 32], "blocks": [1, 1], "patch": 2}


def recipe(form: str = "dicom", **images: Any) -> Recipe:
    return build({"source": {"form": form}, "images": {"size": 16, "shard": 32} | images, "model": MODEL})


def picture(height: int = 24, width: int = 20, top: int = 4000) -> np.ndarray:
    return RNG.integers(0, top, (height, width)).astype(np.uint16)


def patients(n: int) -> list[Any]:
    return [make.instance(picture(20 + i % 5, 18 + i % 3), patient=i) for i in range(n)]


def dataset(folder: Path, collection: records.Record, **images: Any) -> Dataset:
    return Dataset.open(preprocess(collection.path, folder, recipe(str(collection.facts["form"]), **images)).path, verify=True)


# Arrays


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16), (1, 24, 30), (3, 40, 20)])
def test_arrays_grey_and_rgb_of_any_size_become_images_of_the_model(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, (60, *shape)).astype(np.uint8)
    made = dataset(tmp_path / "d", make.arrays(tmp_path / "c", images))
    assert made.facts["shape"] == [shape[0], 16, 16]
    assert made.facts["dtype"] == "uint8"
    assert made.images().shape == (60, shape[0], 16, 16)
    if shape[1:] == (16, 16):
        assert np.array_equal(made.images(), images)


def test_arrays_of_volumes_and_of_sixteen_bits(tmp_path: Path) -> None:
    images = RNG.integers(100, 900, (40, 1, 10, 12, 14)).astype(np.uint16)
    made = dataset(tmp_path / "d", make.arrays(tmp_path / "c", images, shard=16), dimensions=3)
    assert (made.facts["shape"], made.facts["dtype"], made.facts["dimensions"]) == ([1, 16, 16, 16], "uint16", 3)
    assert made.images().max() > 60000  # twelve bits in sixteen are stretched, or the model would see a dark cohort


def test_the_index_carries_labels_covariates_and_gaps(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (40, 1, 16, 16)).astype(np.uint8)
    labels: list[str | None] = ["a", "b"] * 20
    labels[0] = None
    covariates = {"age": [30.0, None, np.inf] + [40.0] * 37, "sex": ["F", None] * 20}
    made = dataset(tmp_path / "d", make.arrays(tmp_path / "c", images, labels, covariates=covariates, classes=["b", "a"]))
    index = made.index
    assert list(index) == ["row", "image", "patient", "split", "label", "age", "sex"]
    assert index["row"].tolist() == list(range(40))
    assert index["label"].isna().tolist() == [True] + [False] * 39
    assert index["age"].isna().tolist() == [False, True, True] + [False] * 37
    assert made.facts["classes"] == ["b", "a"]
    assert made.facts["covariates"] == [
        {"name": "age", "kind": "continuous", "missing": 2, "unparsed": 1},
        {"name": "sex", "kind": "categorical", "values": ["F"], "missing": 20},
    ]
    assert sum(made.facts["splits"].values()) == made.facts["images"] == 40


def test_constant_and_identical_images_are_left_out_listed_and_counted(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (50, 1, 16, 16)).astype(np.uint8)
    images[3] = 9
    images[7] = images[40]
    made = dataset(tmp_path / "d", make.arrays(tmp_path / "c", images))
    assert made.facts["excluded"] == {"CONSTANT": 1, "DUPLICATE": 1}
    listed = pd.read_parquet(made.record.path / "excluded.parquet")
    assert listed["reason"].tolist().count("CONSTANT") == 1
    assert listed.loc[listed["reason"] == "CONSTANT", "image"].tolist() == ["I000003"]
    assert made.facts["images"] == 48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dimensions": 3}, "set images.dimensions to 2"),
        ({"spacing_mm": 1.0}, "leave it empty"),
        ({"split": "given"}, "set it to 'patient' or 'blocks'"),
        ({"split": "blocks", "blocks": 64}, "lower it"),
    ],
)
def test_a_recipe_that_does_not_fit_the_arrays_is_refused_with_the_remedy(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    collection = make.arrays(tmp_path / "c", RNG.integers(0, 256, (40, 1, 16, 16)).astype(np.uint8))
    with pytest.raises(InputError, match=message):
        preprocess(collection.path, tmp_path / "d", recipe("arrays", **settings))
    assert not (tmp_path / "d" / "record.json").exists()


@pytest.mark.parametrize(("shape", "sides"), [((16, 24), [16, 24]), ((30, 30), [16, 24]), ((12, 20, 12), [8, 16, 12])])
def test_sides_may_differ_and_images_that_have_them_stay_as_they_are(tmp_path: Path, shape: tuple[int, ...], sides: list[int]) -> None:
    images = RNG.integers(0, 256, (60, 1, *shape)).astype(np.uint8)
    made = dataset(tmp_path / "d", make.arrays(tmp_path / "c", images), sides=sides, dimensions=len(sides))
    assert made.facts["shape"] == [1, *sides]
    assert made.images().shape == (60, 1, *sides)
    assert np.array_equal(made.images(), images) == (list(shape) == sides)


# DICOM, single images


def test_radiographs_of_mixed_size_polarity_and_depth_become_one_dataset(tmp_path: Path) -> None:
    instances = [*patients(30), make.instance(255 - np.uint8(picture() // 16), patient=30, PhotometricInterpretation="MONOCHROME1")]
    made = dataset(
        tmp_path / "d", make.dicom(tmp_path / "c", instances, {ds.SOPInstanceUID: "ab"[i % 2] for i, ds in enumerate(instances)})
    )
    assert (made.facts["shape"], made.facts["dtype"], made.facts["modality"]) == ([1, 16, 16], "uint16", "CR")
    assert made.facts["images"] == 31
    assert made.facts["patients"] == made.facts["splits"]
    eight = made.images(made.index.index[made.index["patient"] == "P0030"].to_numpy())
    assert (eight % 257 == 0).all()  # 8 bits on the scale of 16


def test_spacing_is_said_where_all_images_share_it(tmp_path: Path) -> None:
    collection = make.dicom(tmp_path / "c", patients(30))
    assert dataset(tmp_path / "own", collection).facts["spacing_mm"] is None
    assert dataset(tmp_path / "one", collection, spacing_mm=1.5).facts["spacing_mm"] == [1.5, 1.5]


def test_what_is_no_usable_image_is_counted_by_its_reason(tmp_path: Path) -> None:
    good = patients(30)
    odd = {
        "LOCALIZER": make.instance(picture(), patient=40, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "COLOUR": make.instance(picture(), patient=41, PhotometricInterpretation="RGB"),
        "CONSTANT": make.instance(np.full((20, 20), 7, np.uint16), patient=42),
        "MULTI_FRAME": make.instance(np.stack([picture(), picture()]), patient=43),
        "SECONDARY_CAPTURE": make.instance(picture(), patient=44, modality="OT"),
        "NOT_AN_IMAGE": make.instance(picture(), patient=45, modality="SR", Rows=None, Columns=None, PixelData=None),
        "NOT_FINITE": make.instance(picture(), patient=46, RescaleSlope="1e308", RescaleIntercept="0"),
        "PIXELS_UNREADABLE": make.instance(picture(), patient=47),
        "NO_SPACING": make.instance(picture(), patient=48, PixelSpacing=None),
    }
    collection = make.dicom(tmp_path / "c", [*good, *odd.values()], damage={odd["PIXELS_UNREADABLE"].SOPInstanceUID: 700})
    made = dataset(tmp_path / "d", collection, spacing_mm=2.0)
    assert made.facts["excluded"] == dict.fromkeys(sorted(odd), 1)
    listed = pd.read_parquet(made.record.path / "excluded.parquet").set_index("reason")["image"].to_dict()
    assert listed == {reason: ds.SOPInstanceUID for reason, ds in odd.items()}
    assert set(odd) <= set(Reason.__members__)


def test_several_modalities_are_named_and_one_may_be_chosen(tmp_path: Path) -> None:
    instances = [*patients(20), *(make.instance(picture(), patient=50 + i, modality="MR") for i in range(5))]
    collection = make.dicom(tmp_path / "c", instances)
    with pytest.raises(InputError, match=r"CR \(20\), MR \(5\): choose with images\.modalities"):
        dataset(tmp_path / "d", collection)
    made = dataset(tmp_path / "d", collection, modalities=["CR"])
    assert (made.facts["excluded"], made.facts["modality"]) == ({"OTHER_MODALITY": 5}, "CR")
    assert dataset(tmp_path / "both", collection, modalities=["CR", "MR"]).facts["modality"] == "CR+MR"
    with pytest.raises(InputError, match=r"no image of images\.modalities CT"):
        dataset(tmp_path / "none", collection, modalities=["CT"])


def test_radiographs_of_plates_and_detectors_are_one_kind(tmp_path: Path) -> None:
    instances = [*patients(20), *(make.instance(picture(), patient=50 + i, Modality="DX") for i in range(5))]
    assert dataset(tmp_path / "d", make.dicom(tmp_path / "c", instances)).facts["modality"] == "CR+DX"


def test_a_collection_without_an_image_says_what_it_holds(tmp_path: Path) -> None:
    captures = make.dicom(tmp_path / "c", [make.instance(picture(), patient=i, modality="OT") for i in range(20)])
    with pytest.raises(InputError, match=r"20 SECONDARY_CAPTURE.*images\.secondary_captures"):
        dataset(tmp_path / "d", captures)
    assert dataset(tmp_path / "e", captures, secondary_captures=True).facts["images"] == 20
    flat = make.dicom(tmp_path / "f", [make.instance(np.full((9, 9), 7, np.uint16), patient=i) for i in range(3)])
    with pytest.raises(InputError, match="3 CONSTANT"):
        dataset(tmp_path / "g", flat)


def test_segmentations_become_masks_and_one_that_does_not_fit_takes_its_image_along(tmp_path: Path) -> None:
    instances = patients(20)
    lesion = np.zeros((1, *instances[0].pixel_array.shape), np.uint8)
    lesion[0, 4:12, 5:11] = 1
    fits = make.segmentation([instances[0]], lesion)
    misfit = make.segmentation([instances[1]], np.ones((1, instances[1].Rows, instances[1].Columns), np.uint8))
    misfit.Rows -= 1
    orphan = make.segmentation([make.instance(picture(*lesion.shape[1:]), patient=90)], lesion)
    references = {fits.SOPInstanceUID: [instances[0].SOPInstanceUID], misfit.SOPInstanceUID: [instances[1].SOPInstanceUID]}
    made = dataset(tmp_path / "d", make.dicom(tmp_path / "c", [*instances, fits, misfit, orphan], references=references))
    assert made.facts["excluded"] == {"MASK_UNREADABLE": 1, "MASK_WITHOUT_IMAGE": 1}
    assert made.facts["masks"] is True
    masks = made.masks()
    row = int(made.index.loc[made.index["image"] == instances[0].SOPInstanceUID, "row"].iloc[0])
    assert masks[row].sum() == pytest.approx(48 * (16 / 20) ** 2, rel=0.2)
    assert not np.delete(masks, row, axis=0).any()


# DICOM, volumes


def test_series_become_volumes_with_label_and_mask_of_their_slices(tmp_path: Path) -> None:
    instances, labels, references = [], {}, {}
    for i in range(12):
        slices = make.volume(RNG.integers(0, 2000, (8, 16, 16)).astype(np.uint16), spacing=(2.0, 1.0, 1.0), patient=i, series=i)
        labels[slices[3].SOPInstanceUID] = "ab"[i % 2]
        if i == 0:
            lesion = np.zeros((8, 16, 16), np.uint8)
            ordered = sorted(slices, key=lambda ds: ds.ImagePositionPatient[2])
            lesion[2:4, 4:8, 4:8] = 1
            drawn = make.segmentation(ordered, lesion)
            references[drawn.SOPInstanceUID] = [ds.SOPInstanceUID for ds in ordered]
            instances.append(drawn)
        instances += slices
    instances.pop()  # patient 11 lacks a slice at one end: no geometry shows it, only the PACS's count
    instances += make.volume(RNG.integers(0, 2000, (3, 16, 16)).astype(np.uint16), patient=50, series=50)
    made = dataset(
        tmp_path / "d", make.dicom(tmp_path / "c", instances, labels, references=references), dimensions=3, patients_per_class_min=1
    )
    assert (made.facts["shape"], made.facts["modality"], made.facts["images"]) == ([1, 16, 16, 16], "CT", 12)
    assert made.facts["excluded"] == {"TOO_FEW_SLICES": 3}
    assert made.index["label"].notna().all()
    assert made.facts["masks"] is True
    assert made.masks().sum() == pytest.approx(4 * 4 * 4, rel=0.3)  # 2 slices of 2 mm, 4 x 4 of 1 mm, on a grid of 1 mm
    assert store.attributes(made.record.path)["patient_orientation"] == "HPL"


def test_a_series_with_two_labels_is_left_out(tmp_path: Path) -> None:
    instances, labels = [], {}
    for i in range(9):
        slices = make.volume(RNG.integers(0, 2000, (5, 16, 16)).astype(np.uint16), patient=i, series=i)
        labels.update({ds.SOPInstanceUID: "b" if i == 0 and k == 2 else "a" for k, ds in enumerate(slices)})
        instances += slices
    made = dataset(tmp_path / "d", make.dicom(tmp_path / "c", instances, labels), dimensions=3)
    assert made.facts["excluded"] == {"LABEL_CONFLICT": 5}


# The record


def test_one_or_two_workers_and_a_second_run_give_the_same_bytes(tmp_path: Path) -> None:
    collection = make.dicom(tmp_path / "c", patients(150))
    one = preprocess(collection.path, tmp_path / "one", recipe())
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        two = preprocess(collection.path, tmp_path / "two", recipe(), executor=executor)
    assert one.content == two.content
    assert dict(one.files) == dict(two.files)


def test_a_finished_record_is_returned_and_an_altered_collection_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = make.dicom(tmp_path / "c", patients(20))
    first = preprocess(collection.path, tmp_path / "d", recipe())
    monkeypatch.setattr(verb, "_plan", lambda *_: pytest.fail("work was done twice"))
    assert preprocess(collection.path, tmp_path / "d", recipe()).content == first.content
    with pytest.raises(RecordError, match=r"other images\.size"):
        preprocess(collection.path, tmp_path / "d", recipe(size=32))
    monkeypatch.undo()
    victim = next((collection.path / "instances").iterdir())
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(RecordError, match="altered"):
        preprocess(collection.path, tmp_path / "e", recipe())


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_preprocess import recipe
from medpipe.images.preprocess import preprocess
from medpipe.images import shards
import time
slow = shards.{step}
def slowly(*args):
    time.sleep(0.25)
    return slow(*args)
shards.{step} = slowly
preprocess(Path({collection!r}), Path({out!r}), recipe())
"""


@pytest.mark.parametrize(("step", "trace"), [("prepare", "state/part-000001.json"), ("write", "state/shard-000000032.done")])
def test_killed_while_preparing_or_writing_it_goes_on_to_the_same_digest(tmp_path: Path, step: str, trace: str) -> None:
    collection = make.dicom(tmp_path / "c", patients(140))
    whole = preprocess(collection.path, tmp_path / "whole", recipe())
    out = tmp_path / "killed"
    here = Path(__file__).resolve().parent
    script = SCRIPT.format(path=[str(here), str(here.parent)], collection=str(collection.path), out=str(out), step=step)
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 60
        while not (out / trace).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (out / trace).exists()
    with pytest.raises(RecordError, match="not finished"):
        records.load(out)
    before = (out / trace).stat().st_mtime_ns
    done = []
    resumed = preprocess(
        collection.path,
        out,
        recipe(),
        progress=lambda what, n, _: done.append((what, n, (out / trace).exists() and (out / trace).stat().st_mtime_ns)),
    )
    assert resumed.content == whole.content
    assert {stamp for _, _, stamp in done} <= {before}  # what was done was not done again
    assert not (out / "state").exists()


def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = make.dicom(tmp_path / "c", patients(40))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_shard", full)
        with pytest.raises(OSError, match="No space"):
            preprocess(collection.path, tmp_path / "d", recipe())
    assert not (tmp_path / "d" / "record.json").exists()
    assert preprocess(collection.path, tmp_path / "d", recipe()).facts["images"] == 40


def test_no_pixel_of_a_patient_is_named_in_facts_or_errors_and_progress_counts_up(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    collection = make.dicom(tmp_path / "c", patients(70))
    made = preprocess(collection.path, tmp_path / "d", recipe(), progress=lambda *step: seen.append(step))
    assert seen[0] == ("preprocess", 0, 70)
    assert ("preprocess", 70, 70) in seen
    assert seen[-1][0] == "write shards"
    assert "P00" not in str(dict(made.facts))


def test_a_dataset_is_opened_by_split_and_refuses_an_unknown_one(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (60, 1, 16, 16)).astype(np.uint8)
    made = dataset(tmp_path / "d", make.arrays(tmp_path / "c", images))
    rows = made.rows("train")
    assert np.array_equal(made.images(rows[::-1]), made.images()[rows[::-1]])
    with pytest.raises(ValueError, match="no split 'dev'"):
        made.rows("dev")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="no array 'mask'"):
        made.masks()
    shutil.rmtree(tmp_path / "c")
    with pytest.raises(RecordError):
        preprocess(tmp_path / "c", tmp_path / "e", recipe("arrays"))
