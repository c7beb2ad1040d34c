"""Permissions as people give them: lists and tables with Patient IDs become ledger entries with pseudonyms.

A message names a line or a column by its number, never what stands there: a table without a heading begins with a patient.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal, TypeVar

from medpipe import duo, ledger
from medpipe.deid.consent import of_array, of_dicom
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.errors import InputError
from medpipe.ledger import Entry, Ledger

Form = Literal["dicom", "arrays"]
Value = TypeVar("Value")
PSEUDONYM = re.compile(r"P[0-9a-f]{16}")
COLUMNS = ("PatientID", "permission", "modifiers", "diseases", "valid_from", "valid_to", "publish_from", "ethics", "evidence")
"""The columns that a table may have; the first two are needed."""
DAYS = ("valid_from", "valid_to", "publish_from")
_ETHICS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ./_-]{0,63}")


def pseudonym(text: str, names: Pseudonyms, form: Form) -> str:
    """Return the pseudonym of what names a patient: itself where it is one, else that of the Patient ID or array value."""
    plain = text.strip()
    if PSEUDONYM.fullmatch(plain):
        return plain
    return names.patient(of_dicom(plain) if form == "dicom" else of_array(plain))


def pseudonyms(words: Iterable[str]) -> list[str]:
    """Return what a command line names; raises InputError where one is no pseudonym, since a command stays in the shell's history."""
    found = list(words)
    if not all(PSEUDONYM.fullmatch(word) for word in found):
        raise InputError(
            "a command names a patient by pseudonym (P and 16 hexadecimal digits) alone, for it stays in the shell's history: "
            "give Patient IDs in a file with --patients FILE, or on standard input with --patients -"
        )
    return found


def listed(text: str, names: Pseudonyms, form: Form) -> list[str]:
    """Return the pseudonyms of a list of patients, one on a line."""
    return list(dict.fromkeys(pseudonym(line, names, form) for line in text.splitlines() if line.strip()))


def permission(patient: str, given: dict[str, str], patient_id: str = "") -> Entry:
    """Make the entry of one permission from texts by the names of `COLUMNS`; raises InputError beginning with the column's name."""
    code = _read("permission", given, duo.code)
    if code not in duo.PERMISSIONS:
        raise InputError(f"permission holds no permission of the Data Use Ontology: write one of {', '.join(duo.PERMISSIONS)}")
    modifiers = tuple(dict.fromkeys(_read("modifiers", {"modifiers": part}, duo.code) for part in _parts(given.get("modifiers", ""))))
    if not set(modifiers) <= set(duo.MODIFIERS):
        raise InputError("modifiers holds a permission: a patient gives one permission, under any modifiers")
    diseases = tuple(dict.fromkeys(_parts(given.get("diseases", ""))))
    if not all(duo.DISEASE.fullmatch(disease) for disease in diseases):
        raise InputError("diseases holds what is no disease code: write codes such as MONDO:0005148")
    if (code == "DS") != bool(diseases):
        raise InputError("diseases goes with the permission DS, and that with it: give both or neither")
    days = {name: _read(name, given, _day) if given.get(name, "").strip() else None for name in DAYS}
    for modifier, name in (("TS", "valid_to"), ("MOR", "publish_from")):
        if modifier in modifiers and days[name] is None:
            raise InputError(f"modifiers holds {modifier}, which needs a day in {name}: add it")
    if (days["valid_from"] or date.min) > (days["valid_to"] or date.max):
        raise InputError("valid_to is a day before valid_from: correct one of them")
    evidence = given.get("evidence", "").strip().lower()
    if evidence and not re.fullmatch(r"[0-9a-f]{64}", evidence):
        raise InputError("evidence is no SHA-256: write the 64 hexadecimal digits that sha256sum prints for the signed form")
    start, end, published = (days[name] for name in DAYS)
    return Entry(patient, "permit", code, modifiers, diseases, start, end, published, _ethics(given, patient_id), evidence)


def _ethics(given: dict[str, str], patient_id: str) -> str:
    text = given.get("ethics", "").strip()
    if text and (not _ETHICS.fullmatch(text) or (patient_id and patient_id.casefold() in text.casefold())):
        raise InputError("ethics is no approval number (at most 64 letters, digits, points and dashes), or names the patient: correct it")
    return text


def _read(name: str, given: dict[str, str], read: Callable[[str], Value]) -> Value:
    try:
        return read(given.get(name, ""))
    except InputError as error:
        raise InputError(f"{name} {error}") from None


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[\s;,|+]+", text) if part]


def _day(text: str) -> date:
    plain = text.strip()
    try:
        return date.fromisoformat(plain) if re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}", plain) else _no_day()
    except ValueError:
        return _no_day()


def _no_day() -> date:
    raise InputError("holds no day: write it as YYYY-MM-DD")


def table(path: Path, names: Pseudonyms, form: Form) -> list[Entry]:
    """Read a CSV table of permissions, one patient on a line; raises InputError naming the line or column that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no table at {path}: give a CSV file with the columns PatientID and permission") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError("the table is not UTF-8 text: save it as UTF-8 CSV") from None
    lines = text.splitlines()
    delimiter = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error:
        raise InputError(f"line {reader.line_num} of the table cannot be read as CSV: correct its quotes") from None
    header = _header([cell.strip() for cell in rows[0]] if rows else [])
    found: dict[str, Entry] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise InputError(f"line {number} of the table has {len(row)} values for {len(header)} columns: correct it")
        given = dict(zip(header, row, strict=True))
        who = given["PatientID"].strip()
        if not who:
            raise InputError(f"line {number} of the table has no PatientID: add it, or remove the line")
        try:
            entry = permission(pseudonym(who, names, form), given, who)
        except InputError as error:
            raise InputError(f"line {number} of the table: {error}") from None
        if found.setdefault(entry.patient, entry) != entry:
            raise InputError(f"line {number} of the table contradicts an earlier line about the same patient: keep one")
    return list(found.values())


def _header(header: list[str]) -> list[str]:
    for number, name in enumerate(header, start=1):
        if name not in COLUMNS or header.count(name) > 1:
            raise InputError(
                f"column {number} of the table is twice there or has a name that no column of permissions has: "
                f"name each column once, as one of {', '.join(COLUMNS)}, and remove others, so that no restriction is overlooked"
            )
    if not {"PatientID", "permission"} <= set(header):
        raise InputError("the table lacks the column PatientID or permission: its first line must name its columns")
    return header


def record(path: Path, key: str, entries: Sequence[Entry]) -> tuple[Ledger, int, int]:
    """Append permissions to the ledger; return it, how many were new, and how many patients keep the withdrawal that they gave before.

    A permission that is in force already is not written again. One for a patient who withdrew is left out, unless it says `again`:
    last month's table must not undo a withdrawal.
    """
    kept = 0

    def choose(book: Ledger) -> list[Entry]:
        nonlocal kept
        stands = {entry.patient for entry in entries if not entry.again and entry.patient in book.withdrawn}
        kept = len(stands)
        return [entry for entry in entries if entry.patient not in stands and not _same(book.in_force.get(entry.patient), entry)]

    book, new = ledger.append(path, key, choose)
    return book, len(new), kept


def _same(old: Entry | None, new: Entry) -> bool:
    return old is not None and replace(old, again=False) == replace(new, again=False)
