"""The consent ledger: it only grows, shows any other change, and survives a kill at every byte."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpipe import ledger
from medpipe.errors import InputError, RecordError
from medpipe.ledger import Entry, Ledger

KEY = "0123456789abcdef"
PATIENTS = [f"P{number:016x}" for number in range(1, 40)]


def permit(patient: str, **changes: object) -> Entry:
    return Entry(patient, "permit", "GRU", **changes)  # type: ignore[arg-type]


def filled(path: Path, count: int = 6) -> Ledger:
    for patient in PATIENTS[:count]:
        ledger.append(path, KEY, lambda book, patient=patient: [permit(patient)])
    book = ledger.load(path)
    assert book is not None
    return book


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "consent.jsonl"


def test_what_was_appended_is_read_back_and_only_its_owner_may(path: Path) -> None:
    entry = Entry(
        PATIENTS[0], "permit", "DS", ("TS", "NCU"), ("MONDO:0005148",), date(2026, 1, 2), date(2027, 1, 2), None, "EK 12/26", "ab" * 32
    )
    book, new = ledger.append(path, KEY, lambda _: [entry])
    assert new == book.entries == (entry,)
    assert book.key == KEY
    for file in (path, ledger.head_file(path)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        ledger.load(path)


def test_there_is_no_ledger_before_the_first_entry(path: Path) -> None:
    assert ledger.load(path) is None
    with pytest.raises(InputError, match="there is no consent ledger"):
        ledger.named(path)
    with pytest.raises(InputError, match="is no file"):
        ledger.load(path.parent.parent)


def test_a_withdrawal_stands_until_the_patient_permits_again(path: Path) -> None:
    one, two = PATIENTS[:2]
    steps = [permit(one), permit(two), Entry(one, "withdraw"), permit(one)]
    book, _ = ledger.append(path, KEY, lambda _: steps)
    assert book.withdrawn == {one}
    book, _ = ledger.append(path, KEY, lambda _: [permit(one, again=True)])
    assert book.withdrawn == frozenset()
    book, _ = ledger.append(path, KEY, lambda _: [Entry(one, "withdraw")])
    assert book.withdrawn == {one}
    assert book.in_force[two] == permit(two)


def test_a_ledger_of_another_key_is_refused(path: Path) -> None:
    filled(path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match="another pseudonym key"):
        ledger.append(path, "f" * 16, lambda _: [permit(PATIENTS[0])])
    assert path.read_bytes() == before


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def rewritten(path: Path, found: list[bytes]) -> None:
    path.write_bytes(b"".join(found))


@pytest.mark.parametrize("number", range(7))
def test_an_altered_entry_is_refused_and_named(path: Path, number: int) -> None:
    filled(path)
    found = lines(path)
    text = json.loads(found[number])
    text["recorded"] = "2020-01-01T00:00:00+00:00"
    found[number] = ledger.canonical(text) + b"\n"
    rewritten(path, found)
    with pytest.raises(RecordError, match=f"entry {number} of the consent ledger .* was altered"):
        ledger.load(path)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_removed_a_doubled_and_a_moved_entry_are_refused(path: Path, number: int) -> None:
    filled(path)
    whole = lines(path)
    for found in (
        [*whole[:number], *whole[number + 1 :]],
        [*whole[:number], whole[number], *whole[number:]],
        [*whole[:number], whole[number + 1], whole[number], *whole[number + 2 :]],
    ):
        rewritten(path, found)
        with pytest.raises(RecordError, match="entry"):
            ledger.load(path)


@pytest.mark.parametrize("kept", range(7))
def test_a_ledger_that_was_cut_off_at_its_end_is_refused(path: Path, kept: int) -> None:
    filled(path)
    rewritten(path, lines(path)[:kept])
    with pytest.raises(RecordError, match=f"cut off after entry {kept - 1}" if kept else "does not begin"):
        ledger.load(path)


def test_a_ledger_whose_head_or_itself_is_gone_is_refused(path: Path) -> None:
    filled(path)
    head = ledger.head_file(path)
    kept = head.read_bytes()
    head.unlink()
    with pytest.raises(RecordError, match=r"head file .* is gone"):
        ledger.load(path)
    head.write_text("{}")
    with pytest.raises(RecordError, match="was altered"):
        ledger.load(path)
    head.write_bytes(kept)
    path.unlink()
    with pytest.raises(RecordError, match="is gone, and its head file says that it held 6 entries"):
        ledger.load(path)
    with pytest.raises(RecordError, match="is gone"):
        ledger.append(path, KEY, lambda _: [permit(PATIENTS[0])])


def test_a_ledger_cut_off_together_with_its_head_is_not_the_one_that_a_record_was_made_under(path: Path) -> None:
    filled(path, 3)
    shorter = path.read_bytes(), ledger.head_file(path).read_bytes()
    book, _ = ledger.append(path, KEY, lambda _: [Entry(PATIENTS[0], "withdraw")])
    assert book.holds(book.head, 4)
    path.write_bytes(shorter[0])
    ledger.head_file(path).write_bytes(shorter[1])
    rolled_back = ledger.load(path)
    assert rolled_back is not None
    assert not rolled_back.holds(book.head, 4)
    assert book.holds(rolled_back.head, 3), "a ledger that was gone on with is the same ledger"


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_goes_unnoticed(path: Path, data: st.DataObject) -> None:
    if not path.exists():
        filled(path)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
    try:
        path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
        with pytest.raises(RecordError):
            ledger.load(path)
    finally:
        path.write_bytes(whole)


def test_an_append_that_was_cut_off_at_any_byte_loses_nothing_before_it(path: Path) -> None:
    """A kill leaves a prefix of the new lines and the head of before; the next append cuts the torn line off."""
    filled(path, 2)
    before, head = path.read_bytes(), ledger.head_file(path).read_bytes()
    ledger.append(path, KEY, lambda _: [permit(patient) for patient in PATIENTS[2:4]])
    after = path.read_bytes()
    for cut in range(len(before), len(after) + 1):
        path.write_bytes(after[:cut])
        ledger.head_file(path).write_bytes(head)
        book = ledger.load(path)
        assert book is not None
        assert len(book.entries) == 2 + after[len(before) : cut].count(b"\n")
        again, _ = ledger.append(path, KEY, lambda _: [permit(PATIENTS[9])])
        assert again.entries[: len(book.entries)] == book.entries
        assert again.entries[-1].patient == PATIENTS[9]


def test_a_kill_while_the_ledger_is_made_can_be_gone_on_from(path: Path) -> None:
    path.parent.mkdir()
    ledger._created(path, KEY)
    book = ledger.load(path)
    assert book is not None
    assert book.entries == ()
    path.unlink()  # killed between the head and the ledger
    assert ledger.load(path) is None
    assert len(filled(path, 2).entries) == 2


APPENDING = """
import sys
from pathlib import Path
from medpipe import ledger
from medpipe.ledger import Entry
path, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + count):
    ledger.append(path, "0123456789abcdef", lambda book: [Entry(f"P{number:016x}", "permit", "GRU")])
    print(number, flush=True)
"""


def appending(path: Path, first: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDING, str(path), str(first), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_that_append_at_once_lose_no_entry(path: Path) -> None:
    writers = [appending(path, 0, 25), appending(path, 1000, 25)]
    for writer in writers:
        start(writer)
    while any(writer.poll() is None for writer in writers):
        ledger.load(path)  # a reader in between sees a whole ledger, or none yet
        time.sleep(0.01)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    book = ledger.load(path)
    assert book is not None
    assert {entry.patient for entry in book.entries} == {f"P{number:016x}" for number in (*range(25), *range(1000, 1025))}


def test_a_writer_that_is_killed_leaves_a_whole_ledger_with_every_entry_that_it_had_told(path: Path) -> None:
    for round_ in range(4):
        writer = appending(path, 100 * round_, 100)
        start(writer)
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(3 + 2 * round_)]
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        book = ledger.load(path)
        assert book is not None
        assert {f"P{number:016x}" for number in told} <= set(book.in_force)
