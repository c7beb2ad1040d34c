"""Builders of DICOM instances full of identifiers: the canary patient's marker stands in every place that can hold one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medpipe import recipe
from medpipe.recipe import Recipe

CANARY = "QXCANARYQX"
DIGITS = "7730951846"
BIRTH = "19510829"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def settings(**deid: Any) -> Recipe:
    """A recipe with these fields of the section deid."""
    return recipe.build({"deid": deid})


def instance(patient: int = 1, study: int = 1, series: int = 1, number: int = 1, *, side: int = 48, **elements: Any) -> FileDataset:
    """A small radiograph of one patient; `elements` are set by keyword on top."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    place = f"{patient}.{study}.{series}.{number}"
    file.SOPClassUID, file.SOPInstanceUID = DX, generate_uid(entropy_srcs=["instance", place])
    file.StudyInstanceUID = generate_uid(entropy_srcs=["study", f"{patient}.{study}"])
    file.SeriesInstanceUID = generate_uid(entropy_srcs=["series", f"{patient}.{study}.{series}"])
    file.PatientName, file.PatientID = f"Family{'abcdefghijklmnop'[patient]}^Given", f"MRN{patient:06d}"
    file.PatientBirthDate, file.PatientSex, file.PatientAge = BIRTH, "F" if patient % 2 else "M", "061Y"
    file.StudyDate, file.StudyTime, file.AccessionNumber = f"2015{study:02d}17", "101530.25", f"ACC{patient:03d}{study:03d}"
    file.Modality, file.Manufacturer, file.ManufacturerModelName, file.DeviceSerialNumber = "DX", "SIEMENS", "Ysio", "SN-4471209"
    file.InstitutionName, file.BodyPartExamined, file.KVP, file.Exposure = "Alban Infirmary", "CHEST", "120", "4"
    file.PixelSpacing, file.ImageType, file.ConvolutionKernel = [0.5, 0.5], ["ORIGINAL", "PRIMARY", "AXIAL"], "B70f"
    file.Rows = file.Columns = side
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit = 7
    rows, columns = np.mgrid[:side, :side]
    file.PixelData = ((rows * 2 + columns + patient * 7 + study * 3 + number) % 200).astype(np.uint8).tobytes()
    for keyword, value in elements.items():
        setattr(file, keyword, value)
    return file


def canary(study: int = 1, number: int = 1, **elements: Any) -> FileDataset:
    """An instance with identifiers nested three deep, in private, unknown, binary and foreign-script places, and in the preamble."""
    file = instance(7, study, 1, number, **elements)
    file.preamble = f"{CANARY} {DIGITS}".encode().ljust(128, b"\0")
    file.file_meta.SourceApplicationEntityTitle = CANARY
    file.file_meta.PrivateInformationCreatorUID, file.file_meta.PrivateInformation = "1.2.3", f"{CANARY} ".encode()
    file.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    file.PatientName = f"{CANARY}^Hanako=山田^花子=やまだ^はなこ"
    file.PatientID = DIGITS
    for keyword in ("OtherPatientIDs", "PatientAddress", "StudyDescription", "SeriesDescription", "ProtocolName", "PatientComments"):
        setattr(file, keyword, f"x {CANARY} {DIGITS}")
    file.ReferringPhysicianName, file.StationName = f"Dr^{CANARY}", CANARY
    # Attributes that the table does not list, in every text VR, also as a part of a word and with other separators.
    file.ReceiveCoilName, file.FilterType, file.ScanOptions = CANARY, f"a{CANARY[:12]}", [CANARY, "FAST"]
    file.CodingSchemeIdentificationSequence = Sequence(
        [_item(CodingSchemeName=f"{CANARY} list", CodingSchemeResponsibleOrganization=CANARY)]
    )
    file.ImageType = ["ORIGINAL", "PRIMARY", CANARY]
    file.add_new(0x00189073, "FD", 3.5)
    file.add_new(0x00180050, "DS", "1.5")
    file.add_new(0x00181151, "IS", DIGITS)
    file.add_new(
        0x0018A001, "SQ", Sequence([_item(Manufacturer=CANARY, ContributionDescription=f"by {CANARY}", DateTimeOfLastCalibration=[])])
    )
    deep = _item(CodeValue="T-1", CodingSchemeDesignator="99LOCAL", CodeMeaning=f"for {CANARY}")
    deep.add_new(0x00091010, "UN", f"{CANARY} {DIGITS}".encode())
    middle = _item(ConceptNameCodeSequence=Sequence([deep]), PersonName=CANARY, TextValue=f"{CANARY} came", UID="1.2.3.4." + DIGITS)
    file.AcquisitionContextSequence = Sequence([middle])
    file.ViewCodeSequence = Sequence([_item(ViewModifierCodeSequence=Sequence([_item(EquivalentCodeSequence=Sequence([deep]))]))])
    file.add_new(0x00290010, "LO", f"{CANARY} HEADER")
    file.add_new(0x00291010, "OB", f"{CANARY}{DIGITS}".encode())
    file.add_new(0x00291011, "UN", f"{DIGITS} {CANARY}".encode())
    file.add_new(0x00291012, "SQ", Sequence([_item(PatientName=CANARY)]))
    file.add_new(0x50000020, "CS", CANARY)
    file.add_new(0x60004000, "LT", CANARY)
    file.add_new(0x60003000, "OW", f"{CANARY}".encode() * 4)
    file.add_new(0x00420010, "ST", CANARY)
    file.add_new(0x00189004, "CS", CANARY)
    file.add_new(0x00080119, "UC", CANARY)
    file.add_new(0x0040E010, "UR", f"http://pacs/{DIGITS}/{CANARY}")
    file.add_new(0xFFFCFFFC, "OB", CANARY.encode())
    return file


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def save(file: FileDataset, path: Path) -> Path:
    """Write an instance; its file meta gets what it lacks, its preamble and the rest stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file.file_meta.MediaStorageSOPClassUID, file.file_meta.MediaStorageSOPInstanceUID = file.SOPClassUID, file.SOPInstanceUID
    file.save_as(path, enforce_file_format=True)
    return path


def hospital(folder: Path, patients: int = 3, studies: int = 2) -> Path:
    """A folder of instances: `patients` patients with `studies` studies of one image each."""
    for patient in range(1, patients + 1):
        for study in range(1, studies + 1):
            save(instance(patient, study), folder / f"Family{patient}" / f"{study}.dcm")
    return folder


def written(lines: list[str], *, side: int = 256, pixels: int = 12, fill: int = 255, seed: int = 0) -> np.ndarray[Any, Any]:
    """A smooth, noisy image (side, side) in 8 bits with lines of text at its upper left."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    grey = 90 + 60 * np.sin(3 * rows + 2) * np.cos(4 * columns) + rng.normal(0, 6, (side, side))
    image = Image.fromarray(grey.clip(0, 200).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((8, 8 + number * (pixels + 4)), line, fill=fill, font=ImageFont.load_default(pixels))
    return np.asarray(image)


def with_pixels(file: FileDataset, pixels: np.ndarray[Any, Any]) -> FileDataset:
    """Put 8-bit pixels (rows, columns) into an instance."""
    file.Rows, file.Columns = pixels.shape
    file.PixelData = pixels.astype(np.uint8).tobytes()
    return file
