"""Records: idempotent, resumable, tamper-evident, one maker at a time."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders_core import MADE_FROM, make
from hypothesis import given
from hypothesis import strategies as st

from medpipe import records
from medpipe.errors import InputError, MedpipeError, RecordError
from medpipe.records import MadeFrom


def other(**changes: Any) -> MadeFrom:
    return dataclasses.replace(MADE_FROM, **changes)


def test_a_sealed_record_is_found_again_with_its_facts(tmp_path: Path) -> None:
    made = make(tmp_path / "r")
    assert records.load(tmp_path / "r", "Dataset", verify=True) == made
    assert made.facts == {"images": 2}
    assert made.made_from == MADE_FROM.as_json()
    assert set(made.files) == {"index.parquet", "images.zarr/c/0"}


def test_making_a_finished_record_again_does_no_work_and_writes_nothing(tmp_path: Path) -> None:
    first = make(tmp_path / "r")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
    assert make(tmp_path / "r", payload={"index.parquet": b"would be other"}) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")} == before


def test_content_depends_on_the_payload_alone(tmp_path: Path) -> None:
    assert make(tmp_path / "a").content == make(tmp_path / "b", other(seed=9)).content
    assert make(tmp_path / "a").content != make(tmp_path / "c", payload={"index.parquet": b"other"}).content


@pytest.mark.parametrize(
    ("made_from", "says"),
    [
        (other(seed=4), "other seed"),
        (other(code="9.9.9"), "other code"),
        (other(inputs={"collection": "cd" * 32}), "other inputs"),
        (other(settings={"images": {"size": 64, "shard": 4}}), "other images.size"),
        (other(noun="Cohort"), "other noun"),
    ],
)
def test_a_folder_made_from_something_else_is_refused_and_the_difference_named(tmp_path: Path, made_from: MadeFrom, says: str) -> None:
    make(tmp_path / "r")
    with pytest.raises(RecordError, match=says):
        make(tmp_path / "r", made_from)


def test_an_unfinished_record_of_something_else_is_refused(tmp_path: Path) -> None:
    with records.making(tmp_path / "r", MADE_FROM):
        pass
    with pytest.raises(RecordError, match="unfinished record made from something else"):
        records.finished(tmp_path / "r", other(seed=4))


def test_a_folder_that_holds_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("photographs")
    with pytest.raises(RecordError, match="not empty and holds no record"):
        records.finished(tmp_path, MADE_FROM)
    with pytest.raises(InputError, match="is a file"):
        records.finished(tmp_path / "holiday.txt", MADE_FROM)


def test_an_unfinished_record_goes_on_from_its_state_and_is_no_record_until_sealed(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    with records.making(folder, MADE_FROM) as making:
        (making.state / "step").write_text("7")
    with pytest.raises(RecordError, match="is not finished"):
        records.load(folder)
    assert records.finished(folder, MADE_FROM) is None
    with records.making(folder, MADE_FROM) as making:
        assert (making.state / "step").read_text() == "7"
        records.write_bytes(folder / "weights", b"w")
        made = making.seal({})
    assert set(made.files) == {"weights"}
    assert not (folder / records.STATE).exists()
    assert not (folder / records.MAKING).exists()


@pytest.mark.parametrize("noun", ["Checkpoint", "Cohort"])
def test_a_record_of_another_noun_is_refused(tmp_path: Path, noun: records.Noun) -> None:
    make(tmp_path / "r")
    with pytest.raises(RecordError, match=f"is a Dataset, and a {noun} is needed"):
        records.load(tmp_path / "r", noun)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no record\.json"):
        records.load(tmp_path)
    with pytest.raises(RecordError, match=r"no record\.json"):
        records.load(tmp_path / "nowhere")


def test_any_altered_byte_of_the_record_file_is_noticed(tmp_path: Path) -> None:
    made = make(tmp_path / "r")
    path = made.path / records.RECORD
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            again = records.load(made.path)
        except MedpipeError:
            continue
        assert dataclasses.replace(again, path=made.path) == made, f"byte {place} was altered and the record read as another"
    path.write_bytes(good)
    assert records.load(made.path) == made


def test_any_altered_byte_of_the_payload_is_noticed_by_a_full_digest(tmp_path: Path) -> None:
    made = make(tmp_path / "r")
    for name in made.files:
        path = made.path / name
        good = path.read_bytes()
        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            with pytest.raises(RecordError, match="other content"):
                records.load(made.path, verify=True)
        path.write_bytes(good)
    assert records.load(made.path, verify=True) == made


def test_missing_and_added_files_are_noticed_without_a_digest(tmp_path: Path) -> None:
    made = make(tmp_path / "r")
    (made.path / "index.parquet").unlink()
    with pytest.raises(RecordError, match=r"index\.parquet is missing"):
        records.load(made.path)
    (made.path / "index.parquet").write_bytes(b"rows")
    (made.path / "smuggled").write_bytes(b"x")
    with pytest.raises(RecordError, match="smuggled was added"):
        records.load(made.path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"seal": 1}', '{"seal": "x", "files": []}', "not json", "\x00"])
def test_a_spoilt_record_file_is_an_error_in_one_sentence(tmp_path: Path, text: str) -> None:
    made = make(tmp_path / "r")
    (made.path / records.RECORD).write_text(text)
    with pytest.raises(RecordError, match="make the record again"):
        records.load(made.path)


def test_a_spoilt_making_file_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    with records.making(tmp_path / "r", MADE_FROM):
        pass
    (tmp_path / "r" / records.MAKING).write_text("{")
    with pytest.raises(RecordError, match="remove it"):
        records.finished(tmp_path / "r", MADE_FROM)


def test_a_second_process_is_told_that_the_record_is_being_made(tmp_path: Path) -> None:
    with records.making(tmp_path / "r", MADE_FROM), pytest.raises(BlockingIOError, match="being made by another process"):  # noqa: SIM117
        with records.making(tmp_path / "r", MADE_FROM):
            raise AssertionError("two makers of one record")
    with records.making(tmp_path / "r", MADE_FROM) as making:
        making.seal({})


MAKER = """
import sys, time
from pathlib import Path
from medpipe import records
sys.path.insert(0, sys.argv[2])
from builders_core import MADE_FROM
folder = Path(sys.argv[1])
with records.making(folder, MADE_FROM) as making:
    records.write_bytes(folder / "index.parquet", b"rows")
    (making.state / "began").touch()
    print("began", flush=True)
    time.sleep(60)
