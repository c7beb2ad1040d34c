"""One instance from source to Collection: read, look at the pixels, clean the header, write, read back, search.

Nothing is written under its final name before a search through its bytes for the patient's identifiers came out empty.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.charset import default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

import medpipe
from medpipe.deid import faces, objects, overlays, pixels, profile
from medpipe.deid.actions import PIXELS, Cleaner
from medpipe.deid.needles import Needles
from medpipe.deid.reading import PREAMBLE, parsed
from medpipe.deid.times import capped_age
from medpipe.deid.values import text_of
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

IMPLEMENTATION = UID("2.25.236107716427416138208229036083714914261")
"""Implementation Class UID of medpipe (PS3.7 D.3.3.2)."""


@dataclass
class Outcome:
    """What became of one file."""

    reason: Reason | None
    row: dict[str, Any] | None = None
    """Its row of the index."""
    counts: Counter[str] = field(default_factory=Counter)


def deidentify(
    dataset: FileDataset | Reason,
    target: Path,
    temporary: Path,
    cleaner: Cleaner,
    needles: Needles,
    covariates: list[str],
    treatment: faces.Treatment | None = None,
) -> Outcome:
    """De-identify one file, as it was read, into `target`, by way of `temporary` on the same file system; call within `reading.quiet`."""
    if isinstance(dataset, Reason):
        return Outcome(dataset)
    cleaner.counts.clear()
    try:
        reason = objects.refused(dataset, cleaner.settings) or objects.data(dataset, cleaner.counts)
        if reason is None and any(tag in dataset for tag in PIXELS):
            reason = pixels.clean(dataset, cleaner.settings, cleaner.counts)
        if reason is None and treatment is not None:
            reason = faces.apply(dataset, treatment, cleaner.counts)
        if reason is not None:
            return Outcome(reason, counts=Counter(cleaner.counts))
        cleaner.overlays = overlays.verified(dataset, cleaner.counts) if cleaner.settings.graphics == "clean" else frozenset()
        before = characteristics(dataset, cleaner)
        cleaner.clean(dataset)
        mark(dataset, cleaner, before)
        data = encoded(dataset)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a malformed element makes the library raise, its message may repeat the value
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, not the parser's
        return Outcome(Reason.MALFORMED)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    if not verified(temporary, data, needles):
        temporary.unlink()
        return Outcome(Reason.RESIDUAL_IDENTIFIER)
    temporary.replace(target)
    row = index_row(dataset, cleaner.patient, before, covariates) | {"path": f"instances/{cleaner.patient}/{target.name}"}
    return Outcome(None, row, Counter(cleaner.counts))


def verified(path: Path, data: bytes, needles: Needles) -> bool:
    """Read a written file back and say whether it parses and holds none of the patient's identifiers."""
    stored = path.read_bytes()
    if stored != data:
        raise OSError("a written file differs from what was written")
    again = parsed(stored)
    if isinstance(again, Reason):
        return False
    found = next((again.get_item(tag) for tag in PIXELS if tag in again), None)
    start = int(getattr(found, "value_tell", 0) or 0)
    return not needles.within(stored, slice(start, start + len(getattr(found, "value", None) or b"")))


def characteristics(dataset: Dataset, cleaner: Cleaner) -> dict[str, Any]:
    """Return age (years, at most 90), sex, site and scanner as the original header has them, as far as the recipe keeps them."""
    out: dict[str, Any] = {"age": None, "sex": None, "site": None, "scanner": None}
    if cleaner.settings.retain_patient_characteristics:
        age = capped_age(text_of(dataset, 0x00101010)) or age_at_study(text_of(dataset, 0x00100030), text_of(dataset, 0x00080020))
        out["age"] = None if age is None else int(age[:3]) / {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}[age[3]]
        sex = text_of(dataset, 0x00100040).strip().upper()
        out["sex"] = sex if sex in ("M", "F", "O") else None
    if cleaner.settings.sites == "pseudonym":
        site = text_of(dataset, 0x00080080).strip()
        device = [text_of(dataset, tag).strip() for tag in (0x00080070, 0x00081090, 0x00181000)]
        out["site"] = cleaner.pseudonyms.site(site) if site else None
        out["scanner"] = cleaner.pseudonyms.scanner(*device) if any(device) else None
    return out


