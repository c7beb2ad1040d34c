from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import mlcroissant
import numpy as np
import pandas as pd
import pytest
import yaml
import zarr

from medpipe import records, store
from medpipe.errors import GateFailed, InputError, PrivacyError, RecordError
from medpipe.recipe import Recipe
from medpipe.release import outbound, sign
from medpipe.release.release import made_from, release

LAYOUT = {
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "croissant.json",
    "subjects.parquet",
    "images.zarr",
    "evidence.json",
    "report.html",
    "provenance.json",
    "SHA256SUMS",
    "SHA256SUMS.sig",
}


@pytest.fixture
def drawn(cohort, tmp_path: Path):
    return cohort(tmp_path / "cohort" / "one")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "private" / "signing.key"


def shared(record: records.Record) -> Path:
    return record.path / record.facts["folder"]


def test_a_release_holds_the_layout_and_nothing_else(drawn, report, recipe, key, tmp_path) -> None:
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", recipe, key_file=key)
    assert {path.name for path in shared(made).iterdir()} == LAYOUT
    assert {path.name for path in made.path.iterdir()} == {"chest-demo-1.0.0", "public_key.pem", "record.json", ".lock"}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("shape", "dtype"), [((1, 16, 16), "uint8"), ((3, 16, 16), "uint8"), ((1, 4, 8, 8), "uint16")])
def test_withheld_images_are_left_out_and_the_rest_keep_their_order(cohort, report, recipe, key, tmp_path, shape, dtype, masks) -> None:
    drawn = cohort(tmp_path / "cohort", images=21, shape=shape, dtype=dtype, masks=masks)
    withheld = (0, 7, 8, 20)
    made = release(drawn.path, report(tmp_path / "report", drawn, withheld=withheld).path, tmp_path / "out", recipe, key_file=key)
    kept = np.array([row for row in range(21) if row not in withheld])
    for name in ("image", "mask") if masks else ("image",):
        assert np.array_equal(store.read(shared(made), name=name), store.read(drawn.path, kept, name=name))
    subjects = pd.read_parquet(shared(made) / "subjects.parquet")
    assert list(subjects["row"]) == list(range(17))
    assert list(subjects["id"]) == [f"S{row + 1:06d}" for row in kept]
    index = pd.read_parquet(drawn.path / "index.parquet").iloc[kept].reset_index(drop=True)
    assert subjects[["label", "age", "site"]].equals(index[["label", "age", "site"]])
    assert set(subjects["split"]) == {"train"}


def test_arrays_are_sharded_consolidated_named_and_say_that_they_are_synthetic(drawn, report, recipe, key, tmp_path) -> None:
    made = release(drawn.path, report(tmp_path / "report", drawn, withheld=(1,)).path, tmp_path / "out", recipe, key_file=key)
    group = zarr.open_consolidated(shared(made) / "images.zarr", mode="r")
    array = group["image"]
    assert array.metadata.zarr_format == 3
    assert array.metadata.dimension_names == ("subject", "channel", "y", "x")
    assert array.shards is not None
    attributes = dict(group.attrs)
    assert attributes["synthetic"] is True
    assert attributes["schema"] == 1
    assert {"spacing_mm", "patient_orientation", "unit", "licence", "version"} <= set(attributes)


def test_the_five_lines_of_the_card_run_as_they_are(drawn, report, recipe, key, tmp_path, monkeypatch) -> None:
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", recipe, key_file=key)
    text = (shared(made) / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.strip().splitlines()) == 5
    monkeypatch.chdir(shared(made))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert np.array_equal(names["first"], store.read(drawn.path)[0])


