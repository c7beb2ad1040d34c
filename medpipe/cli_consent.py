"""The commands on consent: `medpipe consent add|import|show|verify` and `medpipe withdraw`.

A patient is named on the command line by pseudonym alone; Patient IDs come from a file or standard input, since a command
stays in the shell's history.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medpipe import duo
from medpipe.cli_flags import Parser, debug_argument, recipe_from, settings_arguments
from medpipe.errors import InputError, RecordError
from medpipe.ledger import Entry

if TYPE_CHECKING:
    from medpipe.deid.permissions import Form

_CODES = "\n".join(f"  {code:7}{meaning}" for code, (_, meaning) in (duo.PERMISSIONS | duo.MODIFIERS).items())
_ABOUT = f"""Permissions and withdrawals, by pseudonym, in an append-only file that shows when it was altered.

Begin with
  medpipe consent import permissions.csv --workspace W     a table with the columns PatientID and permission
  medpipe run … --consent.check ledger                     only images of patients who permit it are used
  medpipe withdraw --patients - --workspace W              a patient takes it back: type the Patient ID, then Ctrl-D

Codes (GA4GH Data Use Ontology): one permission, and the modifiers that it is under
{_CODES}
"""


def commands(top: argparse._SubParsersAction[Parser]) -> None:
    """Add `consent` with its actions, and `withdraw`."""
    usage, what = "medpipe consent ACTION --workspace W [options]", "record and look up patients' permissions"
    consent = top.add_parser("consent", help=what, description=_ABOUT, usage=usage)
    actions = consent.add_subparsers(title="actions", required=True, metavar="ACTION")

    add = _action(actions, "consent add", add_permission, "record one permission for the patients named")
    _patients(add)
    add.add_argument("--permission", required=True, metavar="CODE", help=f"one of {', '.join(duo.PERMISSIONS)}")
    add.add_argument("--modifiers", default="", metavar="CODE,...", help=f"of {', '.join(duo.MODIFIERS)}")
    add.add_argument("--diseases", default="", metavar="CODE,...", help="where the permission is DS, such as MONDO:0005148")
    add.add_argument("--valid_from", default="", metavar="DAY", help="first day of the permission, YYYY-MM-DD")
    add.add_argument("--valid_to", default="", metavar="DAY", help="last day of the permission")
    add.add_argument("--publish_from", default="", metavar="DAY", help="where a modifier is MOR: first day of publication")
    add.add_argument("--ethics", default="", metavar="NUMBER", help="number of the ethics committee's approval")
    add.add_argument("--evidence", default="", metavar="SHA256", help="SHA-256 of the signed form")
    add.add_argument("--again", action="store_true", help="the patients permit again after a withdrawal")

    table = _action(actions, "consent import", import_table, "record the permissions of a CSV table", "TABLE ")
    columns = "modifiers, diseases, valid_from, valid_to, publish_from, ethics, evidence"
    table.add_argument("table", type=Path, metavar="TABLE", help=f"columns PatientID, permission and, where wanted, {columns}")

    show = _action(actions, "consent show", show_standing, "say what is on record, and what it permits under a recipe")
    _patients(show)
    show.add_argument("--recipe", metavar="NAME|FILE", help="recipe whose use is judged (default: every default)")
    settings_arguments(show, shown=("consent",))

    _action(actions, "consent verify", verify, "check that the ledger is whole, and the one that records were made under", "")
    taken = _action(top, "withdraw", withdraw, "record that patients withdrew, list and block what descends from them")
    _patients(taken)


def _action(
    actions: argparse._SubParsersAction[Parser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    what: str,
    positional: str = "[PATIENT ...] ",
) -> Parser:
    usage, sentence = f"medpipe {name} {positional}--workspace W [options]", f"{what[0].upper()}{what[1:]}."
    made = actions.add_parser(name.rpartition(" ")[2], help=what, description=sentence, usage=usage)
    made.add_argument("--workspace", required=True, type=Path, metavar="W", help="workspace folder")
    made.add_argument("--key", type=Path, metavar="FILE", help="pseudonym key (default: W/private/pseudonym.key)")
    made.add_argument("--ledger", type=Path, metavar="FILE", help="consent ledger (default: W/private/consent.jsonl)")
    form = "what an identifier is: a DICOM Patient ID, or a value of the array 'patients' (default: as W's Collections are, else dicom)"
    made.add_argument("--form", choices=("dicom", "arrays"), help=form)
    debug_argument(made)
    made.set_defaults(command=command)
    return made


def _patients(parser: Parser) -> None:
    parser.add_argument("pseudonyms", nargs="*", metavar="PATIENT", help="pseudonym: P and 16 hexadecimal digits; never a Patient ID")
    parser.add_argument("--patients", metavar="FILE", help="file of Patient IDs or pseudonyms, one on a line; - is standard input")


class _Workplace:
    """The key and the ledger that a command works with, and the patients that it names."""

    def __init__(self, arguments: argparse.Namespace, *, make_key: bool = False) -> None:
        from medpipe import ledger
        from medpipe.deid import pseudonyms

        self.workspace: Path = arguments.workspace
        key: Path = arguments.key or self.workspace / "private" / "pseudonym.key"
        collections = self.workspace / "collection"
        fresh = make_key and not (collections.is_dir() and any(collections.iterdir()))
        self.names = pseudonyms.load(key) if fresh else pseudonyms.existing(key)
        self.ledger: Path = arguments.ledger or ledger.place(self.workspace)
        self.form: Form = arguments.form or self._form()

    def _form(self) -> Form:
        """As the workspace's Collections are: a pseudonym of the other kind would be of nobody, and a withdrawal without effect."""
        from medpipe import lineage

        found = {str(facts.get("form")) for _, facts in lineage.facts(self.workspace, "collection")}
        if {"dicom", "arrays"} <= found:
            raise InputError("the workspace holds Collections of DICOM and of arrays: say with --form what the identifiers are")
        return "arrays" if "arrays" in found else "dicom"

    def patients(self, arguments: argparse.Namespace) -> list[str]:
        """Return the pseudonyms of the patients named, in their order."""
        from medpipe.deid import permissions

        named = permissions.pseudonyms(arguments.pseudonyms)
        if arguments.patients is not None:
            named += permissions.listed(_text(arguments.patients), self.names, self.form)
        return list(dict.fromkeys(named))


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("--patients names no file: give one with a Patient ID or pseudonym a line, or - for standard input") from None
    except UnicodeDecodeError:
        raise InputError("the list of patients is not UTF-8 text: save it so") from None


