"""Values of DICOM elements read without trust: text from whatever bytes stand there, VRs from the standard's dictionary."""

from __future__ import annotations

from functools import lru_cache

from pydicom import charset
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

TEXT = frozenset({"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
NUMERIC = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


@lru_cache(maxsize=4096)
def dictionary_vrs(tag: int) -> tuple[str, ...]:
    """Return the VRs that the standard allows for `tag`, none where it does not know the tag."""
    entry = DicomDictionary.get(tag)
    return tuple(part for part in entry[0].split(" ") if part != "or") if entry else ()


def text_of(dataset: Dataset, tag: BaseTag | int) -> str:
    """Return an element's value as text, its values separated by backslashes; "" where it has none.

    Undecodable bytes are replaced, so that text in a wrong or missing character set is still read.
    """
    element = dataset.get_item(tag)
    return "" if element is None else text_in(dataset, element)


def text_in(dataset: Dataset, element: DataElement | RawDataElement) -> str:
    """Return the value of an element of `dataset` as `text_of` does."""
    value = element.value
    if value is None:
        return ""
    if isinstance(value, bytes):
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii").rstrip(" \0")
        return _decoded(value, getattr(dataset, "_character_set", None))
    if isinstance(value, str):
        return value
    if isinstance(element, RawDataElement):
        return ""
    values = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return "\\".join(str(part) for part in values)


def _decoded(value: bytes, encodings: object) -> str:
    names = [encodings] if isinstance(encodings, str) else list(encodings) if isinstance(encodings, (list, tuple)) else []
    try:
        return str(charset.decode_bytes(value, [str(name) for name in names] or ["utf-8"], {"^", "=", "\\"})).rstrip(" \0")
    except (LookupError, UnicodeError, ValueError):
        return value.decode("utf-8", "replace").rstrip(" \0")


def parts(text: str) -> list[str]:
    """Return the single values of a multi-valued text, without padding."""
    return [part.strip(" \0") for part in text.split("\\")]
