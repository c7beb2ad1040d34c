"""Which instances of a Collection may become images, judged by its index alone: kind, modality, frames, segmentations."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medpipe.errors import InputError
from medpipe.images.reasons import Reason
from medpipe.images.shards import Candidate
from medpipe.settings import ImagesSettings

_SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation and Label Map Segmentation Storage."""
_NOT_IMAGES = frozenset({"DOC", "HC", "KO", "PR", "REG", "RTDOSE", "RTPLAN", "RTSTRUCT", "RWV", "SR"})
"""Modalities (PS3.3 C.7.3.1.1.1) whose objects hold no picture of a patient, though some have a matrix."""
_RADIOGRAPHS = frozenset({"CR", "DX", "RG"})
"""One kind of image, whatever plate or detector took it: a department with both is no mixture."""
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def select(index: pd.DataFrame, settings: ImagesSettings) -> tuple[list[Candidate], dict[str, Reason]]:
    """Return the candidates in the order of the index, and the reason for each instance that is none.

    Raises InputError where nothing is left, or where several modalities are and the recipe does not choose.
    """
    reasons: dict[str, Reason] = {}
    segmentations = index["sop_class"].isin(_SEGMENTATIONS)
    pictures = index["rows"].fillna(0).gt(0) & ~index["modality"].isin(_NOT_IMAGES)
    _mark(reasons, index[~segmentations & ~pictures], Reason.NOT_AN_IMAGE)
    left = index[~segmentations & pictures]
    if not settings.secondary_captures:
        captures = left["sop_class"].fillna("").str.startswith(_SECONDARY_CAPTURE)
        _mark(reasons, left[captures], Reason.SECONDARY_CAPTURE)
        left = left[~captures]
    chosen = left["modality"].isin(_modalities(left, settings, reasons))
    _mark(reasons, left[~chosen], Reason.OTHER_MODALITY)
    left = left[chosen]
    if settings.dimensions == 2:
        several = left["frames"].fillna(1) > 1
        _mark(reasons, left[several], Reason.MULTI_FRAME)
        left = left[~several]
    else:
        disputed = left.groupby("series")["label"].transform("nunique") > 1
        _mark(reasons, left[disputed], Reason.LABEL_CONFLICT)
        left = left[~disputed]
    if left.empty:
        raise InputError(f"the Collection has no image to use ({_counts(reasons)}): {_remedy(settings)}")
    drawn = _drawn(index[segmentations], set(left["instance"]), reasons)
    groups = left.groupby("series", sort=False) if settings.dimensions == 3 else ((None, left[i : i + 1]) for i in range(len(left)))
    candidates = []
    for _, group in groups:
        instances = tuple(str(uid) for uid in group["instance"])
        masks = sorted({file for uid in instances for file in drawn.get(uid, ())})
        candidates.append(Candidate(instances, tuple(group["path"]), tuple(masks)))
    return candidates, reasons


def _mark(reasons: dict[str, Reason], rows: pd.DataFrame, reason: Reason) -> None:
    reasons.update(dict.fromkeys(rows["instance"], reason))


def _modalities(pictures: pd.DataFrame, settings: ImagesSettings, reasons: dict[str, Reason]) -> list[str]:
    """Return the modalities to use: those chosen, else the only one there is, radiographs counting as one."""
    counts = pictures["modality"].value_counts().sort_index()
    found = ", ".join(f"{modality} ({count})" for modality, count in counts.items())
    if not len(counts):
        raise InputError(f"the Collection has no image to use ({_counts(reasons)}): {_remedy(settings)}")
    if settings.modalities:
        if not set(settings.modalities) & set(counts.index):
            raise InputError(f"the Collection has no image of images.modalities {', '.join(settings.modalities)}: it has {found}")
        return settings.modalities
    if len(counts) > 1 and not set(counts.index) <= _RADIOGRAPHS:
        raise InputError(f"the Collection has images of several modalities, {found}: choose with images.modalities which to use together")
    return [str(modality) for modality in counts.index]


def _drawn(segmentations: pd.DataFrame, used: set[str], reasons: dict[str, Reason]) -> dict[str, list[str]]:
    """Return instance to the files of the segmentations drawn on it."""
    drawn: dict[str, list[str]] = {}
    for row in segmentations.itertuples():
        references: Any = row.references
        on = used.intersection([] if references is None else references)
        if not on:
            reasons[str(row.instance)] = Reason.MASK_WITHOUT_IMAGE
        for uid in on:
            drawn.setdefault(uid, []).append(str(row.path))
    return drawn


def _counts(reasons: dict[str, Reason]) -> str:
    counts = pd.Series([reason.name for reason in reasons.values()], dtype=str).value_counts().sort_index()
    return ", ".join(f"{count} {code}" for code, count in counts.items()) or "it is empty"


def _remedy(settings: ImagesSettings) -> str:
    if not settings.secondary_captures:
        return "give a source with images, or set images.secondary_captures if screenshots are what you mean"
    return "give a source with images of the recipe's kind"
