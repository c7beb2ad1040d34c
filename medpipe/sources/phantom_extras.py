"""Where else identifiers hide: private elements, nested sequences, overlays, masks, screens, reports.

Each function adds to a header that `phantom_dicom` made, or returns a further instance of a study.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import BasicTextSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from medpipe.sources.phantom_dicom import CAPTURE_SERIES, MASK_SERIES, REPORT_SERIES, WORDS, blank, code, uid
from medpipe.sources.phantom_images import font
from medpipe.sources.phantom_people import CANARY
from medpipe.sources.phantom_truth import PatientPlan, StudyPlan

TYPES = {"mass": ("4147007", "SCT", "Mass"), "effusion": ("60046008", "SCT", "Pleural effusion")}


def hide(file: FileDataset, patient: PatientPlan, study: StudyPlan) -> None:
    """Add nested sequences and private elements that hold the patient's name, number and dates, up to three levels deep."""
    who, mark = patient.person, CANARY if patient.person.canary else ""
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = study.accession[:16], f"{mark}SPS"
    request.RequestedProcedureDescription = f"Chest film for {who.printed_name}"
    request.ScheduledProcedureStepDescription = f"Chest, {who.mrn}"
    request.ReasonForTheRequestedProcedure = f"{who.printed_name}: follow-up of {study.finding}"
    request.AccessionNumber = study.accession
    request.ScheduledProtocolCodeSequence = Sequence([code("CHEST1", f"99{mark[:10] or 'ALBAN'}", f"Chest {mark}".strip())])
    file.RequestAttributesSequence = Sequence([request])

    staff = Dataset()
    staff.PersonIdentificationCodeSequence = Sequence([code(f"{mark[:10]}4711", "99STAFF", study.operator.replace("^", " ").strip())])
    staff.PersonAddress, staff.InstitutionName = f"{mark} staff residence, Northwick".strip(), study.site.name
    file.OperatorIdentificationSequence = Sequence([staff])

    if mark or patient.index % 3 == 0:
        _renamed(file, patient, study)
    _private(file, patient, study)


def _renamed(file: FileDataset, patient: PatientPlan, study: StudyPlan) -> None:
    """Add what the PACS keeps of a corrected header: the former name and number, three levels deep (PS3.3 C.12.1.1.9)."""
    who, mark = patient.person, CANARY if patient.person.canary else ""
    former = Dataset()
    former.PatientID, former.IssuerOfPatientID, former.TypeOfPatientID = f"OLD{who.mrn}", patient.home.issuer, "TEXT"
    modified = Dataset()
    modified.PatientName, modified.PatientBirthDate = who.birth_name, f"{who.birth_date:%Y%m%d}"
    modified.OtherPatientIDsSequence = Sequence([former])
    original = Dataset()
    original.ModifiedAttributesSequence = Sequence([modified])
    original.AttributeModificationDateTime = f"{study.day:%Y%m%d}{study.time}"
    original.ModifyingSystem, original.SourceOfPreviousValues = mark or study.site.ae_title, mark or patient.home.issuer
    original.ReasonForTheAttributeModification = "COERCE"
    file.OriginalAttributesSequence = Sequence([original])


