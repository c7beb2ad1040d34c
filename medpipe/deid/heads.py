"""Which images show a head, by their headers, and where their pixels lie in space.

A header that names another part of the body is believed; one that names none leaves the question to the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medpipe.deid.values import text_of

MODALITIES = frozenset({"MR", "CT", "PT"})
"""What makes volumes in which skin can be told from air."""
HEAD = re.compile(
    r"head|brain|skull|face|facial|crani|cereb|neuro|orbit|sinus|(?<![a-z])(?:iac|tmj|eye|ear|nose|jaw|teeth|mprage)(?![a-z])|dental|mandib"
    r"|maxill|pituit|hypophys|kopf|sch[aä]del|hirn|gesicht|t[eê]te|cerveau|cr[aâ]n|cabeza|testa(?![a-z])|encef|enceph|neck|hals(?![a-z])"
    r"|whole ?body|ganzk",
    re.IGNORECASE,
)
ELSEWHERE = re.compile(
    r"chest|thora|lung|heart|cardiac|breast|abdom|liver|kidney|pelvi|prostat|uter|hip(?![a-z])|knee|ankle|foot|leg|thigh|femur|arm(?![a-z])"
    r"|hand|wrist|elbow|shoulder|extremit|l-?spine|t-?spine|ls-?spine|lspine|sspine|lumbar|sacr|coccyx|phantom|aorta|colon",
    re.IGNORECASE,
)
_TEXTS = (0x00180015, 0x00081030, 0x0008103E, 0x00181030, 0x00400254, 0x00321060)
"""BodyPartExamined, then the descriptions of study, series, protocol, and of the performed and the requested procedure."""
_PROJECTIONS = re.compile(r"MIP|MNIP|PROJECTION|VOLREN|VRT|VR_|SSD|3D", re.IGNORECASE)


@dataclass(frozen=True)
class View:
    """One image object of a modality that can show a face."""

    ordinal: int
    path: Path = field(repr=False)
    modality: str
    series: str = field(repr=False)
    space: str = field(repr=False)
    """FrameOfReferenceUID: objects that share it share their positions; the series where there is none."""
    head: bool | None
    """Whether the header says that it shows a head; None where it says nothing."""
    shape: tuple[int, int]
    step: tuple[float, float]
    """Between rows and between columns, in mm."""
    planes: NDArray[np.float64] | None = field(repr=False)
    """Position, direction along a row and along a column of each frame (frames, 3, 3); None where it has no place."""


def view(ordinal: int, path: Path, header: Dataset) -> View | None:
    """Return what a header tells, None for what shows no face: other modalities, and images of other parts of the body."""
    modality = text_of(header, 0x00080060).strip().upper()
    head = shows_head(header)
    if modality not in MODALITIES or head is False:
        return None
    series = text_of(header, 0x0020000E).strip(" \0")
    space = text_of(header, 0x00200052).strip(" \0") or f"series {series}"
    planes, step, shape = None, (0.0, 0.0), (0, 0)
    if not _PROJECTIONS.search(text_of(header, 0x00080008)):
        try:
            shape = (int(header.Rows), int(header.Columns))
            planes, step = _placed(header)
        except Exception:  # whatever a malformed element makes the library raise: then it has no place
            planes = None
    return View(ordinal, path, modality, series, space, head, shape, step, planes)


def shows_head(header: Dataset) -> bool | None:
    """Say whether a header speaks of a head, or of another part of the body; None where it does neither."""
    texts = [text_of(header, tag) for tag in _TEXTS]
    if any(HEAD.search(text) for text in texts):
        return True
    return False if any(ELSEWHERE.search(text) for text in texts) else None


def _placed(header: Dataset) -> tuple[NDArray[np.float64] | None, tuple[float, float]]:
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        if int(header.get("NumberOfFrames", 1) or 1) > 1:
            return None, (0.0, 0.0)
        found = [(header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing)]
    else:
        shared = header.SharedFunctionalGroupsSequence[0]
        found = [_of_frame(frame, shared) for frame in frames]
    planes = np.array([[*position, *orientation] for position, orientation, _ in found], float).reshape(-1, 3, 3)
    steps = np.array([step for _, _, step in found], float)
    length = np.linalg.norm(planes[:, 1:], axis=2)
    usable = np.isfinite(planes).all() and np.allclose(length, 1, atol=1e-2) and (steps > 0).all() and np.allclose(steps, steps[0])
    return (planes, (float(steps[0][0]), float(steps[0][1]))) if usable else (None, (0.0, 0.0))


def _of_frame(frame: Dataset, shared: Dataset) -> tuple[Any, Any, Any]:
    def group(name: str) -> Dataset:
        return (frame[name].value if name in frame else shared[name].value)[0]

    return (
        group("PlanePositionSequence").ImagePositionPatient,
        group("PlaneOrientationSequence").ImageOrientationPatient,
        group("PixelMeasuresSequence").PixelSpacing,
    )