"""


def test_a_killed_maker_leaves_no_record_no_lock_and_the_next_one_finishes_it(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    arguments = [sys.executable, "-c", MAKER, str(folder), str(Path(__file__).parents[1])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "began\n"
        with pytest.raises(BlockingIOError), records.making(folder, MADE_FROM):
            pass
        maker.send_signal(signal.SIGKILL)
    with pytest.raises(RecordError, match="not finished"):
        records.load(folder)
    assert make(folder).content == make(tmp_path / "uninterrupted").content


@pytest.mark.parametrize("name", [".index.parquet.4711.tmp", "0." + "0123456789abcdef" * 2 + ".partial"])
def test_what_an_interrupted_write_left_behind_is_not_sealed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "r"
    with records.making(folder, MADE_FROM):
        (folder / name).write_bytes(b"half a fi")
    assert set(make(folder).files) == {"index.parquet", "images.zarr/c/0"}
    assert not (folder / name).exists()


def test_zarr_still_names_its_unfinished_files_as_the_clean_up_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr

    from medpipe import store

    store.create(tmp_path, 2, (1, 8, 8), "uint8", shard=2)
    monkeypatch.setattr(Path, "replace", lambda self, target: target)  # the process ends before the rename
    monkeypatch.setattr("os.replace", lambda source, target: None)
    array = zarr.open_array(tmp_path / store.NAME / "image", mode="r+")
    array[:] = 1
    unfinished = [path.name for path in (tmp_path / store.NAME).rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert unfinished
    assert all(records._LEFT_BEHIND.search(name) for name in unfinished), unfinished


def test_a_kill_between_seal_and_clean_up_leaves_a_finished_record(tmp_path: Path) -> None:
    made = make(tmp_path / "r")
    (made.path / records.MAKING).write_text(json.dumps({"digest": MADE_FROM.digest}))
    (made.path / records.STATE).mkdir()
    (made.path / records.STATE / "step").write_text("7")
    assert records.load(made.path, verify=True) == made
    assert records.finished(made.path, MADE_FROM) == made


def test_records_lie_at_noun_and_digest(tmp_path: Path) -> None:
    place = MADE_FROM.place(tmp_path)
    assert place == tmp_path / "dataset" / MADE_FROM.digest[:12]
    assert other(seed=4).place(tmp_path) != place


def test_a_record_may_be_moved_and_copied(tmp_path: Path) -> None:
    made = make(tmp_path / "r")
    moved = made.path.rename(tmp_path / "elsewhere")
    assert records.load(moved, verify=True).content == made.content


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        records.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_the_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert records.digest(dict(reversed(value.items()))) == records.digest(value)
    assert records.digest(json.loads(records.canonical(value))) == records.digest(value)
