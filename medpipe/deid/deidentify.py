"""`deidentify`: from a hospital's images to a Collection, the only way in.

The source is fingerprinted by content; headers are searched and grouped by patient; each patient is one unit of work,
on any number of processes; the index is written last. Whatever happens to a file is counted under a reason.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import medpipe
from medpipe import ledger
from medpipe.deid import arrays, audit, consent, intake, patient, profile, pseudonyms, table
from medpipe.deid.earlier import open_earlier
from medpipe.deid.earlier import write as write_journal
from medpipe.deid.intake import Sorted, Source
from medpipe.errors import InputError
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making, Record, finished, making
from medpipe.sources import folder
from medpipe.sources.arrays import check as check_arrays
from medpipe.sources.folder import Reason

_TEXT, _WHOLE = pa.string(), pa.int64()
_ORDER = ("patient", "study", "series", "instance")
SCHEMA: list[tuple[str, Any]] = [
    ("instance", _TEXT), ("series", _TEXT), ("study", _TEXT), ("patient", _TEXT), ("path", _TEXT), ("modality", _TEXT),
    ("sop_class", _TEXT), ("rows", _WHOLE), ("columns", _WHOLE), ("frames", _WHOLE), ("references", pa.list_(_TEXT)),
    ("day", _WHOLE), ("label", _TEXT),
]  # fmt: skip


def made_from(
    source: Path, recipe: Recipe, *, key_file: Path, ledger_file: Path | None = None, executor: Executor | None = None
) -> MadeFrom:
    """Say what the Collection of `source` is made from: the content of every file, the settings, the key, and whom consent leaves out.

    An unchanged folder is not read again: digests, and whose each file is, are remembered beside the key. Makes the key where
    there is none.
    """
    return _made_from(_look(source, recipe, key_file, ledger_file, executor), recipe)


def _look(source: Path, recipe: Recipe, key_file: Path, ledger_file: Path | None, executor: Executor | None) -> Source:
    if recipe.source.form == "arrays":
        check_arrays(source)
    elif source.is_file():
        raise InputError("the source is a file, and source.form 'dicom' needs a folder: give a folder, or set source.form to 'arrays'")
    root, entries = (source.parent, [folder.single(source)]) if source.is_file() else (source, folder.listing(source))
    names = pseudonyms.load(key_file)
    cache, place = key_file.with_name(f"{key_file.name}.digests"), str(root.resolve())
    digests = folder.digests(root, entries, cache, lambda name: names.alias("file", f"{place}\x1f{name}"))
    # A file of arrays is what it holds, whatever it is called; in a folder, names can be what a table refers to.
    fingerprint = digests[0] if source.is_file() else folder.fingerprint(entries, digests)
    book = consent.asked(recipe.consent, names, ledger_file or key_file.with_name(ledger.NAME))
    seen = Source(source, entries, digests, fingerprint, key_file, names, consent.standing(recipe.consent, book, {}))
    if recipe.consent.check == "off" and (book is None or not book.withdrawn):
        return seen
    if recipe.source.form == "arrays":
        whose = arrays.people(source, names)
    else:
        whose = consent.people(intake.contents(seen, recipe.source), key_file, executor)
    return replace(seen, standing=consent.standing(recipe.consent, book, whose))


def _made_from(seen: Source, recipe: Recipe) -> MadeFrom:
    return MadeFrom(
        noun="Collection",
        inputs={"source": seen.fingerprint, "key": seen.names.key_id, **seen.standing.fingerprint},
        settings=recipe.settings("source", "deid", "consent"),
        seed=0,
        code=medpipe.__version__,
    )


def deidentify(
    source: Path,
    out: Path,
    recipe: Recipe,
    *,
    key_file: Path,
    ledger_file: Path | None = None,
    earlier: Path | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Record:
    """De-identify `source` into the Collection `out`; an interrupted run goes on, a finished one is returned.

    `ledger_file` is the consent ledger, that beside the key where none is given. `earlier` is a Collection of the same
    source, recipe and key: what has not changed since is taken from it, and the result is the same as without it. Raises
    InputError where the source holds no image, or more than `deid.quarantine_max` of its images were quarantined,
    ConsentError where the images of no patient, or of too few, may be used.
    """
    seen = _look(source, recipe, key_file, ledger_file, executor)
    wanted = _made_from(seen, recipe)
    if record := finished(out, wanted):
        return record
    if recipe.source.form == "arrays":
        with making(out, wanted) as made:
            return made.seal(arrays.write(source, made.path, recipe, seen.names, seen.standing, progress))
    before = None if earlier is None else open_earlier(earlier, wanted)
    return _dicom(out, recipe, wanted, replace(seen, earlier=before), executor, progress)


def _dicom(out: Path, recipe: Recipe, wanted: MadeFrom, source: Source, executor: Executor | None, progress: Progress) -> Record:
    labels = table.read(source.path, recipe.source, source.names)
    deid = recipe.deid
    covariates = table.covariates(
        recipe.source, labels, characteristics=deid.retain_patient_characteristics, sites=deid.sites == "pseudonym"
    )
    sorted_out = intake.sort(source, recipe.source, executor, progress)
    if not sorted_out.patients:
        told = _told(Counter(sorted_out.reasons.values()))
        raise InputError(f"the source folder holds no DICOM image ({told}): give a folder of DICOM files")
    with making(out, wanted) as made:
        units = [
            patient.Unit(name, files, made.path, made.state, source.key_file, deid, tuple(covariates), intake.taken(source, name, files))
            for name, files in sorted(sorted_out.patients.items())
        ]
        entries: list[dict[str, Any]] = []
        seen: dict[str, list[str]] = {}
        images = sum(len(unit.files) for unit in units)
        for unit, journal in each(executor, patient.deidentify, units):
            entries += journal.entries.values()
            seen[unit.patient] = journal.seen
            progress("de-identify images", len(entries), images)
        entries.sort(key=lambda entry: int(entry["ordinal"]))
        reasons = sorted_out.reasons | {entry["ordinal"]: Reason(entry["reason"]) for entry in entries if entry["reason"]}
        _bounded(reasons, len(source.entries), deid.quarantine_max)
        write_journal(made.path, intake.files(source, sorted_out, entries), seen)
        return made.seal(_written(made, recipe, entries, reasons, sorted_out, source, labels, seen))


def _bounded(reasons: dict[int, Reason], files: int, share_max: float) -> None:
    """Refuse a source that lost too many of its images, or all of them."""
    counts = Counter(reasons.values())
    lost = Counter({reason: count for reason, count in counts.items() if reason not in folder.SET_ASIDE})
    images = files - sum(counts.values()) + lost.total()
    if lost.total() == images:
        raise InputError(f"no image of the source can be used ({_told(counts)}): docs/deidentification.md says what the codes mean")
    if lost.total() > share_max * images:
        raise InputError(
            f"{lost.total()} of {images} images were quarantined ({_told(lost)}), more than deid.quarantine_max ({share_max:g}) allows: "
            "correct the source, or raise the bound"
        )


def _told(counts: Counter[Reason]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "no file"


def _written(
    made: Making,
    recipe: Recipe,
    entries: list[dict[str, Any]],
    reasons: dict[int, Reason],
    sorted_out: Sorted,
    source: Source,
    labels: table.Table,
    seen: dict[str, list[str]],
) -> dict[str, Any]:
    """Write the index and the audit; return the facts of the Collection."""
    kept = sorted((entry for entry in entries if entry["row"]), key=lambda entry: [entry["row"][name] or "" for name in _ORDER])
    rows = [entry["row"] for entry in kept]
    words = {digest for digests in seen.values() for digest in digests}
    keys = [sorted_out.found[entry["ordinal"]].table_row for entry in kept]
    counts = table.fill(rows, keys, labels, recipe.source, source.names, words)
    schema = pa.schema(
        SCHEMA + [(name, pa.float64()) for name in recipe.source.continuous] + [(name, _TEXT) for name in recipe.source.categorical]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), made.path / "index.parquet")
    actions: Counter[str] = Counter()
    for entry in entries:
        actions.update(entry["counts"])
    heads = [entry["head"] for entry in entries if entry.get("head")]
    audit.write(made.path / "audit.json", recipe, len(source.entries), reasons, actions, counts, heads)
    of = Counter(reasons.values())
    return {
        "form": "dicom",
        "instances": len(rows),
        "patients": len({row["patient"] for row in rows}),
        "quarantined": {str(reason): of[reason] for reason in Reason if of[reason] and reason not in folder.SET_ASIDE},
        "set_aside": {str(reason): of[reason] for reason in Reason if of[reason] and reason in folder.SET_ASIDE},
        "licence": recipe.source.licence,
        "classes": list(recipe.source.classes) or sorted({row["label"] for row in rows if row["label"] is not None}),
        "continuous": list(recipe.source.continuous),
        "categorical": list(recipe.source.categorical),
        "masks": any(row["modality"] == "SEG" for row in rows),
        "labelled": sum(row["label"] is not None for row in rows),
        "frames_blacked_out": actions["frames blacked out"],
        "profile": profile.edition(),
        "consent": source.standing.facts(sorted_out.judged),
    }
