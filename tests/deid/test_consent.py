"""Consent at intake: who is not permitted is set aside under a code, and no identifier enters the ledger or a Collection."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders_deid import hospital, instance, save
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from medpipe import consent as consents
from medpipe import ledger, recipe, store
from medpipe.deid import consent, patient, permissions
from medpipe.deid import pseudonyms as keyed
from medpipe.deid.deidentify import deidentify, made_from
from medpipe.deid.reading import identity, quiet
from medpipe.errors import ConsentError, InputError, RecordError
from medpipe.ledger import Entry
from medpipe.recipe import Recipe
from medpipe.records import Record

TODAY = consents.today()


def asking(**section: Any) -> Recipe:
    return recipe.build({"consent": {"check": "ledger", **section}})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four patients with two images each."""
    return hospital(tmp_path / "in", 4)


@pytest.fixture
def who(key: Path) -> Callable[[int], str]:
    names = keyed.load(key)
    return lambda number: permissions.pseudonym(f"MRN{number:06d}", names, "dicom")


@pytest.fixture
def book(key: Path) -> Callable[..., None]:
    names = keyed.load(key)

    def write(*entries: Entry) -> None:
        ledger.append(key.with_name(ledger.NAME), names.key_id, lambda _: entries)

    return write


def permit(patient: str, **changes: Any) -> Entry:
    return Entry(patient, "permit", **{"permission": "GRU", **changes})


def patients(record: Record) -> set[str]:
    return set(pd.read_parquet(record.path / "index.parquet")["patient"])


def flag(value: str, **more: str) -> Sequence:
    item = Dataset()
    item.DistributionType, item.ConsentForDistributionFlag = "PUBLIC_RELEASE", value
    for keyword, day in more.items():
        setattr(item, keyword, day)
    return Sequence([item])


def test_a_pseudonym_of_a_patient_id_is_the_one_that_intake_gives() -> None:
    for text in ("MRN000001", " MRN  1 ", "Ünal-7"):
        file = Dataset()
        file.PatientID = text
        assert identity(file) == consent.of_dicom(text)


def test_without_asking_everyone_is_used_and_the_record_says_that_nobody_was_asked(source: Path, tmp_path: Path, key: Path) -> None:
    made = deidentify(source, tmp_path / "out", Recipe(), key_file=key)
    assert len(patients(made)) == 4
    assert made.facts["consent"]["check"] == "off"
    assert not consents.evidence(made.facts["consent"], 11)["checked"]
    assert "consent" not in made.made_from["inputs"]


def test_a_ledger_that_is_asked_for_and_absent_stops_the_run(source: Path, tmp_path: Path, key: Path) -> None:
    with pytest.raises(ConsentError, match=r"there is none at .*consent\.jsonl.*medpipe consent import"):
        deidentify(source, tmp_path / "out", asking(), key_file=key)
    assert not (tmp_path / "out").exists()


def test_only_patients_on_record_are_used_and_the_others_are_counted(
    source: Path, tmp_path: Path, key: Path, who: Callable[[int], str], book: Callable[..., None]
) -> None:
    book(permit(who(1)), permit(who(2), modifiers=("NMDS",)), permit(who(3)), Entry(who(3), "withdraw"))
    made = deidentify(source, tmp_path / "out", asking(), key_file=key)
    assert patients(made) == {who(1)}
    assert made.facts["set_aside"] == {"NO_CONSENT": 4, "CONSENT_REFUSED": 2}
    assert made.facts["quarantined"] == {}
    said = made.facts["consent"]
    assert (said["permitted"], said["denied"]) == (1, {"no training of a generator": 1, "not on record": 1, "withdrawn": 1})
    found = ledger.load(key.with_name(ledger.NAME))
    assert found is not None
    assert (said["head"], said["entries"]) == (found.head, 4)
    everything = b"".join(str(path).encode() + path.read_bytes() for path in made.path.rglob("*") if path.is_file())
    for number in (2, 3, 4):
        assert who(number).encode() not in everything, "nothing of who may not be used, not even the pseudonym"