def age_at_study(birth: str, study: str) -> str | None:
    """Return the age in whole years as VR AS, capped, from two dates; None where one is missing or wrong."""
    found = [re.match(r"(\d{4})(\d{2})(\d{2})\Z", text.strip()) for text in (birth, study)]
    if not found[0] or not found[1]:
        return None
    born, seen = (tuple(int(part) for part in match.groups()) for match in found if match)
    years = seen[0] - born[0] - (seen[1:] < born[1:])
    return capped_age(f"{years:03d}Y") if 0 <= years < 150 else None


def mark(dataset: FileDataset, cleaner: Cleaner, before: dict[str, Any]) -> None:
    """Say in the header what was done (PS3.15 E.2), and put the pseudonyms where there was nothing to replace."""
    settings = cleaner.settings
    searched, defaced = cleaner.counts["frames searched for text"] > 0, cleaner.counts[faces.DEFACED] > 0
    dataset.PatientName = cleaner.patient
    dataset.PatientID = cleaner.patient
    if before["age"] is not None and "PatientAge" not in dataset and before["age"] >= 1:
        dataset.PatientAge = f"{int(before['age']):03d}Y"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [f"medpipe {medpipe.__version__}", profile.edition()]
    dataset.DeidentificationMethodCodeSequence = Sequence(_method_codes(settings, searched, defaced))
    dataset.LongitudinalTemporalInformationModified = {"shift": "MODIFIED", "keep": "UNMODIFIED", "remove": "REMOVED"}[settings.dates]
    if searched:
        dataset.BurnedInAnnotation = "NO"
    elif "BurnedInAnnotation" in dataset:
        del dataset.BurnedInAnnotation
    if defaced:
        dataset.RecognizableVisualFeatures = "NO"
    elif "RecognizableVisualFeatures" in dataset:
        del dataset.RecognizableVisualFeatures  # what others found is not vouched for


@lru_cache
def _method_codes(settings: DeidSettings, pixels_cleaned: bool, faces_cleaned: bool) -> tuple[Dataset, ...]:
    """Return the items that say what was done; all files of a run share them."""
    items = []
    for value, meaning in profile.codes(settings, pixels_cleaned=pixels_cleaned, faces_cleaned=faces_cleaned):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        items.append(item)
    return tuple(items)


def encoded(dataset: FileDataset) -> bytes:
    """Return the bytes of the file: preamble of zeros, file meta made anew, then the dataset."""
    syntax = dataset.file_meta.TransferSyntaxUID
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = "MEDPIPE"
    dataset.file_meta = meta
    dataset.preamble = b"\0" * PREAMBLE
    # What stays is ASCII, so its bytes stay although the character set went: nothing is decoded to be encoded again.
    dataset.set_original_encoding(*dataset.original_encoding, default_encoding)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def index_row(dataset: FileDataset, patient: str, before: dict[str, Any], covariates: list[str]) -> dict[str, Any]:
    """Return the row of the index for a cleaned instance, without path, label and day."""
    instance = str(dataset.SOPInstanceUID)
    row: dict[str, Any] = {
        "instance": instance,
        "series": text_of(dataset, 0x0020000E) or None,
        "study": text_of(dataset, 0x0020000D) or None,
        "patient": patient,
        "path": None,
        "modality": text_of(dataset, 0x00080060).strip() or None,
        "sop_class": str(dataset.SOPClassUID),
        "rows": int(dataset.get("Rows", 0) or 0) or None,
        "columns": int(dataset.get("Columns", 0) or 0) or None,
        "frames": int(dataset.get("NumberOfFrames", 1) or 1),
        "references": references(dataset) if text_of(dataset, 0x00080060).strip() == "SEG" else [],
    }
    for name in covariates:
        row[name] = before[name] if name in before else (text_of(dataset, tag_for_keyword(name) or 0).strip() or None)
    return row


REFERENCING = ("ReferencedSeriesSequence", "SourceImageSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def references(dataset: Dataset) -> list[str]:
    """Return the instances that a segmentation was drawn on, in its references at every depth."""
    found: set[str] = set()
    for name in REFERENCING:
        for item in dataset.get(name, None) or ():
            found.update(
                str(element.value) for element in item.iterall() if element.keyword == "ReferencedSOPInstanceUID" and element.value
            )
    return sorted(found)
