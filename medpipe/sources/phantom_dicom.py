"""DICOM headers of the phantom hospital: what a PACS exports with an image, and must not leave the house.

One function per information entity (PS3.3): patient, study, equipment, image; `phantom_extras` adds what hides elsewhere.
Every value is a function of the plan: the same plan gives the same bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    PYDICOM_ROOT_UID,
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medpipe.seeds import generator
from medpipe.sources.phantom_people import CANARY
from medpipe.sources.phantom_truth import ImagePlan, PatientPlan, StudyPlan

STUDY_ITSELF, IMAGE_SERIES, MASK_SERIES, REPORT_SERIES, CAPTURE_SERIES = range(5)
WORDS = {"normal": "No focal lesion.", "mass": "Known mass, size to be compared.", "effusion": "Pleural effusion, level to be compared."}


def uid(patient: PatientPlan, study: StudyPlan, series: int = STUDY_ITSELF, instance: int = 0, use: int = 0) -> UID:
    """Return a UID as devices make them: it holds the serial number and the date, and so identifies."""
    serial = int("".join(sign for sign in study.scanner.serial if sign.isdigit()))
    return UID(
        f"{PYDICOM_ROOT_UID}{serial}.{study.day:%Y%m%d}.{patient.hospital}.{patient.index + 1}.{study.index + 1}.{series}.{instance}.{use}"
    )


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return one item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def blank(patient: PatientPlan, study: StudyPlan, sop_class: UID, instance: UID) -> FileDataset:
    """Return a file with the attributes that all instances of a study share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if study.scanner.modality == "DX" else ImplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.SourceApplicationEntityTitle = CANARY if patient.person.canary else study.site.ae_title
    meta.SendingApplicationEntityTitle = study.scanner.station
    meta.PrivateInformationCreatorUID = f"{PYDICOM_ROOT_UID}99"
    meta.PrivateInformation = f"SENT FOR {patient.person.printed_name} {patient.person.mrn}".encode().ljust(64)
    preamble = f"{patient.person.mrn} {patient.person.printed_name}".encode()[:128].ljust(128, b"\0")
    file = FileDataset("", {}, file_meta=meta, preamble=preamble)
    if patient.person.charset:
        file.SpecificCharacterSet = patient.person.charset.split("\\")
    file.SOPClassUID, file.SOPInstanceUID = sop_class, instance
    _patient(file, patient, study)
    _study(file, patient, study)
    return file


def _patient(file: Dataset, patient: PatientPlan, study: StudyPlan) -> None:
    who, mark = patient.person, CANARY if patient.person.canary else ""
    rng = generator(patient.hospital, "patient header", patient.index)
    file.PatientName, file.PatientID, file.IssuerOfPatientID = who.name, who.mrn, mark or patient.home.issuer
    file.PatientBirthDate, file.PatientBirthTime = f"{who.birth_date:%Y%m%d}", "031500"
    file.PatientSex, file.PatientAge = who.sex, f"{study.age:03d}Y"
    file.PatientSize = f"{rng.normal(1.77 if who.sex == 'M' else 1.64, 0.07):.2f}"
    file.PatientWeight = f"{rng.normal(82 if who.sex == 'M' else 69, 12):.1f}"
    file.PatientBirthName, file.PatientMotherBirthName = who.birth_name, who.birth_name
    file.OtherPatientNames = who.birth_name
    file.PatientAddress, file.PatientTelephoneNumbers = who.address, who.phone
    file.Occupation, file.MedicalRecordLocator = who.job[:16], who.insurance
    file.EthnicGroup = mark or ("A", "B", "C")[patient.index % 3]
    file.PatientReligiousPreference = mark or "none stated"
    file.CountryOfResidence, file.RegionOfResidence = mark or "UK", mark or "Northwick"
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = who.other_id, who.other_issuer, "TEXT"
    insurance = Dataset()
    insurance.PatientID, insurance.IssuerOfPatientID, insurance.TypeOfPatientID = who.insurance, f"{mark}INSURER", "TEXT"
    file.OtherPatientIDsSequence = Sequence([other, insurance])
    name = who.plain_name.replace("^", " ")
    file.PatientComments = f"{name}, MRN {who.mrn}: asks for a copy to {who.address}. Tel. {who.phone}."
    file.AdditionalPatientHistory = (
        f"{name} (born {who.birth_date:%d/%m/%Y}, MRN {who.mrn}), {who.job.lower()}, was seen by Dr {study.referring.split('^')[0]} "
        f"on {study.day:%d.%m.%Y}. Cough for three weeks. {WORDS[study.finding]}"
    )
    if who.sex == "F":
        file.PregnancyStatus = 4