def test_the_card_has_front_matter_verdicts_gaps_and_the_warning(drawn, report, recipe, key, tmp_path) -> None:
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", recipe, key_file=key)
    text = (shared(made) / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    for word in (
        "not for diagnosis",
        "near_copies",
        "membership inference",
        made.facts["public_key"],
        "creativecommons.org/licenses/by/4.0",
    ):
        assert word in body
    cff = yaml.safe_load((shared(made) / "CITATION.cff").read_text())
    assert cff["cff-version"] == "1.2.0"
    assert cff["type"] == "dataset"
    assert cff["authors"] == [{"name": "Demo Hospital"}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("published", [None, "2026-03-01"])
def test_croissant_is_valid_and_reads_the_subjects(drawn, report, recipe, key, tmp_path, published) -> None:
    changed = recipe.model_copy(update={"release": recipe.release.model_validate({**recipe.release.model_dump(), "published": published})})
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", changed, key_file=key)
    dataset = mlcroissant.Dataset(shared(made) / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    rows = list(dataset.records("subjects"))
    assert len(rows) == 24
    assert rows[0]["subjects/id"] == b"S000001"
    text = records.json.loads((shared(made) / "croissant.json").read_text())
    assert text["rai:hasSyntheticData"] is True
    assert text.get("datePublished") == published


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_croissant_refuses_a_changed_file(drawn, report, recipe, key, tmp_path) -> None:
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", recipe, key_file=key)
    table = shared(made) / "subjects.parquet"
    pd.read_parquet(table).assign(label="NORMAL").to_parquet(table)
    with pytest.raises(mlcroissant.GenerationError, match=r"subjects\.parquet"):
        list(mlcroissant.Dataset(shared(made) / "croissant.json").records("subjects"))


def test_evidence_holds_every_verdict_and_what_was_not_assessed(drawn, report, recipe, key, tmp_path) -> None:
    tables = [{"title": "T", "sentence": "S.", "columns": ["a"], "rows": [["b"]], "note": "stays"}]
    tried = [{"what": "blur 1 px", "rejected_by": ["kid"], "required": True}]
    known = {"share": 0.5, "expected_share": 0.5, "frechet_over_bound": 0.7, "copies": 0.0, "auc_real": None, "auc_synthetic": None}
    group = {"group": "sex F", "synthetic": 40} | known | {"real": 4708}
    more = {"tables": tables, "gates_self_test": tried, "fairness": [group]}
    judged = report(tmp_path / "report", drawn, withheld=(2, 3), internal={"patients": 12}, **more)
    made = release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)
    evidence = records.json.loads((shared(made) / "evidence.json").read_text())
    text = records.json.loads((judged.path / "report.json").read_text())
    assert evidence["verdicts"] == text["verdicts"]
    assert evidence["not_assessed"] == text["not_assessed"]
    assert (evidence["images_judged"], evidence["images_withheld"], evidence["images_released"]) == (24, 2, 22)
    assert "internal" not in evidence
    assert evidence["tables"] == [{name: tables[0][name] for name in ("title", "sentence", "columns", "rows")}]
    assert evidence["gates_self_test"] == tried
    assert evidence["fairness"] == [{"group": "sex F", "synthetic": 40} | known]
    assert (evidence["consent"]["checked"], "was not checked" in evidence["consent"]["statement"]) == (False, True)
    assert "4708" not in (shared(made) / "evidence.json").read_text()


def test_provenance_has_digests_and_seeds_and_no_path(drawn, report, recipe, key, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn)
    made = release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)
    provenance = records.json.loads((shared(made) / "provenance.json").read_text())
    expected = {"dataset": "d" * 64, "checkpoint": "c" * 64, "cohort": drawn.content, "report": judged.content}
    assert provenance["fingerprints"] == expected
    assert provenance["seeds"] == {"cohort": 7, "report": 0}
    for path in made.path.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_sums_and_signature_hold_for_standard_programs(drawn, report, recipe, key, tmp_path) -> None:
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", recipe, key_file=key)
    done = subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=shared(made), capture_output=True)
    assert done.returncode == 0, done.stdout
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    command = "openssl pkeyutl -verify -pubin -inkey ../public_key.pem -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig"
    assert command.replace("../", "") in (shared(made) / "README.md").read_text()
    assert subprocess.run(command.split(), cwd=shared(made), capture_output=True).returncode == 0


def test_equal_inputs_give_equal_bytes_and_a_second_run_does_nothing(drawn, report, recipe, key, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn, withheld=(5,))
    first = release(drawn.path, judged.path, tmp_path / "one", recipe, key_file=key)
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    again = release(drawn.path, judged.path, tmp_path / "one", recipe, key_file=key)
    assert again.content == first.content
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == before
    assert release(drawn.path, judged.path, tmp_path / "two", recipe, key_file=key).content == first.content


def _release_and_wait(cohort: Path, report: Path, out: Path, recipe: Recipe, key: Path, mark: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        mark.touch()
        time.sleep(60)

    release(cohort, report, out, recipe, key_file=key, progress=stop)


def test_a_killed_release_looks_unfinished_and_comes_out_the_same(drawn, report, recipe, key, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn, withheld=(5,))
    whole = release(drawn.path, judged.path, tmp_path / "whole", recipe, key_file=key)
    mark = tmp_path / "mark"
    arguments = (drawn.path, judged.path, tmp_path / "out", recipe, key, mark)
    process = multiprocessing.get_context("fork").Process(target=_release_and_wait, args=arguments)
    process.start()
    while not mark.exists():
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(RecordError, match="not finished"):
        records.load(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("SHA256SUMS*"))
    assert release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key).content == whole.content


def test_a_failed_gate_is_named_with_value_and_bound_and_writes_nothing(drawn, report, recipe, key, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn, failed=("near_copies", "utility"))
    with pytest.raises(GateFailed, match=r"2 of 6 gates failed.*near_copies is 0\.148 and must be at most 0\.03.*utility") as caught:
        release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)
    assert caught.value.report == judged.path
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"passed": False}, {"passed": "yes"}, {"verdicts": []}])
def test_a_report_that_does_not_clearly_pass_is_refused(drawn, report, recipe, key, tmp_path, changes) -> None:
    judged = report(tmp_path / "report", drawn, **changes)
    with pytest.raises(GateFailed):
        release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)


def test_a_cohort_of_which_every_image_is_withheld_is_refused(drawn, report, recipe, key, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn, withheld=range(24))
    with pytest.raises(GateFailed, match="every image"):
        release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)