def _private(file: FileDataset, patient: PatientPlan, study: StudyPlan) -> None:
    """Private blocks in the manner of vendors: text, bytes, an unknown VR, a sequence within a sequence, and one technical value."""
    who = patient.person
    file.add_new(0x00190010, "LO", f"{study.scanner.manufacturer.upper()} HDR")  # the creator of the block of elements 10xx
    file.add_new(0x00191001, "LO", who.printed_name)
    file.add_new(0x00191002, "OB", _even(f"PAT={who.printed_name};ID={who.mrn}".encode()))
    file.add_new(0x00191003, "UN", _even(f"{who.mrn} {who.birth_date:%Y%m%d}".encode()))
    file.add_new(0x00191004, "DS", f"{study.scanner.noise:.3f}")
    inner, outer = Dataset(), Dataset()
    inner.add_new(0x00290010, "LO", "RIS LINK")
    inner.add_new(0x00291010, "ST", f"{who.printed_name} {who.mrn} {who.phone}")
    outer.PatientID = who.mrn
    outer.add_new(0x00290010, "LO", "RIS LINK")
    outer.add_new(0x00291011, "SQ", Sequence([inner]))
    file.add_new(0x00290010, "LO", "RIS LINK")
    file.add_new(0x00291011, "SQ", Sequence([outer]))
    file.add_new(0x00291012, "PN", who.plain_name)
    file.add_new(0x00291013, "DA", f"{study.day:%Y%m%d}")
    file.add_new(0x00291014, "AE", CANARY if who.canary else study.site.ae_title)


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def overlay(file: FileDataset, patient: PatientPlan) -> None:
    """Add an overlay plane whose bits draw the patient's name and number (PS3.3 C.9.2)."""
    who = patient.person
    canvas = Image.new("1", (file.Columns, file.Rows))
    ImageDraw.Draw(canvas).text((8, file.Rows // 2), f"{who.printed_name}\n{who.mrn}", fill=1, font=font(12))
    bits = np.packbits(np.asarray(canvas, np.uint8), bitorder="little").tobytes()
    for element, vr, value in (
        (0x0010, "US", file.Rows),
        (0x0011, "US", file.Columns),
        (0x0022, "LO", f"Marked for {who.printed_name}"),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", who.mrn),
        (0x3000, "OW", bits),
    ):
        file.add_new((0x6000, element), vr, value)


def mask(patient: PatientPlan, study: StudyPlan, shot: int, pixels: NDArray[np.bool_], source: FileDataset) -> FileDataset:
    """Return the lesion as a Segmentation that refers to its image (PS3.3 A.51); `pixels` (rows, columns)."""
    file = blank(patient, study, SegmentationStorage, uid(patient, study, MASK_SERIES, shot + 1))
    day = f"{study.day:%Y%m%d}"
    file.Modality, file.SeriesInstanceUID = "SEG", uid(patient, study, MASK_SERIES)
    file.SeriesNumber, file.InstanceNumber, file.SeriesDescription = MASK_SERIES, shot + 1, "Outline of the finding"
    file.ContentDate, file.ContentTime, file.SeriesDate, file.SeriesTime = day, study.time, day, study.time
    file.ContentLabel, file.ContentDescription = "FINDING", f"Outlined for {patient.person.printed_name}"[:64]
    file.ContentCreatorName = study.performing
    file.ImageType, file.LossyImageCompression, file.PatientOrientation = ["DERIVED", "PRIMARY"], "00", ["L", "F"]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.Rows, file.Columns = pixels.shape
    file.BitsAllocated, file.BitsStored, file.HighBit = 1, 1, 0
    file.SegmentationType, file.NumberOfFrames = "BINARY", 1
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = 1, study.finding, "MANUAL"
    segment.SegmentedPropertyCategoryCodeSequence = Sequence([code("49755003", "SCT", "Morphologically Altered Structure")])
    segment.SegmentedPropertyTypeCodeSequence = Sequence([code(*TYPES[study.finding])])
    file.SegmentSequence = Sequence([segment])
    _reference(file, patient, study, source)
    file.PixelData = _even(np.packbits(pixels, bitorder="little").tobytes())
    file["PixelData"].VR = "OB" if study.scanner.modality == "DX" else "OW"
    return file


def _reference(file: FileDataset, patient: PatientPlan, study: StudyPlan, source: FileDataset) -> None:
    instance = Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = source.SeriesInstanceUID, Sequence([instance])
    file.ReferencedSeriesSequence = Sequence([series])
    organization, index = Dataset(), Dataset()
    organization.DimensionOrganizationUID = index.DimensionOrganizationUID = uid(patient, study, MASK_SERIES, use=1)
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x0062000B, 0x0062000A
    index.DimensionDescriptionLabel = "Segment"
    file.DimensionOrganizationSequence, file.DimensionIndexSequence = Sequence([organization]), Sequence([index])
    origin = Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    origin.PurposeOfReferenceCodeSequence = Sequence([code("121322", "DCM", "Source image for image processing operation")])
    origin.SpatialLocationsPreserved = "YES"
    derivation, content, which, frame = Dataset(), Dataset(), Dataset(), Dataset()
    derivation.SourceImageSequence = Sequence([origin])
    derivation.DerivationCodeSequence = Sequence([code("113076", "DCM", "Segmentation")])
    content.DimensionIndexValues = 1
    which.ReferencedSegmentNumber = 1
    frame.DerivationImageSequence, frame.FrameContentSequence = Sequence([derivation]), Sequence([content])
    frame.SegmentIdentificationSequence = Sequence([which])
    file.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    file.PerFrameFunctionalGroupsSequence = Sequence([frame])


def capture(patient: PatientPlan, study: StudyPlan) -> FileDataset:
    """Return a screen copy of the dose page, as devices send it: a Secondary Capture full of text."""
    who = patient.person
    file = blank(patient, study, SecondaryCaptureImageStorage, uid(patient, study, CAPTURE_SERIES, 1))
    file.Modality, file.ConversionType, file.SeriesInstanceUID = "OT", "WSD", uid(patient, study, CAPTURE_SERIES)
    file.SeriesNumber, file.InstanceNumber, file.ImageType = CAPTURE_SERIES, 1, ["DERIVED", "SECONDARY"]
    file.SeriesDescription, file.PatientOrientation, file.Laterality = f"Dose page {who.printed_name}", "", ""
    canvas = Image.new("L", (384, 256), 16)
    lines = (who.printed_name, f"MRN  {who.mrn}", f"BORN {who.birth_date:%d.%m.%Y}", f"DATE {study.day:%d.%m.%Y}", "DAP  0.11 Gy cm2")
    ImageDraw.Draw(canvas).multiline_text((20, 20), "\n".join(lines), fill=255, font=font(18), spacing=12)
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.Rows, file.Columns, file.BitsAllocated, file.BitsStored, file.HighBit = 256, 384, 8, 8, 7
    file.BurnedInAnnotation = "YES"
    file.PixelData = canvas.tobytes()
    file["PixelData"].VR = "OB" if study.scanner.modality == "DX" else "OW"
    return file


def report(patient: PatientPlan, study: StudyPlan) -> FileDataset:
    """Return the radiologist's report as a Basic Text SR, free text with name, number and dates in its content tree."""
    who = patient.person
    file = blank(patient, study, BasicTextSRStorage, uid(patient, study, REPORT_SERIES, 1))
    file.Modality, file.SeriesInstanceUID, file.SeriesNumber, file.InstanceNumber = (
        "SR",
        uid(patient, study, REPORT_SERIES),
        REPORT_SERIES,
        1,
    )
    file.ContentDate, file.ContentTime = f"{study.day:%Y%m%d}", study.time
    file.SeriesDate, file.SeriesTime = file.ContentDate, file.ContentTime
    file.CompletionFlag, file.VerificationFlag = "COMPLETE", "UNVERIFIED"
    file.ReferencedPerformedProcedureStepSequence, file.PerformedProcedureCodeSequence = Sequence([]), Sequence([])
    text, author, heading = Dataset(), Dataset(), Dataset()
    author.RelationshipType, author.ValueType = "HAS OBS CONTEXT", "PNAME"
    author.ConceptNameCodeSequence = Sequence([code("121008", "DCM", "Person Observer Name")])
    author.PersonName = study.performing
    text.RelationshipType, text.ValueType = "CONTAINS", "TEXT"
    text.ConceptNameCodeSequence = Sequence([code("121071", "DCM", "Finding")])
    text.TextValue = f"{who.plain_name.replace('^', ' ')}, MRN {who.mrn}, film of {study.day:%d %B %Y}: {WORDS[study.finding]}"
    heading.RelationshipType, heading.ValueType, heading.ContinuityOfContent = "CONTAINS", "CONTAINER", "SEPARATE"
    heading.ConceptNameCodeSequence = Sequence([code("121070", "DCM", "Findings")])
    heading.ContentSequence = Sequence([text])
    file.ValueType, file.ContinuityOfContent = "CONTAINER", "SEPARATE"
    file.ConceptNameCodeSequence = Sequence([code("18782-3", "LN", "Radiology Study observation (findings)")])
    file.ContentSequence = Sequence([author, heading])
    return file
