"""Builders of objects that are no images, with the canary's marker in every text of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
from builders_deid import CANARY, DIGITS, instance
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

STORAGE = "1.2.840.10008.5.1.4.1.1."
PIXELS = ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PhotometricInterpretation")
SAID = f"Nodule in the left lung, 12 mm, for {CANARY} {DIGITS}, seen by Dr White 482910"


def item(**elements: Any) -> Dataset:
    """A dataset with these elements."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def code(value: str, scheme: str, meaning: str) -> Sequence:
    """A code sequence of one code."""
    return Sequence([item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)])


def bare(kind: str, modality: str, number: int, **elements: Any) -> FileDataset:
    """An object of a storage class without pixels, of the canary patient."""
    file = instance(7, 1, 2, number)
    for keyword in PIXELS:
        delattr(file, keyword)
    file.SOPClassUID, file.Modality, file.PatientID, file.PatientName = f"{STORAGE}{kind}", modality, DIGITS, f"{CANARY}^Ada"
    for keyword, value in elements.items():
        setattr(file, keyword, value)
    return file


def report(number: int = 11, kind: str = "88.33") -> FileDataset:
    """A structured report: a container with a text, a code, a number, a person, a date and a container of its own."""
    content = [
        item(ValueType="TEXT", RelationshipType="CONTAINS", ConceptNameCodeSequence=code("121071", "DCM", "Finding"), TextValue=SAID),
        item(ValueType="PNAME", RelationshipType="CONTAINS", PersonName=f"Reader^{CANARY}"),
        item(ValueType="DATETIME", RelationshipType="CONTAINS", DateTime="20150117101530"),
        item(
            ValueType="NUM",
            RelationshipType="CONTAINS",
            ConceptNameCodeSequence=code("99", "99LOCAL", f"size {CANARY}"),
            MeasuredValueSequence=Sequence([item(NumericValue="12.5", MeasurementUnitsCodeSequence=code("mm", "UCUM", "millimeter"))]),
        ),
        item(
            ValueType="CONTAINER",
            RelationshipType="CONTAINS",
            ContentSequence=Sequence([item(ValueType="TEXT", RelationshipType="CONTAINS", TextValue=f"{CANARY} came back")]),
        ),
    ]
    return bare(kind, "SR", number, ValueType="CONTAINER", ContinuityOfContent="SEPARATE", ContentSequence=Sequence(content))


def presentation(number: int = 12) -> FileDataset:
    """A presentation state with a text and a line."""
    text = item(UnformattedTextValue=f"{CANARY} nodule", AnchorPoint=[1.0, 2.0], AnchorPointVisibility="Y")
    line = item(GraphicAnnotationUnits="PIXEL", GraphicDimensions=2, NumberOfGraphicPoints=2, GraphicData=[1.0, 2.0, 3.0, 4.0])
    annotation = item(GraphicLayer="LAYER", TextObjectSequence=Sequence([text]), GraphicObjectSequence=Sequence([line]))
    return bare("11.1", "PR", number, ContentLabel="A", ContentDescription=CANARY, GraphicAnnotationSequence=Sequence([annotation]))


def ecg(number: int = 13, *, trailing: bytes = b"", kind: str = "9.1.1", interpretation: str = "SS") -> FileDataset:
    """Two channels of four samples, with an annotation; `trailing` stands behind the last sample."""
    channels = [item(ChannelLabel=CANARY, ChannelSourceSequence=code("5.6.3-9-1", "SCPECG", "Lead I")) for _ in range(2)]
    wave = item(
        NumberOfWaveformChannels=2,
        NumberOfWaveformSamples=4,
        SamplingFrequency="500",
        MultiplexGroupLabel=CANARY,
        ChannelDefinitionSequence=Sequence(channels),
        WaveformBitsAllocated=16,
        WaveformSampleInterpretation=interpretation,
    )
    wave.add_new(0x54001010, "OW", np.arange(8, dtype="<i2").tobytes() + trailing)
    note = item(UnformattedTextValue=f"ectopic beat {CANARY}", AnnotationGroupNumber=1, ReferencedWaveformChannels=[1, 0])
    return bare(kind, "ECG", number, WaveformSequence=Sequence([wave]), WaveformAnnotationSequence=Sequence([note]))


def structures(number: int = 14) -> FileDataset:
    """A radiotherapy structure set with one contour."""
    contour = item(ContourGeometricType="POINT", NumberOfContourPoints=1, ContourData=[1.5, 2.5, 3.5])
    return bare(
        "481.3",
        "RTSTRUCT",
        number,
        StructureSetLabel=CANARY,
        StructureSetROISequence=Sequence([item(ROINumber=1, ROIName=f"LUNG {CANARY}", ROIDescription=CANARY)]),
        ROIContourSequence=Sequence([item(ReferencedROINumber=1, ContourSequence=Sequence([contour]))]),
    )


def document(number: int = 15) -> FileDataset:
    """An encapsulated PDF."""
    return bare("104.1", "DOC", number, DocumentTitle=CANARY, EncapsulatedDocument=b"%PDF-1.4 " + CANARY.encode() + b" ")