def test_nobody_permitted_and_too_many_denied_are_consent_errors(
    source: Path, tmp_path: Path, key: Path, who: Callable[[int], str], book: Callable[..., None]
) -> None:
    book(permit(who(1), permission="HMB"))
    with pytest.raises(ConsentError, match="no patient of the source may be used"):
        deidentify(source, tmp_path / "out", asking(), key_file=key)
    assert len(patients(deidentify(source, tmp_path / "out", asking(purpose="health"), key_file=key))) == 1
    with pytest.raises(ConsentError, match=r"3 of the source's 4 patients .*consent\.denied_max \(0\.5\)"):
        deidentify(source, tmp_path / "bounded", asking(purpose="health", denied_max=0.5), key_file=key)


def test_a_withdrawal_counts_also_where_permission_is_not_asked_for(
    source: Path, tmp_path: Path, key: Path, who: Callable[[int], str], book: Callable[..., None]
) -> None:
    before = made_from(source, Recipe(), key_file=key)
    book(Entry("P" + "0" * 16, "withdraw"))
    assert made_from(source, Recipe(), key_file=key) == before, "who is not in the source changes nothing"
    book(Entry(who(2), "withdraw"))
    assert made_from(source, Recipe(), key_file=key).digest != before.digest
    made = deidentify(source, tmp_path / "out", Recipe(), key_file=key)
    assert patients(made) == {who(1), who(3), who(4)}
    assert made.facts["set_aside"] == {"CONSENT_REFUSED": 2}


def test_only_what_decides_about_a_patient_of_the_source_makes_another_collection(
    source: Path, key: Path, who: Callable[[int], str], book: Callable[..., None]
) -> None:
    book(*(permit(who(number)) for number in (1, 2, 3, 4)))
    before = made_from(source, asking(), key_file=key)
    book(permit("P" + "0" * 16), Entry("P" + "1" * 16, "withdraw"), permit(who(1), permission="NRES"), permit(who(2), ethics="EK 7"))
    assert made_from(source, asking(), key_file=key) == before
    book(permit(who(1), permission="HMB"))
    changed = made_from(source, asking(), key_file=key)
    assert changed.digest != before.digest
    book(permit(who(1)))
    assert made_from(source, asking(), key_file=key) == before


