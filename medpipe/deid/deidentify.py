"""`deidentify`: from a hospital's images to a Collection, the only way in.

The source is fingerprinted by content; headers are searched and grouped by patient; each patient is one unit of work,
on any number of processes; the index is written last. Whatever happens to a file is counted under a reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import medpipe
from medpipe.deid import arrays, audit, patient, profile, pseudonyms, table
from medpipe.errors import InputError
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Making, Record, finished, making
from medpipe.sources import folder
from medpipe.sources.arrays import check as check_arrays
from medpipe.sources.folder import Entry, Reason

BATCH = 32
"""Headers read in one go."""
_TEXT, _WHOLE = pa.string(), pa.int64()
_ORDER = ("patient", "study", "series", "instance")
SCHEMA: list[tuple[str, Any]] = [
    ("instance", _TEXT), ("series", _TEXT), ("study", _TEXT), ("patient", _TEXT), ("path", _TEXT), ("modality", _TEXT),
    ("sop_class", _TEXT), ("rows", _WHOLE), ("columns", _WHOLE), ("frames", _WHOLE), ("references", pa.list_(_TEXT)),
    ("day", _WHOLE), ("label", _TEXT),
]  # fmt: skip


def made_from(source: Path, recipe: Recipe, *, key_file: Path) -> MadeFrom:
    """Say what the Collection of `source` is made from: the content of every file, the settings, and the key.

    An unchanged folder is not read again: digests are remembered beside the key. Makes the key where there is none.
    """
    return _made_from(_look(source, recipe, key_file), recipe)


@dataclass(frozen=True)
class _Source:
    """A source that was looked at."""

    entries: list[Entry]
    digests: list[str]
    fingerprint: str
    names: pseudonyms.Pseudonyms


def _look(source: Path, recipe: Recipe, key_file: Path) -> _Source:
    if recipe.source.form == "arrays":
        check_arrays(source)
    elif source.is_file():
        raise InputError("the source is a file, and source.form 'dicom' needs a folder: give a folder, or set source.form to 'arrays'")
    root, entries = (source.parent, [folder.single(source)]) if source.is_file() else (source, folder.listing(source))
    names = pseudonyms.load(key_file)
    cache, place = key_file.with_name(f"{key_file.name}.digests"), str(root.resolve())
    digests = folder.digests(root, entries, cache, lambda name: names.alias("file", f"{place}\x1f{name}"))
    # A file of arrays is what it holds, whatever it is called; in a folder, names can be what a table refers to.
    return _Source(entries, digests, digests[0] if source.is_file() else folder.fingerprint(entries, digests), names)


def _made_from(seen: _Source, recipe: Recipe) -> MadeFrom:
    return MadeFrom(
        noun="Collection",
        inputs={"source": seen.fingerprint, "key": seen.names.key_id},
        settings=recipe.settings("source", "deid"),
        seed=0,
        code=medpipe.__version__,
    )


def deidentify(
    source: Path, out: Path, recipe: Recipe, *, key_file: Path, executor: Executor | None = None, progress: Progress = silent
) -> Record:
    """De-identify `source` into the Collection `out`; an interrupted run goes on, a finished one is returned.

    Raises InputError where the source holds no image, or more than `deid.quarantine_max` of its images were quarantined.
    """
    seen = _look(source, recipe, key_file)
    wanted = _made_from(seen, recipe)
    if record := finished(out, wanted):
        return record
    if recipe.source.form == "arrays":
        with making(out, wanted) as made:
            return made.seal(arrays.write(source, made.path, recipe, seen.names, progress))
    return _dicom(source, out, recipe, key_file, seen, wanted, executor, progress)


def _dicom(
    source: Path, out: Path, recipe: Recipe, key_file: Path, seen: _Source, wanted: MadeFrom, executor: Executor | None, progress: Progress
) -> Record:
    labels = table.read(source, recipe.source, seen.names)
    deid = recipe.deid
    covariates = table.covariates(
        recipe.source, labels, characteristics=deid.retain_patient_characteristics, sites=deid.sites == "pseudonym"
    )
    reasons, patients, keys = _sorted_out(source, recipe, key_file, seen, executor, progress)
    if not patients:
        raise InputError(f"the source folder holds no DICOM image ({_told(Counter(reasons.values()))}): give a folder of DICOM files")
    with making(out, wanted) as made:
        units = [
            patient.Unit(name, tuple(files), made.path, made.state, key_file, deid, tuple(covariates))
            for name, files in sorted(patients.items())
        ]
        entries, images = [], sum(len(files) for files in patients.values())
        for _, journal in each(executor, patient.deidentify, units):
            entries += journal
            progress("de-identify images", len(entries), images)
        entries.sort(key=lambda entry: int(entry["ordinal"]))
        reasons |= {entry["ordinal"]: Reason(entry["reason"]) for entry in entries if entry["reason"]}
        _bounded(reasons, len(seen.entries), deid.quarantine_max)
        return made.seal(_written(made, recipe, entries, reasons, keys, seen, labels))


def _sorted_out(
    source: Path, recipe: Recipe, key_file: Path, seen: _Source, executor: Executor | None, progress: Progress
) -> tuple[dict[int, Reason], dict[str, list[tuple[int, Path, str]]], dict[int, str]]:
    """Read all headers; return the files that are set aside, the files by patient, and each file's match in the table."""
    reasons: dict[int, Reason] = {}
    first: dict[str, int] = {}
    for entry, digest in zip(seen.entries, seen.digests, strict=True):
        if entry.name == recipe.source.table:
            reasons[entry.ordinal] = Reason.TABLE
        elif digest == "unreadable":
            reasons[entry.ordinal] = Reason.UNREADABLE if entry.regular else Reason.NOT_DICOM
        elif first.setdefault(digest, entry.ordinal) != entry.ordinal:
            reasons[entry.ordinal] = Reason.DUPLICATE
    files = [(entry.ordinal, source / entry.name) for entry in seen.entries if entry.ordinal not in reasons]
    batches = [patient.Search(tuple(files[at : at + BATCH]), key_file, recipe.source.table_key) for at in range(0, len(files), BATCH)]
    found: list[patient.Found] = []
    for _, some in each(executor, patient.search, batches):
        found += some
        progress("read headers", len(found), len(files))
    # A copy of a file that is no DICOM is no duplicate image but one more such file.
    own = {item.ordinal: item.reason for item in found}
    for ordinal, reason in reasons.items():
        if reason is Reason.DUPLICATE and (original := own.get(first[seen.digests[ordinal]])) is not None:
            reasons[ordinal] = original
    times = Counter(item.instance for item in found if item.reason is None)
    paths = dict(files)
    patients: dict[str, list[tuple[int, Path, str]]] = defaultdict(list)
    for item in sorted(found, key=lambda item: item.ordinal):
        if item.reason is not None:
            reasons[item.ordinal] = item.reason
        elif times[item.instance] > 1:
            reasons[item.ordinal] = Reason.CONFLICTING_DUPLICATE
        else:
            patients[item.patient].append((item.ordinal, paths[item.ordinal], item.instance))
    return reasons, dict(patients), {item.ordinal: item.table_row for item in found}


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
    keys: dict[int, str],
    seen: _Source,
    labels: table.Table,
) -> dict[str, Any]:
    """Write the index and the audit; return the facts of the Collection."""
    kept = sorted((entry for entry in entries if entry["row"]), key=lambda entry: [entry["row"][name] or "" for name in _ORDER])
    rows = [entry["row"] for entry in kept]
    words = {word for entry in entries for word in entry["words"]}
    counts = table.fill(rows, [keys[entry["ordinal"]] for entry in kept], labels, recipe.source, seen.names, words)
    schema = pa.schema(
        SCHEMA + [(name, pa.float64()) for name in recipe.source.continuous] + [(name, _TEXT) for name in recipe.source.categorical]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), made.path / "index.parquet")
    actions: Counter[str] = Counter()
    for entry in entries:
        actions.update(entry["counts"])
    heads = [entry["head"] for entry in entries if entry.get("head")]
    audit.write(made.path / "audit.json", recipe, len(seen.entries), reasons, actions, counts, heads)
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
    }
