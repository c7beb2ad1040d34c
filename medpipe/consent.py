"""Consent by pseudonym: whether a permission covers a use, and the checks before training and before release.

Default deny: who is not in the ledger, or under a code or condition that is not understood or not kept, is not used. At
intake `deid.consent` asks the same `decide` of the patients of a source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from medpipe import duo, ledger, lineage, records
from medpipe.errors import ConsentError, RecordError
from medpipe.ledger import Entry, Ledger
from medpipe.records import Record
from medpipe.settings import ConsentSettings

FIELDS = ("checked", "purpose", "diseases", "conditions", "ledger_head", "patients", "statement")
"""What `evidence` may say."""
LEGAL = "Whether a permission reaches the making and sharing of synthetic images is a legal question that a person answers."
NOT_CHECKED = "Consent was not checked: nobody asked whether the patients' permission covers the making of synthetic images."
MAKE_ONE = "name it with --ledger, or make one with 'medpipe consent import'"
AGAIN = "run the chain again from the source, which leaves them out"


class Why(StrEnum):
    """Why a patient's images may not be used."""

    NOT_ON_RECORD = "not on record"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused in a header"
    NOT_YET_VALID = "not valid yet"
    ENDED = "ended"
    OTHER_USE = "for another use"
    NO_GENERATOR = "no training of a generator"
    CONDITION = "under a condition that is not kept"
    UNKNOWN_CODE = "of an unknown code"


def today() -> date:
    """Return the day by which validity is judged, in UTC: one day on every worker."""
    return datetime.now(UTC).date()


def decide(entry: Entry | None, settings: ConsentSettings, day: date) -> Why | None:
    """Say why the entry in force for a patient does not permit the recipe's use on `day`; None where it does."""
    if entry is None:
        return Why.NOT_ON_RECORD
    if entry.kind == "withdraw":
        return Why.WITHDRAWN
    if entry.permission not in duo.PERMISSIONS or set(entry.modifiers) - set(duo.MODIFIERS):
        return Why.UNKNOWN_CODE
    if entry.permission not in duo.COVERED[settings.purpose]:
        return Why.OTHER_USE
    if entry.permission == "DS" and not set(settings.diseases) <= set(entry.diseases):
        return Why.OTHER_USE
    if entry.valid_from is not None and day < entry.valid_from:
        return Why.NOT_YET_VALID
    if entry.valid_to is not None and day > entry.valid_to:
        return Why.ENDED
    return next((why for code in entry.modifiers if (why := _modified(code, entry, settings, day)) is not None), None)


def _modified(code: str, entry: Entry, settings: ConsentSettings, day: date) -> Why | None:
    """Say why a modifier of a permission forbids the use; a person's list of kept conditions lifts none that a date or the use decides."""
    kept = set(settings.conditions)
    if "NPUNCU" in kept:
        kept |= {"NPU", "NCU"}
    if {"NPU", "NCU"} <= kept:
        kept |= {"NPUNCU"}
    match code:
        case "NMDS" | "GSO":
            return Why.NO_GENERATOR
        case "CC":  # it adds a use and takes none away
            return None
        case "TS":
            return Why.ENDED if entry.valid_to is None else None
        case "MOR":
            return Why.NOT_YET_VALID if entry.publish_from is None or day < entry.publish_from else None
        case "NPOA" if settings.purpose in ("health", "disease"):
            return None  # neither includes research on origins
        case "NPOA" if settings.purpose == "ancestry":
            return Why.OTHER_USE
        case _:
            return None if code in kept else Why.CONDITION


def before_training(dataset: Path, settings: ConsentSettings, ledger_file: Path | None = None) -> None:
    """Raise ConsentError where a Dataset holds a patient who withdrew, or whose permission is asked for and is not on record.

    Permission is asked for where the recipe says so, or the Dataset's Collection was made so. The ledger is that of the workspace
    where none is given.
    """
    book, source = ledger.load(ledger_file or ledger.place(dataset.parent.parent)), records.load(dataset, "Dataset")
    facts = source.facts.get("consent")
    unbroken(book, facts, dataset)
    if book is None and not _asked(settings, facts):
        return
    if said := _lacking(lineage.patients(source), facts, settings, book):
        raise ConsentError(f"{dataset} is not trained on, since it holds patients {said}")


