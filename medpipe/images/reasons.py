"""Why an instance or an image is not in the Dataset: every code there is, with the sentence that explains it.

What is left out is counted in the Dataset's facts (`excluded`) and listed in its `excluded.parquet`, by pseudonym.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """The name is the stable code, the value the sentence."""

    # Of the kind of object
    NOT_AN_IMAGE = "The object holds no pixels to learn from: a report, a presentation state, a plan, a dose."
    SECONDARY_CAPTURE = "It is a secondary capture, mostly a screenshot or a page; images.secondary_captures accepts them."
    OTHER_MODALITY = "Its modality is not among images.modalities."
    MULTI_FRAME = "It has several frames, and the recipe wants single images (images.dimensions: 2)."
    LOCALIZER = "It is a localizer: a scout view that is planned on and not read."
    # Of the pixels
    COLOUR = "Its pixels are in colour; DICOM images are used where they are grey (MONOCHROME1 or MONOCHROME2)."
    PIXELS_UNREADABLE = "Its pixels are absent, truncated or in a form that cannot be decoded."
    NOT_FINITE = "Its pixels hold NaN or infinity, or its rescale makes them so."
    CONSTANT = "All its pixels are equal: there is nothing to see."
    NO_SPACING = "Its size in millimetres is not known, and images.spacing_mm asks for one."
    # Of the masks
    MASK_WITHOUT_IMAGE = "It is a segmentation of images that the Dataset does not use."
    MASK_UNREADABLE = "The image has a segmentation that cannot be laid on it, and without it would pass for one without a finding."
    # Of the stack of slices
    NO_POSITION = "A slice has no position, orientation or pixel spacing in the patient: there is no volume without them."
    MIXED_FRAME_OF_REFERENCE = "Slices of one stack have different frames of reference: their positions cannot be compared."
    MIXED_SPACING = "Slices of one stack have different pixel spacings."
    TOO_FEW_SLICES = "The stack has fewer than 4 slices, too few to see whether they are regular."
    DUPLICATE_SLICE = "Another slice of the stack has the same position and the same pixels."
    POSITION_CONFLICT = "Two slices of the stack have one position and different pixels: echoes, phases or a mistake."
    TILT = "The slices are sheared against each other (gantry tilt): as a box of voxels they would be distorted."
    IRREGULAR_SPACING = "The distances between slices differ: one is missing, or the spacing changes."
    IRREGULAR_GEOMETRY = "The frames of the multi-frame object do not make one regular volume."
    # Of the whole set
    LABEL_CONFLICT = "The slices of one series are labelled with different classes."
    DUPLICATE = "Another image is identical in every pixel; the one in the stronger split (test, validation, holdout, train) is kept."
    PATIENT_ACROSS_SPLITS = "The splits given have the patient in two of them; the images in the stronger split are kept."
    BLOCK_EDGE = "It lies within images.block_gap of a block of another split: its neighbour may show the same patient."
    CLASS_TOO_SMALL = "Its class has fewer patients (or blocks) than images.patients_per_class_min."


class Rejected(Exception):
    """Raised inside this room by a step that cannot use what it is given; ends as a count, never as an error."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason
