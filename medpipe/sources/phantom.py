"""The phantom hospital: a folder of DICOM as a PACS exports it, with known truth and with everything that must not leave.

`write` makes the folder; `phantom_plan.plan` says what is true of it. docs/phantom.md describes the hospital.
"""

from __future__ import annotations

import csv
import shutil
from concurrent.futures import Executor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom.dataset import FileDataset

from medpipe.errors import InputError
from medpipe.parallel import each
from medpipe.progress import Progress, silent
from medpipe.sources import phantom_dicom, phantom_extras
from medpipe.sources.phantom_images import render
from medpipe.sources.phantom_plan import patient, plan
from medpipe.sources.phantom_truth import PatientPlan, StudyPlan

TABLE = "findings.csv"
"""The table of findings, as a radiology information system exports it: AccessionNumber and finding."""
WHAT = "writing the phantom hospital"
PATIENTS = 160
"""Patients of the default hospital: about 550 studies."""
MOST = 100_000


@dataclass(frozen=True)
class _Chart:
    """What a worker needs to write one patient: no pixel travels."""

    folder: str
    index: int
    seed: int


def write(folder: Path, *, patients: int = PATIENTS, seed: int = 0, progress: Progress = silent, executor: Executor | None = None) -> Path:
    """Write the DICOM export of a hospital of `patients` patients into `folder`, and return the folder.

    The same number and seed give the same bytes. The export is made beside its place and moved there when it is whole.
    Raises InputError for a folder that holds something, or a number out of range.
    """
    if not 1 <= patients <= MOST:
        raise InputError(f"patients is {patients}: a phantom hospital has 1 to {MOST}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder: name a new one, or remove what is there")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    charts = [_Chart(str(partial), index, seed) for index in range(patients)]
    progress(WHAT, 0, patients)
    for done, _ in enumerate(each(executor, _write_patient, charts), start=1):
        progress(WHAT, done, patients)
    hospital = plan(patients, seed)
    _write_table(partial / TABLE, hospital)
    _write_faults(partial, hospital)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    return folder


def folder_of(person: PatientPlan, study: StudyPlan) -> Path:
    """Return where a study lies in the export: like real ones, the path holds number, name, date and accession number."""
    name = person.person.plain_name.replace("^", "_").replace("'", "")
    return Path(f"{person.person.mrn}_{name}") / f"{study.day:%Y-%m-%d}_{study.accession}"


def _write_patient(chart: _Chart) -> int:
    person = patient(chart.index, chart.seed)
    written = 0
    for study in person.studies:
        place = Path(chart.folder) / folder_of(person, study)
        place.mkdir(parents=True)
        for name, file in _instances(person, study):
            (place / name).write_bytes(encoded(file))
            written += 1
    return written


def _instances(person: PatientPlan, study: StudyPlan) -> list[tuple[str, FileDataset]]:
    """Return the files of a study and their names: one site ends them in .dcm, the other names them by the patient."""
    files = []
    dotted = study.site.ae_title.startswith("NORTH")
    for shot, image in enumerate(study.images):
        pixels, lesion = render(image)
        file = phantom_dicom.image(person, study, shot, pixels)
        if person.person.canary or (person.index + study.index) % 9 == 0:
            phantom_extras.overlay(file, person)
        files.append((f"IM{shot + 1:04d}.dcm" if dotted else f"{person.person.mrn}_{shot + 1}", file))
        if image.lesion and lesion.any():
            name = f"SEG{shot + 1:04d}.dcm" if dotted else f"{person.person.mrn}_{shot + 1}_SEG"
            files.append((name, phantom_extras.mask(person, study, shot, lesion, file)))
    if study.index == 0 and (person.person.canary or person.index % 40 == 0):
        files.append(("DOSE.dcm", phantom_extras.capture(person, study)))
        files.append(("REPORT.dcm", phantom_extras.report(person, study)))
    for _, file in files:
        if file.Modality != "SEG" or person.person.canary:
            phantom_extras.hide(file, person, study)
    return files


def encoded(file: FileDataset) -> bytes:
    """Return the bytes of a DICOM file."""
    buffer = BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _write_table(path: Path, hospital: list[PatientPlan]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["AccessionNumber", "finding"])
        rows.writerow(["N9900000", "normal"])  # a study that was not exported: tables and images never quite agree
        rows.writerows([study.accession, study.finding] for person in hospital for study in person.studies if study.in_table)


def _write_faults(folder: Path, hospital: list[PatientPlan]) -> None:
    """Add what real exports have: a file twice, a file cut short by a full disk, a file that is not DICOM."""
    first, last = hospital[0], hospital[-1]
    files = sorted(path for path in (folder / folder_of(first, first.studies[0])).iterdir() if "SEG" not in path.name)
    shutil.copyfile(files[0], files[0].with_name(f"Copy of {files[0].name}"))
    study = last.studies[-1]
    cut = phantom_dicom.image(last, study, 0, render(study.images[0])[0])
    cut.SOPInstanceUID = cut.file_meta.MediaStorageSOPInstanceUID = phantom_dicom.uid(last, study, phantom_dicom.IMAGE_SERIES, 99)
    whole = encoded(cut)
    (folder / folder_of(last, study) / "IM0099.dcm").write_bytes(whole[: len(whole) * 3 // 5])
    names = "\n".join(f"{person.person.mrn}  {person.person.plain_name.replace('^', ', ')}" for person in hospital[:5])
    (folder / "README.txt").write_text(f"Export for the research office. First patients:\n{names}\n", encoding="utf-8")
