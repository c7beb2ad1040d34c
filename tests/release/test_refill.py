"""Quarantine and refill: what the gates withhold is replaced by spare images and is in no file of a release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders_release import blobs, decoded

from medpipe import records, store
from medpipe.errors import PrivacyError
from medpipe.gates import copies
from medpipe.release import outbound
from medpipe.release.refill import asked, select
from medpipe.release.release import release

AGE = [{"name": "sex", "kind": "categorical", "values": ["F", "M"]}, {"name": "age", "kind": "continuous"}]


def table(labels: str, sexes: str, ages: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"row": range(len(labels)), "label": list(labels), "sex": list(sexes), "age": ages})


def withheld(n: int, *rows: int) -> np.ndarray:
    return np.isin(np.arange(n), rows)


def test_a_gap_is_filled_by_the_spare_image_of_its_class_with_the_nearest_covariates() -> None:
    index = table("aabb" + "baaa", "FMFM" + "MMFF", [30, 40, 50, 60, 61, 41, 70, 31])
    found = select(index, withheld(8, 0), 4, AGE)
    assert found.rows.tolist() == [1, 2, 3, 7], "the woman of 31, and not the man of 41 or the woman of 70"
    assert (found.asked, found.made, found.withheld, found.replaced, found.short, found.left_over) == (4, 8, 1, 1, 0, 3)
    assert select(index, withheld(8, 3), 4, AGE).rows.tolist() == [0, 1, 2, 4]


def test_a_spare_image_that_is_withheld_too_fills_no_gap_and_none_fills_two() -> None:
    index = table("aab" + "aa", "FFF" + "FF", [30, 30, 30, 30, 30])
    found = select(index, withheld(5, 0, 1, 3), 3, AGE)
    assert found.rows.tolist() == [2, 4]
    assert (found.replaced, found.short, found.left_over) == (1, 1, 0)
    assert "no spare image" in found.sentence


def test_without_spare_images_or_without_gaps_the_rows_are_those_asked_for() -> None:
    index = table("abab", "FFFF", [1, 2, 3, 4])
    assert select(index, withheld(4, 1), 4).rows.tolist() == [0, 2, 3]
    assert select(index, withheld(4), 2).rows.tolist() == [0, 1]
    assert asked({"images": 7}) == 7
    assert asked({"images": 7, "asked": 6}) == 6


@pytest.fixture
def drawn(cohort, tmp_path: Path) -> records.Record:
    return cohort(tmp_path / "cohort", images=44, asked=40)


def test_a_release_has_the_size_and_the_classes_that_were_asked_for(drawn, report, recipe, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn, withheld=(0, 3))
    made = release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=tmp_path / "key")
    folder = made.path / made.facts["folder"]
    subjects = pd.read_parquet(folder / "subjects.parquet")
    assert len(subjects) == store.open_array(folder).shape[0] == 40
    assert subjects["label"].value_counts().tolist() == [20, 20]
    rows = subjects["id"].str[1:].astype(int).to_numpy() - 1
    assert np.array_equal(store.read(folder), store.read(drawn.path, rows))
    assert set(rows) >= set(range(40)) - {0, 3}
    assert len(set(rows) & set(range(40, 44))) == 2
    evidence = json.loads((folder / "evidence.json").read_text())
    counts = [evidence[f"images_{name}"] for name in ("asked", "judged", "withheld", "replaced", "released")]
    assert counts == [40, 44, 2, 2, 40]
    assert (made.facts["images"], made.facts["asked"], made.facts["made"], made.facts["short"]) == (40, 40, 44, 0)
    for name in ("README.md", "report.html"):
        assert (
            "the gates withheld 2 of the 44 images that were made, and 2 of the spare images take their places"
            in (folder / name).read_text()
        )


def test_no_withheld_and_no_spare_image_is_in_any_file_of_a_release(drawn, report, recipe, tmp_path) -> None:
    """Also not as a picture on the page: every array and every PNG is decoded and searched."""
    out = (1, 5, 8, 41)
    judged = report(tmp_path / "report", drawn, withheld=out)
    made = release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=tmp_path / "key")
    folder = made.path / made.facts["folder"]
    ids = pd.read_parquet(folder / "subjects.parquet")["id"]
    gone = set(range(44)) - set(ids.str[1:].astype(int) - 1)
    assert gone >= set(out)
    pictures = decoded(folder)
    assert len(pictures) > 40, "the arrays and the tiles of the page"
    images = store.read(drawn.path)
    shown = {image.tobytes() for image in pictures}
    for row in range(44):
        assert (images[row, 0].tobytes() in shown) == (row not in gone)


def test_flipped_copies_of_training_images_are_replaced_and_in_no_file(cohort, report, recipe, tmp_path) -> None:
    """1 % of flipped copies in a cohort of 400, found by their digests; no orientation of a training image is in what is shared."""
    training = blobs(50, (1, 16, 16), "uint8", 99)

    def planted(images: store.Images) -> store.Images:
        images[[3, 90, 200, 333]] = training[[0, 7, 20, 31], :, :, ::-1]
        return images

    drawn = cohort(tmp_path / "cohort", images=420, asked=400, planted=planted)
    known = set(copies.canonical_digests(training))
    found = [row for row, digest in enumerate(copies.canonical_digests(store.read(drawn.path))) if digest in known]
    assert found == [3, 90, 200, 333]
    made = release(drawn.path, report(tmp_path / "report", drawn, withheld=found).path, tmp_path / "out", recipe, key_file=tmp_path / "key")
    assert (made.facts["images"], made.facts["withheld"], made.facts["replaced"]) == (400, 4, 4)
    pictures = decoded(made.path / made.facts["folder"])
    assert not known & set(copies.canonical_digests(np.stack([picture for picture in pictures if picture.shape == (16, 16)])[:, None]))


def test_no_small_count_of_real_things_is_in_a_release(drawn, report, recipe, tmp_path) -> None:
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", recipe, key_file=tmp_path / "key")
    evidence = json.loads((made.path / made.facts["folder"] / "evidence.json").read_text())
    counts = dict(outbound.real_counts(evidence))
    assert len(counts) > 2
    assert not [place for place, count in outbound.real_counts(evidence) if count is not None and 0 < count < 11]
    bad = report(tmp_path / "bad", drawn, tables=[{"title": "T", "sentence": "", "columns": ["group", "patients"], "rows": [["a", 3]]}])
    with pytest.raises(PrivacyError, match="the table T holds a real count below 11"):
        release(drawn.path, bad.path, tmp_path / "refused", recipe, key_file=tmp_path / "key")


def test_what_is_hidden_of_a_subject_is_null_in_the_table_and_nowhere_else(drawn, report, recipe, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn, hidden={2: "age", 4: "age,site"})
    made = release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=tmp_path / "key")
    subjects = pd.read_parquet(made.path / made.facts["folder"] / "subjects.parquet").set_index("row")
    assert subjects["age"].isna().to_numpy().nonzero()[0].tolist() == [2, 4]
    assert subjects["site"].isna().to_numpy().nonzero()[0].tolist() == [4]


def test_a_release_says_who_approved_it(drawn, report, recipe, tmp_path) -> None:
    named = recipe.model_copy(update={"release": recipe.release.model_copy(update={"approved_by": "data-protection officer"})})
    judged = report(tmp_path / "report", drawn, privacy={"summary": "1 of 1.", "attacks": [], "not_assessed": [], "internal": 3})
    for chosen, said in ((recipe, "names nobody"), (named, "data-protection officer approved it")):
        made = release(drawn.path, judged.path, tmp_path / said[:3], chosen, key_file=tmp_path / "key")
        folder = made.path / made.facts["folder"]
        decision = json.loads((folder / "evidence.json").read_text())["privacy"]["decision"]
        assert said in decision["statement"]
        assert decision["signed_with"] == made.facts["public_key"]
        assert said in (folder / "report.html").read_text()
        assert "internal" not in json.loads((folder / "evidence.json").read_text())["privacy"]