def _needed(patients: list[str]) -> list[str]:
    if not patients:
        raise InputError("no patient is named: give pseudonyms, or Patient IDs with --patients FILE (or --patients -)")
    return patients


def add_permission(arguments: argparse.Namespace) -> int:
    """Record one permission for the patients named."""
    from dataclasses import replace

    from medpipe.deid import permissions

    at = _Workplace(arguments, make_key=True)
    given = {name: str(getattr(arguments, name)) for name in permissions.COLUMNS[1:]}
    try:
        entries = [replace(permissions.permission(patient, given), again=arguments.again) for patient in _needed(at.patients(arguments))]
    except InputError as error:
        raise InputError(f"--{error}") from None
    return _recorded(at, entries)


def import_table(arguments: argparse.Namespace) -> int:
    """Record the permissions of a CSV table."""
    from medpipe.deid import permissions

    at = _Workplace(arguments, make_key=True)
    return _recorded(at, permissions.table(arguments.table, at.names, at.form))


def _recorded(at: _Workplace, entries: list[Entry]) -> int:
    from medpipe.deid import permissions

    book, new, kept = permissions.record(at.ledger, at.names.key_id, entries)
    _say(f"{new} permissions recorded, {len(entries) - new - kept} were in force already; the ledger holds {len(book.entries)} entries")
    if kept:
        _say(f"{kept} patients withdrew before and stay withdrawn; where one permits again, say so with 'medpipe consent add --again'")
    print(at.ledger)
    return 0


def show_standing(arguments: argparse.Namespace) -> int:
    """Say what is on record: of the patients named, one on a line, else in figures."""
    from medpipe import consent, ledger

    at = _Workplace(arguments)
    ledger.named(at.ledger)
    book = ledger.load(at.ledger)
    if book is not None:
        ledger.check_key(book, at.names.key_id)
    settings, force = recipe_from(arguments).consent, {} if book is None else book.in_force
    day, named = consent.today(), at.patients(arguments)
    for patient in named:
        why = consent.decide(force.get(patient), settings, day)
        print(f"{patient}\t{'permitted' if why is None else f'denied: {why}'}\t{_words(force.get(patient))}")
    if not named:
        states = Counter(str(consent.decide(entry, settings, day) or "permitted") for entry in force.values())
        counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        _say(f"{len(force)} patients on record; for the purpose '{settings.purpose}': {counted or 'nobody'}")
        if book is not None:
            _say(f"{len(book.entries)} entries, head {book.head}")
        print(at.ledger)
    return 0


def _words(entry: Entry | None) -> str:
    said = {} if entry is None else entry.as_json()
    return " ".join(f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in said.items() if name != "patient")


def verify(arguments: argparse.Namespace) -> int:
    """Check the ledger's chain and head, and that every record of the workspace was made under what it goes on from."""
    from medpipe import consent, ledger, lineage

    path: Path = arguments.ledger or ledger.place(arguments.workspace)
    ledger.named(path)
    book = ledger.load(path)
    consent.unbroken_since(arguments.workspace, book)
    if book is None:
        raise RecordError(f"there is no consent ledger at {path}: make one with 'medpipe consent import'")
    records = sum("head" in (facts.get("consent") or {}) for _, facts in lineage.facts(arguments.workspace, "collection", "release"))
    _say(f"{len(book.entries)} entries, whole; {records} records of the workspace were made under it\nhead {book.head}")
    print(path)
    return 0


def withdraw(arguments: argparse.Namespace) -> int:
    """Record withdrawals, and show what descends from the patients."""
    from medpipe import cli_show, ledger
    from medpipe.withdrawal import withdraw

    ledger.named(arguments.ledger)  # a mistyped name would make a ledger that nobody asks
    at = _Workplace(arguments)
    done = withdraw(at.workspace, _needed(at.patients(arguments)), key=at.names.key_id, ledger_file=at.ledger)
    cli_show.console().print(cli_show.descent(done, at.workspace))
    _say(f"{done.recorded} withdrawals recorded; what descends from these patients is not trained on and not released any more")
    if done.current_taken_away:
        _say("release/current led to one of these releases and was taken away: the next release that passes sets it again")
    if done.recall:
        _say(f"{len(done.recall)} releases that are out already descend from them: decide whom to tell, and what is recalled")
    _say(f"head of the ledger {done.ledger.head}: keep it elsewhere, it shows later that nothing was taken out")
    print(at.ledger)
    return 0


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