def test_a_refresh_after_a_withdrawal_takes_the_rest_from_before_and_equals_a_run_from_nothing(
    source: Path, tmp_path: Path, key: Path, who: Callable[[int], str], book: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    book(*(permit(who(number)) for number in (1, 2, 3, 4)))
    first = deidentify(source, tmp_path / "first", asking(), key_file=key)
    book(Entry(who(4), "withdraw"))
    searched: list[int] = []
    search = patient.search
    monkeypatch.setattr(patient, "search", lambda work: searched.extend(ordinal for ordinal, _ in work.files) or search(work))
    second = deidentify(source, tmp_path / "second", asking(), key_file=key, earlier=first.path)
    assert searched == []
    assert patients(second) == {who(1), who(2), who(3)}
    assert second.content == deidentify(source, tmp_path / "fresh", asking(), key_file=key).content
    book(permit(who(4), again=True))
    third = deidentify(source, tmp_path / "third", asking(), key_file=key, earlier=second.path)
    assert third.content == first.content


@pytest.mark.parametrize("value", ["NO", "WITHDRAWN", "PENDING"])
@pytest.mark.parametrize("check", ["off", "ledger"])
def test_a_refusal_in_one_header_denies_the_patient_whatever_the_ledger_says(
    source: Path, tmp_path: Path, key: Path, who: Callable[[int], str], book: Callable[..., None], value: str, check: str
) -> None:
    save(instance(2, 3, ConsentForClinicalTrialUseSequence=flag(value)), source / "x.dcm")
    save(instance(3, 3, ConsentForClinicalTrialUseSequence=flag("YES")), source / "y.dcm")
    book(*(permit(who(number)) for number in (1, 2, 3, 4)))
    chosen = recipe.build({"consent": {"check": check}})
    made = deidentify(source, tmp_path / "out", chosen, key_file=key)
    assert patients(made) == {who(1), who(3), who(4)}
    assert made.facts["set_aside"] == {"CONSENT_REFUSED": 3}
    assert made.facts["consent"]["denied"] == {"refused in a header": 1}
    again = deidentify(source, tmp_path / "again", chosen, key_file=key, earlier=made.path)
    assert again.content == made.content, "a refusal is not forgotten by what is taken from before"


def test_a_consent_sequence_that_cannot_be_read_refuses() -> None:
    spoilt = [
        DataElement(consent.USE_SEQUENCE, "LO", "no sequence"),
        RawDataElement(BaseTag(consent.USE_SEQUENCE), "UN", 8, b"\x01\x00\x02\x00\xff\xff\xff\x7f", 0, False, True, True),
    ]
    with quiet():
        for element in spoilt:
            file = Dataset({element.tag: element})
            assert consent.said(file).refused
        assert not consent.said(Dataset()).refused
        file.ConsentForClinicalTrialUseSequence = flag("no ")
        assert consent.said(file).refused
        file.ConsentForClinicalTrialUseSequence = flag("yes")
        assert not consent.said(file).refused


@pytest.mark.parametrize(("start", "end", "used"), [(-9, 9, True), (1, 9, False), (-9, -1, False), (0, 0, True)])
def test_the_ethics_committees_days_in_a_header_bound_a_permission(
    source: Path, tmp_path: Path, key: Path, who: Callable[[int], str], book: Callable[..., None], start: int, end: int, used: bool
) -> None:
    first, last = ((TODAY + timedelta(days=days)).strftime("%Y%m%d") for days in (start, end))
    days = {"EthicsCommitteeApprovalEffectivenessStartDate": first, "EthicsCommitteeApprovalEffectivenessEndDate": last}
    save(instance(2, 3, ConsentForClinicalTrialUseSequence=flag("YES", **days)), source / "x.dcm")
    book(*(permit(who(number)) for number in (1, 2)))
    assert (who(2) in patients(deidentify(source, tmp_path / "out", asking(), key_file=key))) is used


def test_the_days_are_judged_anew_although_headers_are_remembered(
    source: Path, key: Path, who: Callable[[int], str], book: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    book(*(permit(who(number), valid_to=TODAY) for number in (1, 2, 3, 4)))
    before = made_from(source, asking(), key_file=key)
    looked: list[Path] = []
    look = consent.look
    monkeypatch.setattr(consent, "look", lambda work: looked.extend(path for _, path in work.files) or look(work))
    assert made_from(source, asking(), key_file=key) == before
    assert looked == [], "an unchanged source is not opened again"
    monkeypatch.setattr(consent, "today", lambda: TODAY + timedelta(days=1))
    assert made_from(source, asking(), key_file=key).digest != before.digest
    save(instance(5, 1), source / "new.dcm")
    made_from(source, asking(), key_file=key)
    assert [path.name for path in looked] == ["new.dcm"]
    cache = key.with_name("p.key.patients")
    assert cache.stat().st_mode & 0o077 == 0
    assert b"MRN" not in cache.read_bytes()
    cache.write_text("spoilt")
    made_from(source, asking(), key_file=key)


def test_a_ledger_of_another_key_is_refused(source: Path, tmp_path: Path, key: Path) -> None:
    ledger.append(key.with_name(ledger.NAME), "f" * 16, lambda _: [permit("P" + "0" * 16)])
    with pytest.raises(RecordError, match="another pseudonym key"):
        deidentify(source, tmp_path / "out", asking(), key_file=key)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Ten patients with four images each, in two splits; patient 3 has the brightest pixel."""
    path = tmp_path / "images.npz"
    grey = np.random.default_rng(0).integers(0, 900, (40, 8, 8)).astype(np.int16)
    whose = np.arange(40) % 10
    grey[whose == 3] -= 2000
    parts = {"train": slice(0, 30), "test": slice(30, 40)}
    np.savez(
        path, **{f"{name}_{what}": values[rows] for name, rows in parts.items() for what, values in (("images", grey), ("patients", whose))}
    )
    return path


def test_rows_of_patients_who_may_not_be_used_leave_no_trace_in_a_collection_of_arrays(tmp_path: Path, key: Path, arrays: Path) -> None:
    names = keyed.load(key)
    chosen = recipe.build({"source": {"form": "arrays"}, "consent": {"check": "ledger"}})
    entries = [permit(permissions.pseudonym(str(number), names, "arrays")) for number in range(10) if number not in (3, 7)]
    ledger.append(key.with_name(ledger.NAME), names.key_id, lambda _: entries)
    made = deidentify(arrays, tmp_path / "out", chosen, key_file=key)
    index = pd.read_parquet(made.path / "index.parquet")
    assert list(index["row"]) == list(range(32))
    assert set(index["patient"]) == {entry.patient for entry in entries}
    assert made.facts["set_aside"] == {"NO_CONSENT": 8}
    assert made.facts["splits"] == {"train": 24, "test": 8}
    with np.load(arrays) as file:
        grey = np.concatenate([file["train_images"], file["test_images"]])
    kept = grey[~np.isin(np.arange(40) % 10, (3, 7))]
    assert np.array_equal(store.read(made.path)[:, 0], kept), "and their pixels decide nothing, not even how others are stored"


def test_arrays_that_name_no_patients_can_be_withdrawn_row_by_row_by_pseudonym(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 200, (12, 8, 8)).astype(np.uint8))
    chosen = recipe.build({"source": {"form": "arrays"}})
    first = deidentify(path, tmp_path / "first", chosen, key_file=key)
    row = pd.read_parquet(first.path / "index.parquet")["patient"][5]
    ledger.append(key.with_name(ledger.NAME), keyed.load(key).key_id, lambda _: [Entry(row, "withdraw")])
    second = deidentify(path, tmp_path / "second", chosen, key_file=key)
    assert patients(second) == patients(first) - {row}


HEADER = "PatientID,permission,modifiers,diseases,valid_from,valid_to,publish_from,ethics,evidence"


def imported(tmp_path: Path, key: Path, *lines: str, header: str = HEADER) -> list[Entry]:
    path = tmp_path / "permissions.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return permissions.table(path, keyed.load(key), "dicom")


def test_a_table_of_permissions_becomes_entries_with_pseudonyms(tmp_path: Path, key: Path, who: Callable[[int], str]) -> None:
    entries = imported(
        tmp_path, key,
        "MRN000001,GRU,,,,,,,",
        f"MRN000002,DUO:0000007,TS IRB,MONDO:0005148 MONDO:0004979,2026-01-01,20271231,,EK 12/26,{'AB' * 32}",
        ",,,,,,,,",
        "MRN000001,GRU,,,,,,,",
        "MRN000003,hmb,NCU|MOR,,,,2026-09-01,,",
    )  # fmt: skip
    assert entries == [
        permit(who(1)),
        Entry(
            who(2), "permit", "DS", ("TS", "IRB"), ("MONDO:0005148", "MONDO:0004979"), date(2026, 1, 1), date(2027, 12, 31), None,
            "EK 12/26", "ab" * 32,
        ),
        Entry(who(3), "permit", "HMB", ("NCU", "MOR"), publish_from=date(2026, 9, 1)),
    ]  # fmt: skip


def test_a_table_with_semicolons_and_a_byte_order_mark_is_read(tmp_path: Path, key: Path, who: Callable[[int], str]) -> None:
    entries = imported(tmp_path, key, "GRU;MRN000001;IRB,PUB", header="\ufeffpermission;PatientID;modifiers")
    assert entries == [permit(who(1), modifiers=("IRB", "PUB"))]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("MRN000009,GRUX,,,,,,,", "permission holds what is no code"),
        ("MRN000009,NCU,,,,,,,", "permission holds no permission"),
        ("MRN000009,,,,,,,,", "permission holds what is no code"),
        ("MRN000009,GRU,XYZ,,,,,,", "modifiers holds what is no code"),
        ("MRN000009,GRU,HMB,,,,,,", "modifiers holds a permission"),
        ("MRN000009,DS,,,,,,,", "diseases goes with the permission DS"),
        ("MRN000009,GRU,,MONDO:0005148,,,,,", "diseases goes with the permission DS"),
        ("MRN000009,DS,,diabetes of MRN000009,,,,,", "diseases holds what is no disease code"),
        ("MRN000009,GRU,TS,,,,,,", "TS, which needs a day in valid_to"),
        ("MRN000009,GRU,MOR,,,,,,", "MOR, which needs a day in publish_from"),
        ("MRN000009,GRU,,,2026-13-01,,,,", "valid_from holds no day"),
        ("MRN000009,GRU,,,01.02.2026,,,,", "valid_from holds no day"),
        ("MRN000009,GRU,,,2026-02-01,2026-01-01,,,", "valid_to is a day before"),
        ("MRN000009,GRU,,,,,,for MRN000009,", "ethics is no approval number"),
        ("MRN000009,GRU,,,,,,,cafe", "evidence is no SHA-256"),
        ("MRN000009,GRU", "2 values for 9 columns"),
        (",GRU,,,,,,,", "has no PatientID"),
        ("MRN000001,HMB,,,,,,,", "contradicts an earlier line"),
        ('"MRN000009,GRU,,,,,,,', "cannot be read as CSV"),
    ],
)
def test_a_wrong_line_is_named_by_number_and_nothing_of_it_is_repeated(tmp_path: Path, key: Path, line: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        imported(tmp_path, key, "MRN000001,GRU,,,,,,,", line)
    assert "line 3 of the table" in str(raised.value)
    assert "MRN" not in str(raised.value)
    assert "cafe" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("header", ["MRN000001,GRU", "PatientID", "PatientID,permission,modifers", "PatientID,permission,permission", ""])
def test_a_table_without_its_columns_or_with_others_is_refused(tmp_path: Path, key: Path, header: str) -> None:
    with pytest.raises(InputError, match="column") as raised:
        imported(tmp_path, key, "MRN000001,GRU", header=header)
    assert "MRN" not in str(raised.value)
    assert "modifers" not in str(raised.value)


def test_what_is_no_text_or_not_there_is_refused(tmp_path: Path, key: Path) -> None:
    with pytest.raises(InputError, match="no table at"):
        permissions.table(tmp_path / "absent.csv", keyed.load(key), "dicom")
    (tmp_path / "latin.csv").write_bytes("PatientID,permission\nMüller,GRU\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        permissions.table(tmp_path / "latin.csv", keyed.load(key), "dicom")


def test_importing_again_writes_nothing_and_undoes_no_withdrawal(key: Path, who: Callable[[int], str]) -> None:
    path, name = key.with_name(ledger.NAME), keyed.load(key).key_id
    entries = [permit(who(1)), permit(who(2))]
    assert permissions.record(path, name, entries)[1:] == (2, 0)
    before = path.read_bytes()
    assert permissions.record(path, name, entries)[1:] == (0, 0)
    assert path.read_bytes() == before
    ledger.append(path, name, lambda _: [Entry(who(2), "withdraw")])
    book, new, kept = permissions.record(path, name, [permit(who(1)), permit(who(2)), permit(who(3))])
    assert (new, kept, book.withdrawn) == (1, 1, {who(2)})
    book, new, kept = permissions.record(path, name, [permit(who(2), again=True)])
    assert (new, kept, book.withdrawn) == (1, 0, frozenset())
    assert permissions.record(path, name, [permit(who(2))])[1:] == (0, 0)


def test_the_ledger_holds_no_identifier(tmp_path: Path, key: Path) -> None:
    permissions.record(key.with_name(ledger.NAME), keyed.load(key).key_id, imported(tmp_path, key, "MRN000001,GRU,,,,,,,"))
    for path in key.parent.iterdir():
        assert b"MRN" not in path.read_bytes()


def test_a_command_names_a_patient_by_pseudonym_alone(key: Path) -> None:
    good = "P" + "0a" * 8
    assert permissions.pseudonyms([good]) == [good]
    for word in ("MRN000001", "P123", good.upper(), f"{good} "):
        with pytest.raises(InputError, match="stays in the shell's history") as raised:
            permissions.pseudonyms([good, word])
        assert "MRN" not in str(raised.value)
    names = keyed.load(key)
    assert permissions.listed(f"MRN1\n\n  {good}\nMRN1\n", names, "dicom") == [permissions.pseudonym("MRN1", names, "dicom"), good]