def test_a_report_on_another_cohort_is_refused(drawn, cohort, report, recipe, key, tmp_path) -> None:
    other = report(tmp_path / "report", cohort(tmp_path / "other", seed=8))
    with pytest.raises(RecordError, match="another Cohort"):
        release(drawn.path, other.path, tmp_path / "out", recipe, key_file=key)
    assert not (tmp_path / "out").exists()


def test_a_report_that_skips_images_is_refused(drawn, cohort, report, recipe, key, tmp_path) -> None:
    small = records.Record(drawn.path, drawn.noun, drawn.made_from, drawn.content, {**drawn.facts, "images": 20}, drawn.files)
    judged = report(tmp_path / "report", small)
    with pytest.raises(RecordError, match="each image"):
        release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)


def test_an_altered_cohort_is_refused(drawn, report, recipe, key, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn)
    shard = next((drawn.path / "images.zarr").rglob("c/0/0/0/0"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(RecordError, match="altered"):
        release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)


def test_what_may_not_leave_stops_the_release(cohort, report, recipe, key, tmp_path) -> None:
    drawn = cohort(tmp_path / "cohort", site="1.2.840.113619.2.55.3")
    with pytest.raises(PrivacyError, match="unique identifier"):
        release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", recipe, key_file=key)
    assert not (tmp_path / "out" / "record.json").exists()
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {".lock", "making.json", "state"}


@pytest.mark.parametrize("text", ["1.2.840.10008.1.2.1", "2.25.329800735698586629295641978511506172918"])
def test_unique_identifiers_are_told_from_version_numbers(text) -> None:
    assert outbound.UID.search(f"series {text} of")
    assert not outbound.UID.search("version 1.26.4, zarr 3.1.6, 127.0.0.1, 0.25 0.5")


@pytest.mark.parametrize("place", ["composition", "distributions", "consent"])
def test_a_small_real_count_stops_the_release(drawn, report, recipe, key, tmp_path, place) -> None:
    changes = {
        "composition": [{"label": "NORMAL", "real": 4, "synthetic": 12}, {"label": "PNEUMONIA", "real": 90, "synthetic": 12}],
        "distributions": {"sex": {"kind": "categorical", "edges": ["f", "m"], "real": [10, 90], "synthetic": [12, 12]}},
        "consent": {"checked": True, "patients": {"permitted": 90, "denied": 3}, "ledger_head": "ab" * 32, "statement": "Asked."},
    }
    judged = report(tmp_path / "report", drawn, **{place: changes[place]})
    with pytest.raises(PrivacyError, match="below 11"):
        release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)


def test_the_signing_key_is_made_private_and_used_again(drawn, report, recipe, key, tmp_path) -> None:
    judged = report(tmp_path / "report", drawn)
    made = release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert made_from(drawn.path, judged.path, recipe, key_file=key).digest == made.made_from_digest
    other = release(drawn.path, judged.path, tmp_path / "other", recipe, key_file=tmp_path / "other.key")
    assert other.made_from_digest != made.made_from_digest
    with pytest.raises(RecordError, match=r"signing\.public_key"):
        release(drawn.path, judged.path, tmp_path / "out", recipe, key_file=tmp_path / "other.key")


def test_a_file_that_is_no_signing_key_is_refused(tmp_path) -> None:
    (tmp_path / "key").write_text("not a key")
    with pytest.raises(InputError, match="PEM"):
        sign.signing_key(tmp_path / "key")
    with pytest.raises(InputError, match="PEM"):
        sign.public_key(tmp_path / "key")
    with pytest.raises(InputError, match="no public key"):
        sign.public_key(tmp_path / "none")


def test_a_licence_without_a_known_text_is_named_and_referred_to_the_institution(drawn, report, recipe, key, tmp_path) -> None:
    changed = recipe.model_copy(update={"release": recipe.release.model_copy(update={"licence": "LicenseRef-Hospital"})})
    made = release(drawn.path, report(tmp_path / "report", drawn).path, tmp_path / "out", changed, key_file=key)
    text = (shared(made) / "LICENSE").read_text()
    assert "SPDX-License-Identifier: LicenseRef-Hospital" in text
    assert "ask data@hospital.example" in text
    assert "license: other" in (shared(made) / "README.md").read_text()


def test_a_failed_gate_leaves_the_last_good_release_current(drawn, report, recipe, tmp_path) -> None:
    from medpipe import chain

    keys = chain.keys(tmp_path)
    good = chain.release(tmp_path, drawn.path, report(tmp_path / "report" / "good", drawn).path, recipe, keys)
    current = tmp_path / "release" / "current"
    assert current.resolve() == good.path.resolve()
    with pytest.raises(GateFailed):
        chain.release(tmp_path, drawn.path, report(tmp_path / "report" / "bad", drawn, failed=("recall",)).path, recipe, keys)
    assert current.resolve() == good.path.resolve()
    assert sorted(path.name for path in (tmp_path / "release").iterdir()) == sorted([good.path.name, "current"])
