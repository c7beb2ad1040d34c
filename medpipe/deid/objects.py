"""Objects that are no images: which kinds can be cleaned, which are set aside and why, and the data that they carry.

A kind is taken only if everything in it is elements that the engine judges, or numbers. Pages, recordings and whatever a
manufacturer packs into raw data are not looked into, and so never passed.
"""

from __future__ import annotations

from collections import Counter

from pydicom.dataset import Dataset

from medpipe.deid.values import text_of
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

_STORAGE = "1.2.840.10008.5.1.4.1.1."
DOCUMENTS = f"{_STORAGE}104."
REPORTS = f"{_STORAGE}88."
"""Structured reports and key object selections."""
WAVEFORMS = f"{_STORAGE}9."
AUDIO = f"{WAVEFORMS}4."
TAKEN = tuple(
    f"{_STORAGE}{kind}"
    for kind in (
        "9.",  # waveforms
        "11.",  # presentation states
        "66.1", "66.2", "66.3", "66.5", "66.6",  # registrations, fiducials, surfaces, tracts
        "67",  # real-world values
        "88.",
        "91.1",  # microscopy annotations
        "481.",  # radiotherapy
    )
)  # fmt: skip
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_SOUND = frozenset({"MB", "AB"})
"""Sample interpretations of telephone sound, mu-law and A-law (PS3.3 C.10.9.1.5)."""
_TEXTLESS = ("ChannelMinimumValue", "ChannelMaximumValue", "WaveformPaddingValue")


def refused(dataset: Dataset, settings: DeidSettings) -> Reason | None:
    """Return why an object is set aside for its kind, None where it is an image or a kind that the recipe takes."""
    kind = text_of(dataset, 0x00080016).strip()
    if kind.startswith(DOCUMENTS):
        return Reason.DOCUMENT
    if kind.startswith(AUDIO):
        return Reason.AUDIO
    if any(tag in dataset for tag in _PIXELS):
        return None
    if settings.objects == "images" or not kind.startswith(TAKEN):
        return Reason.NO_PIXELS
    if kind.startswith(REPORTS) and settings.structured_content != "clean":
        return Reason.REPORT
    return None


def data(dataset: Dataset, counts: Counter[str]) -> Reason | None:
    """Cut what stands behind the last sample of each waveform; return why the object must not pass, None where it may.

    Waveforms of an object of another kind, where the standard has none, go.
    """
    if "WaveformSequence" not in dataset:
        return None
    if not text_of(dataset, 0x00080016).strip().startswith(WAVEFORMS):
        del dataset.WaveformSequence
        counts["removed, binary"] += 1
        return None
    for item in dataset.WaveformSequence:
        if text_of(item, 0x54001006).strip() in _SOUND:
            return Reason.AUDIO
        allocated = int(item.get("WaveformBitsAllocated", 0) or 0)
        samples = int(item.get("NumberOfWaveformChannels", 0) or 0) * int(item.get("NumberOfWaveformSamples", 0) or 0)
        values = bytes(item.get("WaveformData", b"") or b"")
        expected = samples * allocated // 8
        if len(values) < expected or not expected:
            return Reason.TRUNCATED
        if len(values) > expected:
            item.WaveformData = values[:expected] + b"\0" * (expected % 2)
        for part in (item, *item.get("ChannelDefinitionSequence", ())):
            for name in _TEXTLESS:  # single samples
                if name in part and len(bytes(part[name].value or b"")) > max(2, allocated // 8):
                    del part[name]
    return None
