"""Collections as deidentify would seal them, made by hand: arrays, and DICOM files of any kind and fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medpipe import records, store
from medpipe.records import MadeFrom, Record

CT, MR, CR, SR, SC = (f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("2", "4", "1", "88.22", "7"))  # Storage SOP classes of PS3.4 annex B


def uid(*names: object) -> str:
    """A UID that depends on `names` alone."""
    return str(generate_uid(prefix="2.25.", entropy_srcs=[str(name) for name in names]))[:60]


def seal(out: Path, facts: dict[str, Any], write: Any) -> Record:
    """Seal a Collection whose payload `write(folder)` writes."""
    made_from = MadeFrom("Collection", {"source": records.digest(str(out.name))}, {}, 0, "test")
    with records.making(out, made_from) as making:
        write(making.path)
        return making.seal(facts)


def arrays(
    out: Path,
    images: NDArray[Any],
    labels: list[str | None] | None = None,
    splits: list[str | None] | None = None,
    patients: list[str] | None = None,
    covariates: dict[str, list[Any]] | None = None,
    classes: list[str] | None = None,
    shard: int = 64,
) -> Record:
    """A Collection of arrays: `images` (N, C, …)."""
    n = len(images)
    covariates = covariates or {}
    index = pd.DataFrame({"row": range(n), "instance": [f"I{row:06d}" for row in range(n)]})
    index["patient"] = patients or [f"P{row:06d}" for row in range(n)]
    index["split"] = pd.Series(splits or [None] * n, dtype=object)
    index["order"] = range(n)
    index["label"] = pd.Series(labels or [None] * n, dtype=object)
    for name, values in covariates.items():
        index[name] = values
    continuous = [name for name, values in covariates.items() if not any(isinstance(value, str) for value in values)]

    def write(folder: Path) -> None:
        store.create(folder, n, images.shape[1:], images.dtype.name, shard=shard)
        for rows in store.shards(folder):
            store.write_shard(folder, rows, images[rows.start : rows.stop])
        index.to_parquet(folder / "index.parquet", index=False)

    facts = {
        "form": "arrays", "instances": n, "patients": index["patient"].nunique(), "quarantined": {}, "licence": "CC0-1.0",
        "classes": classes or sorted({label for label in labels or [] if label}), "masks": False,
        "continuous": continuous, "categorical": [name for name in covariates if name not in continuous],
    }  # fmt: skip
    return seal(out, facts, write)


def instance(
    pixels: NDArray[Any], *, patient: int = 1, series: int = 1, number: int = 1, modality: str = "CR", **attributes: Any
) -> pydicom.Dataset:
    """A DICOM instance of grey `pixels` (rows, columns) or (frames, rows, columns); `attributes` overrides by keyword, None deletes."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = {"CT": CT, "MR": MR, "CR": CR, "SR": SR}.get(modality, SC)
    ds.SOPInstanceUID = uid(patient, series, number)
    ds.SeriesInstanceUID, ds.StudyInstanceUID = uid(patient, series), uid(patient)
    ds.PatientID, ds.PatientName, ds.Modality = f"P{patient:04d}", "", modality
    ds.FrameOfReferenceUID = uid(patient, "frame")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelSpacing = [1.0, 1.0]
    ds.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def volume(
    pixels: NDArray[Any],
    *,
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    **names: Any,
) -> list[pydicom.Dataset]:
    """A CT series of `pixels` (slices, rows, columns), slices along the normal of `orientation`, given in no order."""
    normal = np.cross(orientation[:3], orientation[3:])
    slices = []
    for k, plane in enumerate(pixels):
        position = [float(value) for value in np.array([-10.0, 20.0, 30.0]) + normal * k * spacing[0]]
        slices.append(
            instance(
                plane,
                modality="CT",
                number=k + 1,
                ImagePositionPatient=position,
                ImageOrientationPatient=list(orientation),
                PixelSpacing=list(spacing[1:]),
                **names,
            )
        )
    return slices[::2] + slices[1::2]


def dicom(
    out: Path,
    instances: list[pydicom.Dataset],
    labels: dict[str, str] | None = None,
    covariates: dict[str, dict[str, Any]] | None = None,
    damage: dict[str, int] | None = None,
    references: dict[str, list[str]] | None = None,
) -> Record:
    """A Collection of DICOM `instances`; `labels` and `covariates` by SOPInstanceUID; `damage` cuts a file to so many bytes."""
    rows = []
    for ds in instances:
        about: dict[str, Any] = {
            "instance": str(ds.SOPInstanceUID), "series": str(ds.SeriesInstanceUID), "study": str(ds.StudyInstanceUID),
            "patient": str(ds.PatientID),
            "path": f"instances/{ds.SOPInstanceUID}.dcm", "modality": str(ds.Modality), "sop_class": str(ds.SOPClassUID),
            "rows": ds.get("Rows"), "columns": ds.get("Columns"), "frames": int(ds.get("NumberOfFrames", 1)),
            "references": (references or {}).get(ds.SOPInstanceUID, []), "label": (labels or {}).get(ds.SOPInstanceUID), "day": 0,
        }  # fmt: skip
        rows.append(about | {name: values.get(ds.SOPInstanceUID) for name, values in (covariates or {}).items()})
    index = pd.DataFrame(rows).sort_values(["patient", "series", "instance"])

    def write(folder: Path) -> None:
        (folder / "instances").mkdir(exist_ok=True)
        for ds in instances:
            path = folder / "instances" / f"{ds.SOPInstanceUID}.dcm"
            ds.save_as(path, enforce_file_format=True)
            if ds.SOPInstanceUID in (damage or {}):
                path.write_bytes(path.read_bytes()[: (damage or {})[ds.SOPInstanceUID]])
        index.to_parquet(folder / "index.parquet", index=False)

    continuous = [name for name, values in (covariates or {}).items() if not any(isinstance(value, str) for value in values.values())]
    facts = {
        "form": "dicom", "instances": len(rows), "patients": index["patient"].nunique(), "quarantined": {}, "licence": "CC0-1.0",
        "classes": sorted(set((labels or {}).values())), "masks": bool(references),
        "continuous": continuous, "categorical": [name for name in covariates or {} if name not in continuous],
    }  # fmt: skip
    return seal(out, facts, write)


def segmentation(sources: list[pydicom.Dataset], mask: NDArray[np.uint8]) -> pydicom.Dataset:
    """A SEG of `sources` with one segment per number in `mask` (n, rows, columns), as highdicom writes it."""
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    for ds in sources:
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"):
            ds.setdefault(keyword, "")
        ds.SliceThickness = 1
    segments = [
        SegmentDescription(
            number, f"segment {number}", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, SegmentAlgorithmTypeValues.MANUAL
        )
        for number in range(1, int(mask.max()) + 1)
    ]
    names = {"series_instance_uid": uid("seg", sources[0].SOPInstanceUID, 0), "sop_instance_uid": uid("seg", sources[0].SOPInstanceUID)}
    device = {"manufacturer": "m", "manufacturer_model_name": "m", "software_versions": "1", "device_serial_number": "1"}
    return Segmentation(sources, mask, SegmentationTypeValues.BINARY, segments, series_number=2, instance_number=1, **names, **device)
