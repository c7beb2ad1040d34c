"""release: a Cohort that its Report lets pass becomes a folder that may be shared.

The shareable folder `<name>-<version>/` is built in the record's scratch and moved into place when it is whole; images
that the Report withheld are not in it, spare ones of the Cohort take their places. Nothing in it depends on the day, the machine or
the run: equal inputs and key, equal bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import zarr
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from medpipe import __version__, consent, records, store
from medpipe.errors import GateFailed, RecordError
from medpipe.gates import disclosure
from medpipe.gates.verdict import Verdict
from medpipe.progress import Progress, silent
from medpipe.recipe import Recipe
from medpipe.records import MadeFrom, Record
from medpipe.release import card, outbound, report_page, sign
from medpipe.release.croissant import croissant
from medpipe.release.refill import Selection, asked, select

SCHEMA = 1
GROUP = (
    "group", "synthetic", "share", "share_interval", "expected_share", "share_gap", "copies", "copies_interval",
    "frechet_over_bound", "frechet_over_bound_interval", "frechet_over_bound_real",
    "auc_real", "auc_real_interval", "auc_synthetic", "auc_synthetic_interval", "utility_gap", "utility_gap_interval",
)  # fmt: skip
"""What is said of a group of patients: shares and likeness, no count of real ones."""
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """A Report that lets its Cohort pass, and what follows from it."""

    record: Record
    text: Mapping[str, Any]
    selection: Selection
    """Which rows of the Cohort are released, in order."""
    small_cell: int
    hidden: Sequence[str]
    """For each row of the Cohort the covariates that its table does not tell, joined by commas; empty where there is none to hide."""

    @property
    def unreleased(self) -> frozenset[int]:
        """Rows of the Cohort that nobody outside sees: withheld, or spare and not needed."""
        return frozenset(range(self.selection.made)) - frozenset(self.selection.rows.tolist())


def made_from(cohort: Path, report: Path, recipe: Recipe, *, key_file: Path) -> MadeFrom:
    """Say what the Release would be made from; the signing key is made where there is none, since its public half is part."""
    inputs = {"cohort": records.load(cohort, "Cohort").content, "report": records.load(report, "Report").content}
    signing = {"signing": {"public_key": sign.raw(sign.signing_key(key_file).public_key())}}
    return MadeFrom("Release", inputs, {**recipe.settings("release"), **signing}, 0, __version__)


def release(
    cohort: Path, report: Path, out: Path, recipe: Recipe, *, key_file: Path, ledger_file: Path | None = None, progress: Progress = silent
) -> Record:
    """Write the shareable folder of `cohort` to `out`, signed with the key in `key_file`.

    Raises GateFailed, and writes nothing, when `report` did not pass; RecordError when it is about another Cohort or
    either was altered; PrivacyError when what would be written holds what may not leave; ConsentError where the consent
    ledger (the workspace's, where none is given) says that a patient behind the Cohort may not be used.
    """
    made = records.load(cohort, "Cohort"), records.load(report, "Report")
    consent.before_release(*made, recipe.consent, ledger_file)
    wanted = made_from(cohort, report, recipe, key_file=key_file)
    if (done := records.finished(out, wanted)) is not None:
        return done
    images = records.load(cohort, "Cohort", verify=True)
    judged = judge(images, records.load(report, "Report", verify=True))
    outbound.check_counts(judged.text, judged.small_cell)
    key = sign.signing_key(key_file)
    with records.making(out, wanted) as making:
        about = card.about(
            images,
            judged.text,
            recipe.release,
            selection=judged.selection,
            key_fingerprint=sign.fingerprint(key.public_key()),
            fingerprints=_fingerprints(images, judged.record),
        )
        folder = making.state / about.folder
        for stale in (folder, making.path / about.folder):  # an earlier run was cut off here: equal bytes come again
            shutil.rmtree(stale, ignore_errors=True)
        folder.mkdir()
        _arrays(images.path, folder, judged.selection.rows, about, progress)
        _subjects(images.path, folder, judged)
        _documents(folder, images, judged, about, key)
        outbound.check_texts(folder, (cohort, report, out, key_file))
        sign.seal(folder, key)
        head = consent.before_release(*made, recipe.consent, ledger_file)  # again: writing took its time
        records.write_bytes(making.state / sign.PUBLIC_KEY, sign.public_pem(key.public_key()))
        for name in (sign.PUBLIC_KEY, about.folder):
            (making.state / name).replace(making.path / name)
        return making.seal(_facts(about) | {"consent": head})


def judge(cohort: Record, report: Record) -> Judged:
    """Read the Report's verdicts on `cohort` and the rows that it lets pass; fails closed.

    Raises RecordError when the Report is about something else or does not cover the Cohort, GateFailed when it says no.
    """
    if report.made_from["inputs"].get("cohort") != cohort.content:
        raise RecordError(f"{report.path} is a Report on another Cohort than {cohort.path}: validate this one")
    try:
        text = json.loads((report.path / "report.json").read_text())
        verdicts = list(text["verdicts"])
        passed = report.facts["passed"] is True and text["passed"] is True and all(verdict["passed"] is True for verdict in verdicts)
        scores = pd.read_parquet(report.path / "images.parquet").sort_values("row", ignore_index=True)
        scores = scores[["row", "withheld", *(["hidden"] if "hidden" in scores else [])]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{report.path} does not hold what a Report holds ({type(error).__name__}): validate again") from None
    if not passed or not verdicts:
        raise GateFailed(_refusal(verdicts, report.path), report.path)
    if not np.array_equal(scores["row"].to_numpy(), np.arange(int(cohort.facts["images"]))) or bool(scores["withheld"].isna().any()):
        raise RecordError(f"{report.path} does not judge each image of {cohort.path} once: validate again")
    leave = scores["withheld"].astype(bool).to_numpy()
    if leave.all():
        raise GateFailed("the gates withheld every image, so nothing is released", report.path)
    small_cell = int(report.made_from.get("settings", {}).get("gates", {}).get("small_cell", report_page.SMALL_CELL))
    selection = select(_index(cohort.path), leave, asked(cohort.facts), cohort.facts.get("covariates") or [])
    hidden = scores["hidden"].fillna("").tolist() if "hidden" in scores else []
    return Judged(report, {**text, "small_cell": small_cell}, selection, small_cell, hidden)


def _index(cohort: Path) -> pd.DataFrame:
    """Read the Cohort's table in the order of its images."""
    index = pd.read_parquet(cohort / "index.parquet").sort_values("row", ignore_index=True)
    if not np.array_equal(index["row"].to_numpy(), np.arange(len(index))):
        raise RecordError(f"{cohort / 'index.parquet'} does not number the images of the cohort: generate it again")
    return index


def _refusal(verdicts: list[Mapping[str, Any]], report: Path) -> str:
    failed = [verdict for verdict in verdicts if verdict.get("passed") is not True]
    if not failed:
        return f"the Report says that the cohort did not pass, so nothing is released: see {report / 'report.html'}"
    named = "; ".join(f"{verdict['name']} {card.shortfall(verdict)}" for verdict in failed)
    return f"{len(failed)} of {len(verdicts)} gates failed, so nothing is released: {named} (see {report / 'report.html'})"


def _fingerprints(cohort: Record, report: Record) -> dict[str, str]:
    """The chain as far as these two records know it."""
    return {**cohort.made_from["inputs"], **report.made_from["inputs"], "cohort": cohort.content, "report": report.content}


def _arrays(cohort: Path, folder: Path, kept: Rows, about: card.About, progress: Progress) -> None:
    """Write the kept images densely, shard by shard: memory stays that of two shards."""
    names = ["image", *(["mask"] if store.has(cohort, "mask") else [])]
    sources = {name: store.open_array(cohort, name) for name in names}
    source = sources["image"]
    shard = min(int((source.shards or source.chunks)[0]), len(kept))
    store.create(
        folder,
        len(kept),
        tuple(source.shape[1:]),
        str(source.dtype),
        shard=shard,
        masks="mask" in sources,
        attributes=_attributes(about, store.attributes(cohort)),
    )
    for rows in store.shards(folder):
        blocks = {name: _gathered(array, kept[rows.start : rows.stop]) for name, array in sources.items()}
        store.write_shard(folder, rows, blocks["image"], blocks.get("mask"))
        progress("release", rows.stop, len(kept))
    store.consolidate(folder)


def _gathered(array: zarr.Array[Any], wanted: Rows) -> store.Images:
    """Read the ascending rows `wanted`, from one shard of the source after the other."""
    size = int((array.shards or array.chunks)[0])
    parts = []
    for here in np.split(wanted, np.flatnonzero(np.diff(wanted // size)) + 1):
        first, last = int(here[0]), int(here[-1]) + 1
        parts.append(np.asarray(array[first:last])[here - first])
    return np.concatenate(parts)


def _attributes(about: card.About, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of the arrays alone must know."""
    top = np.iinfo(about.dtype).max
    return {
        "schema": SCHEMA,
        "synthetic": True,
        "notice": "Synthetic, not for diagnosis",
        "name": about.settings.name,
        "version": about.settings.version,
        "licence": about.settings.licence,
        "spacing_mm": list(about.spacing_mm) if about.spacing_mm else None,
        "patient_orientation": given.get("patient_orientation"),
        "unit": given.get("unit") or f"relative intensity, 0 (lowest) to {top} (highest)",
        "modality": about.modality,
    }


def _subjects(cohort: Path, folder: Path, judged: Judged) -> None:
    """Write one row per released subject; `row` is its place in the released arrays, `id` stays the Cohort's.

    A covariate that the Report hides is null in that row.
    """
    kept = judged.selection.rows
    table = disclosure.without(_index(cohort), judged.hidden).iloc[kept].reset_index(drop=True)
    conditions = [name for name in table.columns if name not in ("row", "id", "split")]
    split = table.get("split", "train")
    table = pd.DataFrame(
        {"id": table["id"], "row": np.arange(len(kept), dtype=np.int64)} | {name: table[name] for name in conditions}
    ).assign(split=split)
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pyarrow.parquet.write_table(arrow, folder / "subjects.parquet")


def _documents(folder: Path, cohort: Record, judged: Judged, about: card.About, key: Ed25519PrivateKey) -> None:
    """Write everything that says what the images are; the croissant last, since it holds digests of the others."""
    records.write_json(folder / "evidence.json", _evidence(judged, about))
    records.write_json(folder / "provenance.json", _provenance(cohort, judged.record, about, sign.raw(key.public_key())))
    page = report_page.render(
        judged.text, cohort.path, withheld=judged.unreleased, selection=judged.selection, fingerprints=about.fingerprints, about=about
    )
    for name, text in (
        ("report.html", page),
        ("README.md", card.readme(about, store.has(folder, "mask"))),
        ("LICENSE", card.licence(about)),
        ("CITATION.cff", card.citation(about)),
    ):
        records.write_bytes(folder / name, text.encode())
    records.write_json(folder / "croissant.json", croissant(folder, about))


def _evidence(judged: Judged, about: card.About) -> dict[str, Any]:
    """The Report as it may leave: named fields only, so that what a gate notes for itself stays behind."""
    known = [entry.name for entry in fields(Verdict)]
    text = judged.text
    distributions = {name: _only(entry, "kind", "edges", "real", "synthetic") for name, entry in text.get("distributions", {}).items()}
    composition = [_only(row, "label", "real", "synthetic") for row in text.get("composition", [])]
    detector = [_only(row, "what", "recall", "low", "high", "n", "required") for row in text.get("copy_detector", [])]
    return {
        "schema": SCHEMA,
        "synthetic": True,
        "passed": True,
        "verdicts": [_only(verdict, *known) for verdict in text["verdicts"]],
        "not_assessed": [_only(item, "what", "why") for item in about.not_assessed],
        "distributions": distributions,
        "composition": composition,
        "copy_detector": detector,
        "gates_self_test": [_only(row, "what", "rejected_by", "required") for row in text.get("gates_self_test", [])],
        "fairness": [_only(row, *GROUP) for row in text.get("fairness", [])],
        "tables": [_only(table, "title", "sentence", "columns", "rows") for table in text.get("tables", [])],
        "consent": _only(about.consent, *consent.FIELDS),
        "privacy": _privacy(text, about),
        "small_cell": judged.small_cell,
        "images_asked": about.selection.asked,
        "images_judged": about.selection.made,
        "images_withheld": about.selection.withheld,
        "images_replaced": about.selection.replaced,
        "images_released": about.images,
    }


def _privacy(text: Mapping[str, Any], about: card.About) -> dict[str, Any]:
    """What a data-protection officer needs: attacks and gaps by named fields, and who decided."""
    given = text.get("privacy", {})
    return {
        "summary": str(given.get("summary", "")),
        "attacks": [_only(row, "what", "meaning", "strength", "found", "state") for row in given.get("attacks", [])],
        "not_assessed": [_only(row, "what", "why") for row in given.get("not_assessed", [])],
        "decision": about.decision,
    }


def _only(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: entry[name] for name in names if name in entry}


def _provenance(cohort: Record, report: Record, about: card.About, public_key: str) -> dict[str, Any]:
    """Where the release comes from, as digests and settings: no path, no identifier, no count of the real data."""
    settings = {**cohort.made_from["settings"], **report.made_from["settings"]}
    return {
        "schema": SCHEMA,
        "synthetic": True,
        "name": about.settings.name,
        "version": about.settings.version,
        "software": {"name": "medpipe", "cohort": cohort.made_from["code"], "report": report.made_from["code"], "release": __version__},
        "fingerprints": dict(about.fingerprints),
        "seeds": {"cohort": cohort.made_from["seed"], "report": report.made_from["seed"]},
        "settings": {name: settings[name] for name in ("cohort", "gates") if name in settings},
        "signing": {"algorithm": "Ed25519", "public_key": public_key, "fingerprint": about.key_fingerprint},
    }


def _facts(about: card.About) -> dict[str, Any]:
    return {
        "folder": about.folder,
        "name": about.settings.name,
        "version": about.settings.version,
        "licence": about.settings.licence,
        "images": about.images,
        **{name: count for name, count in about.selection.as_json().items() if name != "released"},
        "shape": list(about.shape),
        "dtype": about.dtype,
        "classes": list(about.classes),
        "gates": len(about.verdicts),
        "public_key": about.key_fingerprint,
    }
