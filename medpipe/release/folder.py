"""A shareable folder judged alone, as whoever received it can: checksums, signature, and whether its documents agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet

from medpipe import store
from medpipe.errors import RecordError
from medpipe.records import Record
from medpipe.release import sign

REQUIRED = (
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "croissant.json",
    "subjects.parquet",
    "images.zarr/zarr.json",
    "evidence.json",
    "report.html",
    "provenance.json",
)


def check(folder: Path, public_key: Path | None = None) -> tuple[list[str], list[str]]:
    """Return (problems, notes) on the shareable folder `folder`.

    The signature must be by `public_key`; without one, by the key beside the folder or the one that the folder names,
    which shows that it is whole but not who signed it, and a note says so. Raises InputError for an unusable key.
    """
    problems = sign.altered(folder)
    named = {name.split(" ", 1)[0] for name in problems}
    try:
        problems += [
            f"{name} does not belong to the release: it is not in {sign.SUMS}" for name in REQUIRED if name not in sign.listed(folder)
        ]
    except (OSError, ValueError):
        named.add(sign.SUMS)
    provenance, unread = _read(folder, "provenance.json")
    problems += [] if "provenance.json" in named else unread
    found, notes = _signature(folder, public_key, provenance)
    return problems + found + ([] if problems else _agreement(folder, provenance)), notes


def disagreements(folder: Path, record: Record) -> list[str]:
    """List where the shareable folder says something else than the Release record that holds it."""
    provenance, problems = _read(folder, "provenance.json")
    if problems:
        return []  # `check` has said so
    inputs = record.made_from["inputs"]
    problems = [
        f"provenance.json names another {role} than the record was made from"
        for role in ("cohort", "report")
        if provenance.get("fingerprints", {}).get(role) != inputs.get(role)
    ]
    key = record.made_from["settings"].get("signing", {}).get("public_key")
    if provenance.get("signing", {}).get("public_key") != key:
        problems.append("provenance.json names another signing key than the record was made with")
    if folder.name != record.facts.get("folder"):
        problems.append(f"the record holds {record.facts.get('folder')}, not {folder.name}")
    return problems


def _signature(folder: Path, given: Path | None, provenance: dict[str, Any]) -> tuple[list[str], list[str]]:
    if not (folder / sign.SIGNATURE).is_file():
        return [f"{sign.SIGNATURE} is missing: the release was never finished, or was stripped"], []
    named = sign.from_raw(str(provenance.get("signing", {}).get("public_key", "")))
    beside = folder.parent / sign.PUBLIC_KEY
    if given is not None:
        key = sign.public_key(given)
        if sign.signed_by(folder, key):
            return [], [f"signed by the key that was given ({sign.fingerprint(key)[:16]}…)"]
        other = named is not None and sign.signed_by(folder, named)
        return [
            f"{sign.SIGNATURE} is not a signature by the key that was given" + (": another key signed this folder" if other else "")
        ], []
    if named is None:
        return ["provenance.json names no signing key"], []
    if not sign.signed_by(folder, named):
        return [f"{sign.SIGNATURE} is not a signature of {sign.SUMS} by the key that provenance.json names"], []
    if beside.is_file() and beside.read_bytes() != sign.public_pem(named):
        return [f"{sign.PUBLIC_KEY} beside the folder is not the key that signed it"], []
    return [], [
        f"signed by the key that the folder itself names ({sign.fingerprint(named)[:16]}…): "
        "to know who signed, give --public-key with the institution's key, obtained from it"
    ]


def _agreement(folder: Path, provenance: dict[str, Any]) -> list[str]:
    """An intact folder can still have been put together wrongly: compare what its documents say of the same thing."""
    croissant, problems = _read(folder, "croissant.json")
    evidence, unread = _read(folder, "evidence.json")
    problems += unread
    sums = sign.listed(folder)
    problems += [
        f"croissant.json gives another digest of {entry.get('@id')} than {sign.SUMS}"
        for entry in croissant.get("distribution", [])
        if "sha256" in entry and sums.get(str(entry.get("@id"))) != entry["sha256"]
    ]
    try:
        rows, images = pyarrow.parquet.read_metadata(folder / "subjects.parquet").num_rows, store.open_array(folder).shape[0]
    except (OSError, ValueError, RecordError) as error:
        return [*problems, f"the arrays or subjects.parquet cannot be read ({type(error).__name__})"]
    if not rows == images == evidence.get("images_released"):
        problems.append(f"subjects.parquet has {rows} rows, the arrays {images} images, evidence.json {evidence.get('images_released')}")
    if evidence.get("passed") is not True or not all(verdict.get("passed") is True for verdict in evidence.get("verdicts", [])):
        problems.append("evidence.json does not say that every gate passed")
    if f"{provenance.get('name')}-{provenance.get('version')}" != f"{croissant.get('name')}-{croissant.get('version')}":
        problems.append("provenance.json and croissant.json name different releases")
    return problems


def _read(folder: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    try:
        text = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        return {}, [f"{name} cannot be read ({type(error).__name__})"]
    return (text, []) if isinstance(text, dict) else ({}, [f"{name} is not what a release holds"])