def before_release(cohort: Record, report: Record, settings: ConsentSettings, ledger_file: Path | None = None) -> dict[str, Any]:
    """Raise ConsentError where a Cohort descends from a patient who withdrew, or whose permission is asked for and not on record.

    Returns the head of the ledger that was asked, for the Release's record. Where a ledger has something to say and the Dataset
    behind the Cohort is not to be found, nobody can tell whose images are in it, and that is refused too.
    """
    book = ledger.load(ledger_file or ledger.place(cohort.path.parent.parent))
    facts = cohort.facts.get("consent")
    unbroken(book, facts, cohort.path)
    if not _asked(settings, facts) and (book is None or not book.withdrawn):
        return head(book)
    patients, missing = lineage.patients_behind(cohort, report)
    if missing:
        raise ConsentError(
            f"{missing[0]} is not beside {cohort.path}, so nobody can say whose images are behind it: release in the workspace that made it"
        )
    if said := _lacking(patients, facts, settings, book):
        raise ConsentError(f"{cohort.path} is not released, since it descends from patients {said}")
    return head(book)


def head(book: Ledger | None) -> dict[str, Any]:
    """Return what a record keeps of the ledger that it was made under, so that a later look finds one that was cut off or replaced."""
    return {} if book is None else {"head": book.head, "entries": len(book.entries)}


def unbroken(book: Ledger | None, facts: Mapping[str, Any] | None, record: Path) -> None:
    """Raise RecordError where the ledger is not the one, gone on with, that a record was made under; facts without a head pass."""
    if facts and facts.get("head") and not (book is not None and book.holds(str(facts["head"]), int(facts["entries"]))):
        raise RecordError(
            f"{record} was made under a consent ledger with {facts['entries']} entries that the present one does not go on from, "
            f"so it was cut off or replaced, or is another: name the right one with --ledger, or {ledger.BACKUP}"
        )


def unbroken_since(workspace: Path, book: Ledger | None) -> None:
    """Raise RecordError where the ledger is not the one, gone on with, that any Collection or Release of the workspace was made under."""
    for path, facts in lineage.facts(workspace, "collection", "release"):
        unbroken(book, facts.get("consent"), path)


def _asked(settings: ConsentSettings, facts: Mapping[str, Any] | None) -> bool:
    return settings.check == "ledger" or (facts or {}).get("check") == "ledger"


def _lacking(patients: Collection[str], facts: Mapping[str, Any] | None, settings: ConsentSettings, book: Ledger | None) -> str:
    """Say how many of the patients may not be used, why, and what to do; empty where all may."""
    if not _asked(settings, facts):
        gone = 0 if book is None else len(book.withdrawn.intersection(patients))
        return f"who may not be used ({told({Why.WITHDRAWN: gone})}): {AGAIN}" if gone else ""
    if book is None:
        return f"whose permission is asked for, and there is no consent ledger: {MAKE_ONE}"
    if settings.check == "off" and facts:
        settings = ConsentSettings.model_validate(facts["settings"])
    day = today()
    why = Counter(found for patient in patients if (found := decide(book.in_force.get(patient), settings, day)) is not None)
    return f"who may not be used ({told(why)}): {AGAIN}" if why else ""


def told(why: Mapping[Why, int]) -> str:
    """Say how many patients may not be used, and why."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(why.items()) if count)


def evidence(facts: Mapping[str, Any] | None, small_cell: int) -> dict[str, Any]:
    """Return how consent was checked, as it may leave: counts of patients are null where one is below `small_cell`."""
    if not facts or facts.get("check") != "ledger":
        kept_out = " Images of patients who withdrew were left out." if facts and facts.get("denied", {}).get(Why.WITHDRAWN) else ""
        return {"checked": False, "statement": NOT_CHECKED + kept_out}
    settings = facts["settings"]
    counts = {"permitted": int(facts["permitted"]), "denied": sum(facts["denied"].values())}
    hidden = any(0 < count < small_cell for count in counts.values())  # one alone would tell, by the figures of another release
    use = "any research" if settings["purpose"] == "general" else f"{settings['purpose']} research"
    of = f" on {', '.join(settings['diseases'])}" if settings["diseases"] else ""
    kept = f", under the conditions {', '.join(settings['conditions'])}" if settings["conditions"] else ""
    return {
        "checked": True,
        "purpose": settings["purpose"],
        "diseases": list(settings["diseases"]),
        "conditions": list(settings["conditions"]),
        "ledger_head": str(facts["head"]),
        "patients": {name: None if hidden else count for name, count in counts.items()},
        "statement": f"Only images of patients whose permission for {use}{of}{kept} is in the consent ledger were used; others were set "
        f"aside at intake, and the ledger was asked again before training and before release. {LEGAL}",
    }
