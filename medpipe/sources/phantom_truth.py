"""What is true of the phantom hospital: its scanners and sites, bodies, findings, studies and images, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from medpipe.sources.phantom_people import Person

Finding = Literal["normal", "mass", "effusion"]
FINDINGS: tuple[Finding, ...] = ("normal", "mass", "effusion")
Side = Literal["L", "R"]
Corner = Literal["top left", "top right", "bottom left", "bottom right"]
CORNERS: tuple[Corner, ...] = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Scanner:
    """A device and its signature in the image."""

    manufacturer: str
    model: str
    serial: str
    station: str
    software: str
    modality: Literal["DX", "CR"]
    rows: int
    columns: int
    bits: int
    """Bits stored: 12 in two bytes, or 8 in one."""
    photometric: Literal["MONOCHROME1", "MONOCHROME2"]
    spacing_mm: float
    contrast: float
    """Exponent of the display curve; above 1 darkens the lungs."""
    noise: float
    """Standard deviation of the quantum noise, as a share of the full range."""
    blur_px: float
    edge: float
    """Strength of the device's edge enhancement."""


@dataclass(frozen=True)
class Site:
    """A hospital building: its names, its patient-number authority, and how it takes images."""

    name: str
    address: str
    department: str
    issuer: str
    ae_title: str
    mobile: float
    """Share of images that are AP at the bedside: larger heart, higher diaphragm, rotated, with electrodes."""


SCANNERS = (
    Scanner(
        "Lumen Medical", "Claritas DR 600", "LM6-20417", "NORTH_DR1", "4.2.1", "DX",
        rows=256, columns=256, bits=12, photometric="MONOCHROME2", spacing_mm=1.5625, contrast=1.0, noise=0.007, blur_px=0.5, edge=0.55,
    ),
    Scanner(
        "Osaka Plate Systems", "FCX-330 mobile", "OP330-0093", "SOUTH_CR2", "B07", "CR",
        rows=256, columns=224, bits=8, photometric="MONOCHROME1", spacing_mm=1.60, contrast=0.82, noise=0.018, blur_px=1.0, edge=0.15,
    ),
)  # fmt: skip
SITES = (
    Site("St. Alban North Hospital", "1 Abbey Hill, Northwick NW3 2QX", "Radiology North", "STALBANNORTH", "NORTH_PACS", 0.06),
    Site("Harbour South Clinic", "88 Quay Street, Southmere SM1 4RD", "Imaging South", "HARBOURSOUTH", "SOUTH_PACS", 0.45),
)


@dataclass(frozen=True)
class Body:
    """The shape of one patient: lengths are shares of the image height, equal in all of a patient's images."""

    width: float
    """Half-width of the rib cage."""
    apex: float
    base: float
    """Height of the diaphragm at full breath."""
    fat: float
    heart: float
    """Size of the heart against the average 50-year-old's."""
    rib_spacing: float
    rib_slope: float
    bone: float
    curve: float
    """Sideways curve of the spine."""
    breast: float
    """0 in men."""
    pacemaker: bool


@dataclass(frozen=True)
class Pose:
    """How the patient stood before one image."""

    x: float
    y: float
    turn: float
    """Rotation in the image plane, radians."""
    zoom: float
    rotation: float
    """Rotation about the body's long axis: shifts the midline."""
    breath: float
    """Rise of the diaphragm."""
    mobile: bool
    exposure: float
    collimation: tuple[float, float, float, float]
    """Unexposed margins: left, right, top, bottom, as shares of the image height."""


@dataclass(frozen=True)
class Lesion:
    """What a finding adds to the image. `side` is the patient's: R lies on the image's left."""

    side: Side
    lateral: float
    """Place of a mass between midline (0) and chest wall (1)."""
    height: float
    """Place of a mass between apex (0) and diaphragm (1)."""
    size: float
    """Diameter in mm of a mass; share of the lung's height that fluid fills of an effusion."""
    other_side: float
    """Level of an effusion on the other side, 0 for none."""


@dataclass(frozen=True)
class ImagePlan:
    """Everything that one image shows; `phantom_images.render` needs nothing else."""

    seed: int
    body: Body
    pose: Pose
    scanner: Scanner
    age: int
    finding: Finding
    lesion: Lesion | None
    burned_in: tuple[str, ...]
    """Lines of identifying text in the pixels, () for none."""
    side_mark: Side | None
    """Technical mark on that side of the patient, which may stay."""
    corner: Corner


@dataclass(frozen=True)
class StudyPlan:
    """One visit: one request, one finding, one or two images."""

    index: int
    day: date
    time: str
    accession: str
    age: int
    site: Site
    scanner: Scanner
    finding: Finding
    lesion: Lesion | None
    in_table: bool
    """Whether the table of findings has a row for it; reports are missing in reality too."""
    referring: str
    performing: str
    operator: str
    images: tuple[ImagePlan, ...]


@dataclass(frozen=True)
class PatientPlan:
    """One patient with the truth about all studies."""

    index: int
    hospital: int
    """Number of the hospital, from the seed: part of every UID."""
    person: Person
    home: Site
    studies: tuple[StudyPlan, ...]
