"""Sections of a Recipe from the source to the Dataset."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medpipe.settings.section import Fraction, Positive, Section


class SourceSettings(Section):
    """Where the images come from, and which table says what they show."""

    form: Literal["dicom", "arrays"] = "dicom"
    """A folder of DICOM files, or one .npz file of arrays (MedMNIST's six arrays, or 'images' and 'labels')."""
    table: str | None = None
    """Name of a CSV file inside the source folder with labels and covariates (DICOM only)."""
    table_key: Literal["SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID"] = "SOPInstanceUID"
    """The table's first identifying column: which DICOM attribute its rows are matched by."""
    label: str | None = None
    """Column of the table that holds the class (DICOM only; arrays hold 'labels')."""
    continuous: list[str] = []
    """Continuous covariates to condition on, such as age: columns of the table or kept DICOM attributes."""
    categorical: list[str] = []
    """Categorical covariates to condition on, such as sex, site or scanner."""
    classes: list[str] = []
    """Names of the classes in the order of their numbers; for a table, the values that are accepted (empty: as found)."""
    licence: str = "not stated"
    """Licence of the source images, carried to the release."""


class DeidSettings(Section):
    """De-identification by PS3.15 Annex E."""

    dates: Literal["shift", "remove", "keep"] = "shift"
    """Shift all dates of a patient by one secret number of days (intervals stay), remove them, or keep them as they are."""
    shift_days_max: Annotated[int, Field(ge=30, le=36500)] = 3650
    """Largest date shift in days; each patient's own shift is drawn from the key."""
    retain_patient_characteristics: bool = True
    """Keep sex, age (over 89 becomes 90), size, weight and the other characteristics of PS3.15's option of that name."""
    sites: Literal["pseudonym", "remove"] = "pseudonym"
    """Replace institutions and devices by keyed pseudonyms, so that groups stay apart without their names, or remove them."""
    retain_device_identity: bool = False
    """Keep serial numbers, station names and what else PS3.15's option of that name lists."""
    retain_institution_identity: bool = False
    """Keep the names and addresses of institutions and departments."""
    retain_uids: bool = False
    """Keep all UIDs, by which anyone who has the original images finds them again; else they are mapped under the key."""
    retain_safe_private: bool = False
    """Keep the private elements that PS3.15 calls safe, such as b-values, where creator and value are as they should be."""
    descriptors: Literal["remove", "clean"] = "remove"
    """Remove descriptions and comments, or keep their technical words."""
    structured_content: Literal["remove", "clean"] = "remove"
    """Leave out the content of reports, and so the reports, or keep it with only the technical words of its texts."""
    graphics: Literal["remove", "clean"] = "remove"
    """Remove overlays and graphic annotations, or keep overlays without text and annotations with only technical words."""
    objects: Literal["images", "all"] = "images"
    """Take images only, or also presentation states, radiotherapy objects, waveforms, registrations and reports."""
    burned_in: Literal["black_out", "quarantine"] = "black_out"
    """What to do with text burned into the pixels: black out its region, or quarantine the image."""
    faces: Literal["deface", "quarantine", "keep"] = "deface"
    """What to do with heads in MR, CT and PET: remove the face and quarantine what cannot be judged, quarantine, or keep."""
    quarantine_max: Fraction = 0.2
    """Largest share of the instances that may be quarantined before the run ends in an error."""


class ConsentSettings(Section):
    """Whose images may be used, and for what: permissions are asked of the consent ledger."""

    check: Literal["off", "ledger"] = "off"
    """Do not ask (the evidence says so), or use only patients whose permission is in the consent ledger; withdrawals always count."""
    purpose: Literal["general", "health", "disease", "ancestry"] = "general"
    """What the release is for: any research, health research, research on the diseases named, or on population origins."""
    diseases: list[Annotated[str, Field(pattern=r"^[A-Z]{2,10}:[A-Za-z0-9.]{1,20}$")]] = []
    """Codes of the diseases where the purpose is disease, such as MONDO:0005148; a permission for diseases (DS) must name all of them."""
    conditions: list[Literal["COL", "GS", "IRB", "IS", "NCU", "NPOA", "NPU", "NPUNCU", "PS", "PUB", "RS", "RTN", "US"]] = []
    """Conditions (GA4GH DUO) that a person decided this use keeps; a permission under any other condition is none."""
    denied_max: Fraction = 1.0
    """Largest share of the source's patients that may be without permission before the run ends in an error."""


class ImagesSettings(Section):
    """From instances to model-ready images."""

    dimensions: Literal[2, 3] = 2
    """2 for images or single slices, 3 for volumes."""
    size: Annotated[int, Field(ge=8, le=512)] = 64
    """Side of the square (or cubic) image in pixels; 0 padding keeps the aspect ratio."""
    sides: list[Annotated[int, Field(ge=8, le=512)]] = []
    """Sides where they differ: rows and columns, or slices, rows and columns, as in [32, 48, 32]; empty: `size` along every axis."""
    spacing_mm: Annotated[float, Field(gt=0)] | None = None
    """Resample to this step in millimetres and keep the centre (DICOM only); empty keeps the whole field of view."""
    modalities: list[str] = []
    """DICOM modalities to use, such as CT; may be empty where the source has only one (CR, DX and RG count as one)."""
    secondary_captures: bool = False
    """Use secondary captures too, which are mostly screenshots and pages with text."""
    percentile_low: Annotated[float, Field(ge=0, lt=50)] = 0.5
    """Percentile of an image that becomes the lowest stored value (8-bit images are kept as they are)."""
    percentile_high: Annotated[float, Field(gt=50, le=100)] = 99.5
    """Percentile of an image that becomes the highest stored value."""
    split: Literal["patient", "given", "blocks"] = "patient"
    """Split by patient; keep the splits that the arrays have; or cut the rows into contiguous blocks."""
    validation: Fraction = 0.1
    """Share for validation during development."""
    holdout: Fraction = 0.2
    """Share cut from the training population, never trained on: gates are calibrated on it."""
    test: Fraction = 0.1
    """Share for the final utility figure (a given test split is kept)."""
    blocks: Annotated[int, Field(ge=8)] = 64
    """Number of contiguous blocks where `split` is blocks."""
    block_gap: Annotated[int, Field(ge=0)] = 0
    """Rows left out on the weaker side of the border between two splits, where neighbours may show one patient."""
    patients_per_class_min: Positive = 3
    """A class with fewer patients (or blocks) cannot be split without telling who is in it: it is excluded and counted."""
    shard: Positive = 512
    """Images in one shard, which is one file with one owner."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the images: rows and columns, or slices, rows and columns."""
        return tuple(self.sides) or (self.size,) * self.dimensions

    @model_validator(mode="after")
    def _one_side_for_each_axis(self) -> Self:
        if self.sides and len(self.sides) != self.dimensions:
            raise ValueError(f"images.sides needs {self.dimensions} entries, one for each of images.dimensions")
        return self