def _study(file: Dataset, patient: PatientPlan, study: StudyPlan) -> None:
    who, site, device = patient.person, study.site, study.scanner
    mark = CANARY if who.canary else ""
    file.StudyInstanceUID = uid(patient, study)
    file.StudyDate, file.StudyTime, file.StudyID = f"{study.day:%Y%m%d}", study.time, study.accession[:16]
    file.AccessionNumber, file.AdmissionID = study.accession, f"{mark or 'ADM'}{patient.index:05d}"
    file.AdmittingDate = f"{study.day:%Y%m%d}"
    file.ReferringPhysicianName, file.PhysiciansOfRecord = study.referring, study.referring
    file.ReferringPhysicianTelephoneNumbers = f"{mark or '+44 20 7946 '}0{patient.index % 1000:03d}"
    file.NameOfPhysiciansReadingStudy, file.RequestingPhysician = study.performing, study.referring
    file.StudyDescription = f"CHEST {who.printed_name}" if mark or patient.index % 11 == 0 else "CHEST FRONTAL"
    file.AdmittingDiagnosesDescription = f"{mark} cough".strip()
    file.StudyComments = f"Film of {who.printed_name} shown to Dr {study.referring.split('^')[0]} on {study.day:%d.%m.%Y}"
    file.ReasonForStudy = f"? {study.finding}, ref. {who.mrn}"
    file.InstitutionName = site.name
    file.InstitutionAddress = f"{mark} {site.address}".strip()
    file.InstitutionalDepartmentName = f"{mark} {site.department}".strip()
    file.Manufacturer, file.ManufacturerModelName = device.manufacturer, device.model
    file.DeviceSerialNumber, file.SoftwareVersions = device.serial, device.software
    file.StationName = CANARY if mark else device.station
    file.DateOfLastCalibration, file.TimeOfLastCalibration = f"{study.day.year}0102", "063000"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = UID("1.2.840.10008.3.1.2.3.1"), uid(patient, study, use=9)
    file.ReferencedStudySequence = Sequence([reference])


def image(patient: PatientPlan, study: StudyPlan, shot: int, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> FileDataset:
    """Return the file of one radiograph; `pixels` as displayed, (rows, columns), are inverted where the device stores MONOCHROME1."""
    device, plan = study.scanner, study.images[shot]
    dx = device.modality == "DX"
    file = blank(
        patient,
        study,
        DigitalXRayImageStorageForPresentation if dx else ComputedRadiographyImageStorage,
        uid(patient, study, IMAGE_SERIES, shot + 1),
    )
    _series(file, patient, study, plan, shot)
    file.ImageType = ["ORIGINAL", "PRIMARY", ""] if dx else ["ORIGINAL", "PRIMARY"]
    file.BodyPartExamined, file.PatientOrientation = "CHEST", ["L", "F"]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, device.photometric
    file.Rows, file.Columns = pixels.shape
    file.BitsAllocated = 16 if device.bits > 8 else 8
    file.BitsStored, file.HighBit, file.PixelRepresentation = device.bits, device.bits - 1, 0
    file.ImagerPixelSpacing = [device.spacing_mm, device.spacing_mm]
    top = 2**device.bits - 1
    if dx:
        _digital(file, plan, top)
    else:
        file.PlateID, file.CassetteID = f"P{patient.index:04d}", CANARY if patient.person.canary else "C17"
        if plan.burned_in and shot % 2:
            file.BurnedInAnnotation = "YES"  # the rest say nothing, or NO where the standard wants a value: as in reality
    stored = pixels if device.photometric == "MONOCHROME2" else pixels.dtype.type(top) - pixels
    file.PixelData = stored.tobytes()  # (rows, columns), little-endian
    file["PixelData"].VR = "OW" if device.bits > 8 or not dx else "OB"
    return file


def _series(file: Dataset, patient: PatientPlan, study: StudyPlan, plan: ImagePlan, shot: int) -> None:
    who, device, view = patient.person, study.scanner, "AP" if plan.pose.mobile else "PA"
    mark = CANARY if who.canary else ""
    day, time = f"{study.day:%Y%m%d}", f"{int(study.time) + shot:06d}"
    file.Modality, file.SeriesInstanceUID = device.modality, uid(patient, study, IMAGE_SERIES)
    file.SeriesNumber, file.InstanceNumber = IMAGE_SERIES, shot + 1
    file.SeriesDate = file.AcquisitionDate = file.ContentDate = file.InstanceCreationDate = day
    file.SeriesTime = file.AcquisitionTime = file.ContentTime = file.InstanceCreationTime = time
    file.AcquisitionDateTime = day + time + ".250000"
    file.PerformedProcedureStepStartDate, file.PerformedProcedureStepStartTime = day, time
    file.PerformedProcedureStepID = study.accession[:16]
    file.PerformedProcedureStepDescription = f"Chest {view} {mark}".strip()
    file.PerformingPhysicianName, file.OperatorsName = study.performing, study.operator
    file.SeriesDescription = f"{view} {mark or who.printed_name if shot or mark else 'chest'}"
    file.ProtocolName, file.ViewPosition = f"CHEST_{view} {mark}".strip(), view
    file.KVP, file.ExposureTime, file.Exposure = "85" if plan.pose.mobile else "125", 12, 3
    file.ImageComments = f"{who.printed_name}: taken at the bedside" if plan.pose.mobile or mark else "standing"


def _digital(file: Dataset, plan: ImagePlan, top: int) -> None:
    """Attributes that a DX image must have (PS3.3 A.26)."""
    file.PresentationIntentType = "FOR PRESENTATION"
    file.ImageLaterality = "U"
    file.AnatomicRegionSequence = Sequence([code("51185008", "SCT", "Chest")])
    file.PixelIntensityRelationship, file.PixelIntensityRelationshipSign = "LOG", -1
    file.RescaleIntercept, file.RescaleSlope, file.RescaleType = "0", "1", "US"
    file.PresentationLUTShape, file.LossyImageCompression, file.BurnedInAnnotation = "IDENTITY", "00", "NO"
    file.DetectorType, file.DetectorID = "DIRECT", "DET-20417"
    file.DateOfLastDetectorCalibration = file.DateOfLastCalibration
    file.AcquisitionContextSequence = Sequence([])
    file.WindowCenter, file.WindowWidth = str((top + 1) // 2), str(top + 1)
    view = code("399348003", "SCT", "antero-posterior") if plan.pose.mobile else code("272479007", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = Sequence([])
    file.ViewCodeSequence, file.PositionerType = Sequence([view]), "COLUMN"
