"""Identifiers planted in every kind of place that a DICOM file has: each function here is one kind of place.

What steers the decoding of pixels is left alone, so that a file is still an image afterwards. Values are written as they
are, also where the standard forbids them: hospitals' files do the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import pydicom
from builders_corpus import Person, spellings
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from medpipe.deid import profile

BINARY_NUMBERS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_STEERING = """
    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration BitsAllocated BitsStored
    HighBit PixelRepresentation SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID PatientID SpecificCharacterSet
    PatientName PatientBirthDate StudyDate Modality TransferSyntaxUID RedPaletteColorLookupTableDescriptor
    ReferencedSOPInstanceUID GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
    RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData PixelPaddingValue
    PixelPaddingRangeLimit ConsentForClinicalTrialUseSequence ConsentForDistributionFlag
""".split()  # noqa: SIM905
STEERING = frozenset(tag_for_keyword(word) for word in _STEERING)
Plant = Callable[[FileDataset, Person, Random], None]


def vr_of(tag: int) -> str:
    """The first VR that the dictionary gives a tag, LO where it knows none."""
    entry = DicomDictionary.get(tag)
    return entry[0].split(" ")[0] if entry else "LO"


def put(dataset: Dataset, tag: int, vr: str, value: bytes) -> None:
    """Put bytes as they are, of even length."""
    value += b"\0" * (len(value) % 2) if vr in ("OB", "UN", "UI") else b" " * (len(value) % 2)
    dataset[Tag(tag)] = RawDataElement(
        Tag(tag), None if dataset.original_encoding[0] else vr, len(value), value, 0, *dataset.original_encoding, True
    )


def value(vr: str, who: Person, rng: Random, *, little: bool = True) -> bytes:
    """An identifier in the bytes of a VR: as the VR wants it, or as text where it has no room for one."""
    order, mrn, birth = "<" if little else ">", int(who.words["mrn"]), who.days["birth"]
    text = rng.choice(spellings(who))
    if vr in BINARY_NUMBERS and rng.random() < 0.5 and vr not in ("US", "SS", "FL"):
        return struct.pack(order + BINARY_NUMBERS[vr], rng.choice((mrn, int(f"{birth:%Y%m%d}"))))
    if vr == "DA":
        return rng.choice((f"{birth:%Y%m%d}", f"{birth:%Y.%m.%d}", f"{birth:%Y%m%d}-{birth:%Y%m%d}", text)).encode()
    if vr == "DT":
        return rng.choice((f"{birth:%Y%m%d}120000.000000+0100", f"{birth:%Y%m%d}", text)).encode()
    if vr == "TM":  # a time such as 110851 and a date are the same six digits
        return rng.choice((f"{birth:%Y%m%d}", "110203.000001", f"{who.words['family']}")).encode()
    if vr == "UI":
        return rng.choice((who.uid("any", rng.randrange(99)), f"1.2.{mrn}", f"2.25.{mrn}{birth:%Y%m%d}")).encode()
    if vr in ("DS", "IS"):
        return rng.choice((str(mrn), f"{birth:%Y%m%d}", f"+{mrn}.0" if vr == "DS" else f"{mrn:+}", f"{birth:%Y%m%d}.5", text)).encode()
    if vr in BINARY_NUMBERS:
        size = struct.calcsize(order + BINARY_NUMBERS[vr])
        packed = (who.words["family"] * size).encode()[: 2 * size * len(who.words["family"])]
        return packed[: len(packed) // size * size]
    return text.encode(who.script[3], "replace")


def _any(tag: int, who: Person, rng: Random, dataset: Dataset) -> None:
    vr = vr_of(tag)
    if vr == "SQ":
        item = Dataset()
        _like(item, dataset)
        put(item, 0x00100010, "PN", spellings(who)[4].encode())
        put(item, 0x00080104, "LO", f"of {who.words['family']}".encode())
        dataset[Tag(tag)] = pydicom.DataElement(Tag(tag), "SQ", Sequence([item]))
    else:
        put(dataset, tag, vr, value(vr, who, rng, little=dataset.original_encoding[1] is not False))


def _like(item: Dataset, dataset: Dataset) -> Dataset:
    """An item that is written as its dataset is read: bytes stay as they are."""
    item.set_original_encoding(*dataset.original_encoding)
    return item


def identity(file: FileDataset, who: Person, rng: Random) -> None:
    """The attributes that a header is known by, with the name in all groups of a foreign script."""
    name = "=".join((f"{who.words['family']}^{who.words['given']}^{who.words['middle']}", who.script[1], who.script[2])).rstrip("=")
    put(file, 0x00080005, "CS", who.script[0].encode())
    put(file, 0x00100010, "PN", name.encode(who.script[3]))
    put(file, 0x00100020, "LO", who.words["mrn"].encode())
    for tag, day in ((0x00100030, "birth"), (0x00080020, rng.choice(("study", "follow_up")))):
        put(file, tag, "DA", f"{who.days[day]:%Y%m%d}".encode())
    put(file, 0x00080022, "DA", f"{who.days['follow_up']:%Y%m%d}".encode())
    put(file, 0x00080023, "DA", f"{who.days['study']:%Y%m%d}".encode())
    put(file, 0x00080050, "SH", who.words["accession"].encode())
    if who.sparse:
        return
    put(file, 0x00101000, "LO", f"{who.words['other_id']}\\{who.words['serial']}".encode())
    put(file, 0x00102154, "SH", who.words["phone"].encode())
    put(file, 0x00101040, "LO", f"12 {who.words['street']} Street, {who.words['town']}".encode())
    put(file, 0x00080080, "LO", f"{who.words['institution']} Hospital".encode())
    put(file, 0x00080090, "PN", f"{who.words['physician']}^{who.words['given']}".encode())
    put(file, 0x00081070, "PN", who.words["operator"].encode())
    put(file, 0x00181000, "LO", who.words["serial"].encode())


def table_rows(file: FileDataset, who: Person, rng: Random) -> None:
    """Every attribute that PS3.15's table lists."""
    for row in profile.rows():
        tag = int(row.tag, 16) if "X" not in row.tag and row.tag != "PRIVATE" else 0
        if tag >> 16 >= 8 and tag not in STEERING:
            _any(tag, who, rng, file)


@cache
def _off_table() -> tuple[int, ...]:
    listed = {int(row.tag, 16) for row in profile.rows() if row.tag != "PRIVATE" and "X" not in row.tag}
    return tuple(
        tag for tag in DicomDictionary if tag not in listed and tag >> 16 >= 8 and tag >> 16 not in (0x7FE0, 0xFFFA, 0xFFFE)
        and tag & 0xFFFF and tag not in STEERING and tag >> 16 != 0x0004 and vr_of(tag) != "NONE"
        and tag >> 8 & 0xFF00 not in (0x5000, 0x6000)
    )  # fmt: skip


def off_table(file: FileDataset, who: Person, rng: Random) -> None:
    """Attributes that the table does not list, of every VR: a tenth of the dictionary, another tenth for each file."""
    for tag in rng.sample(_off_table(), 450):
        if tag >> 16 != 0x0028:
            _any(tag, who, rng, file)


def nested(file: FileDataset, who: Person, rng: Random) -> None:
    """Three and more items deep: listed, unlisted, private and unknown elements."""
    inner = _like(Dataset(), file)
    for tag in rng.sample(_off_table(), 60):
        _any(tag, who, rng, inner)
    for plant in (private, unknown, words):
        plant(inner, who, rng)
    for tag in (0x00400275, 0x0040A730, 0x00081140, 0x00409096, rng.choice((0x52009229, 0x00189346, 0x00082218))):
        outer = _like(Dataset(), file)
        put(outer, 0x00081030, "LO", who.words["family"].encode())
        put(outer, 0x0040A160, "UT", f"{who.words['family']} was seen".encode())
        put(outer, 0x00080005, "CS", who.words["family"].upper().encode())
        outer[Tag(tag)] = pydicom.DataElement(Tag(tag), "SQ", Sequence([inner]))
        inner = outer
    file[Tag(0x00540016)] = pydicom.DataElement(Tag(0x00540016), "SQ", Sequence([inner]))


def private(file: Dataset, who: Person, rng: Random) -> None:
    """Private blocks of known, unknown, missing and identifying creators; sequences, too, and bytes that hold them."""
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHL", 0x0010, 0x0010, 8) + f"{who.words['family']:8.8}".encode()
    sequence = item + struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    for number, creator in enumerate(("SIEMENS CSA HEADER", "GEMS_IDEN_01", "Philips Imaging DD 001", who.words["family"], "")):
        group = (0x0029, 0x0009, 0x2005, 0x0033, 0x0041)[number]
        if creator:
            put(file, group << 16 | 0x0010, "LO", creator.encode())
        for offset, vr in enumerate(("OB", "UN", "LO", "UT", "OW", "DA", "DS", "UI", "PN")):
            put(file, group << 16 | 0x1000 | offset, vr, f"{who.words['family']} {who.words['mrn']}".encode())
        put(file, group << 16 | 0x1020, "UN", sequence)
        inner = _like(Dataset(), file)
        put(inner, 0x00100010, "PN", who.words["family"].encode())
        file[Tag(group << 16 | 0x1021)] = pydicom.DataElement(Tag(group << 16 | 0x1021), "SQ", Sequence([inner]))
    for group in (0x0001, 0x0003, 0x0005, 0x0007, 0xFFFF):
        put(file, group << 16 | 0x1001, "LO", who.words["family"].encode())


def unknown(file: Dataset, who: Person, rng: Random) -> None:
    """Even groups that no dictionary knows, group lengths, retired groups and foreign VRs."""
    for number, tag in enumerate(
        (0x00110000, 0x00120FFF, 0x0018FFF1, 0x00FA0010, 0x30FE0001, 0x88880010, 0x00080000, 0x00280000, 0x4FFE0001)
    ):
        if not tag >> 16 & 1:
            vr = ("LO", "UN", "OB", "UT")[number % 4] if tag & 0xFFFF else "UL"
            put(file, tag, vr, f"{who.words['given']} {who.words['mrn']}".encode())
    for tag, vr in ((0x00181250, "UN"), (0x00180022, "OB"), (0x00180050, "LO"), (0x00180060, "UT"), (0x00189073, "LO"), (0x00181310, "LT"),
                    (0x00280008, "LO"), (0x00540011, "UT"), (0x00180023, "DA"), (0x00081140, "LO"), (0x0018A001, "OB")):  # fmt: skip
        if tag not in STEERING:
            put(file, tag, vr, f"{who.words['family']}^{who.words['given']}".encode())


def words(file: Dataset, who: Person, rng: Random) -> None:
    """Every spelling of every identifier, in text that the table does not list; split over values, and among technical words."""
    places = [tag for tag in _off_table() if vr_of(tag) in ("LO", "SH", "CS", "ST", "LT", "UT", "UC") and tag >> 16 != 0x0028]
    texts = spellings(who)
    for tag, text in zip(rng.sample(places, len(texts)), texts, strict=True):
        put(file, tag, vr_of(tag), text.encode(who.script[3], "replace"))
    family = who.words["family"].upper()
    put(file, 0x00080008, "CS", f"ORIGINAL\\PRIMARY\\{family}\\{family[:4]}".encode())
    put(file, 0x00180022, "CS", f"{family[:3]}\\{family[3:]}\\FS".encode())
    put(file, 0x00180020, "CS", f"SE\\{family[:2]}".encode())
    put(file, 0x00181210, "SH", f"B70f {who.words['mrn'][:6]}".encode())


def codes(file: Dataset, who: Person, rng: Random) -> None:
    """Code sequences whose code, scheme, version or meaning is an identifier."""
    for tag, scheme in (
        (0x00081032, "DCM"),
        (0x00540220, "SCT"),
        (0x00082218, who.words["family"]),
        (0x00540304, "99LOCAL"),
        (0x00409098, "UCUM"),
    ):
        item = _like(Dataset(), file)
        for place, text in ((0x00080100, who.words["mrn"]), (0x00080102, scheme), (0x00080103, who.words["family"]),
                            (0x00080104, f"{who.words['family']} type"), (0x00080119, who.words["other_id"]), 
                            (0x00080120, "urn:" + who.words["mrn"]),
                            (0x00080122, who.words["family"])):  # fmt: skip
            put(item, place, vr_of(place), text.encode())
        file[Tag(tag)] = pydicom.DataElement(Tag(tag), "SQ", Sequence([item]))


def class_uids(file: FileDataset, who: Person, rng: Random) -> None:
    """UIDs of classes, schemes and relations that are numbers of a patient."""
    for tag in (0x0008001A, 0x0008001B, 0x00080062, 0x0008010C, 0x0008010D, 0x00081150, 0x0040A124, 0x00020000 | 0x00083001):
        put(file, tag, "UI", f"1.2.840.10008.5.1.4.1.1.2\\{who.uid('class', 1)}".encode())


def groups(file: FileDataset, who: Person, rng: Random) -> None:
    """Curves and overlays: descriptions, comments, labels, dates and data."""
    for group in (0x5000, 0x5002, 0x501E):
        for number, vr in ((0x0005, "US"), (0x0020, "CS"), (0x0022, "LO"), (0x0030, "SH"), (0x2600, "SQ"), (0x3000, "OW"), (0x200C, "OW")):
            if vr != "SQ":
                put(file, group << 16 | number, vr, f"{who.words['family']} {who.words['mrn']}".encode())
    for group in (0x6002, 0x601E):
        for number, vr in ((0x0010, "US"), (0x0022, "LO"), (0x0040, "CS"), (0x1500, "LO"), (0x3000, "OW"), (0x4000, "LT")):
            put(file, group << 16 | number, vr, f"{who.words['family']} {who.words['mrn']}".encode())


def around(file: FileDataset, who: Person, rng: Random) -> None:
    """Preamble, file meta, padding of the dataset, and empty elements beside them."""
    text = f"{who.words['family']} {who.words['mrn']} {who.days['birth']:%Y%m%d}".encode()
    file.preamble = text.ljust(128, b"\0")[:128]
    for number, vr in (
        (0x0016, "AE"),
        (0x0017, "AE"),
        (0x0018, "AE"),
        (0x0013, "SH"),
        (0x0100, "UI"),
        (0x0102, "OB"),
        (0x0026, "UR"),
        (0x0031, "OB"),
    ):
        put(file.file_meta, 0x00020000 | number, vr, who.uid("meta").encode() if vr == "UI" else text[:16] if vr in ("AE", "SH") else text)
    put(file, 0xFFFCFFFC, "OB", text)
    for tag in (0x00181030, 0x00081030, 0x00180024, 0x00104000):
        if tag not in file:
            put(file, tag, "LO", b"")


def pixels(file: FileDataset, who: Person, rng: Random) -> None:
    """Behind the last native pixel, and in the comments, application data and tails of encoded frames; in an icon, too."""
    text = f"{who.words['family']} {who.words['mrn']}".encode()
    icon = _like(Dataset(), file)
    put(icon, 0x7FE00010, "OB", text)
    put(icon, 0x00280010, "US", struct.pack("<H", 4))
    file[Tag(0x00880200)] = pydicom.DataElement(Tag(0x00880200), "SQ", Sequence([icon]))
    if "PixelData" not in file:
        return
    element = file["PixelData"]
    if not file.file_meta.TransferSyntaxUID.is_encapsulated:
        put(file, 0x7FE00010, element.VR, bytes(element.value) + text + b" " * (len(text) % 2))
        return
    frames = int(file.get("NumberOfFrames", 1) or 1)
    fragments = list(generate_fragments(element.value))[1:]
    if len(fragments) == frames:
        element.value = encapsulate([_encoded(fragment, text) for fragment in fragments])


def _encoded(frame: bytes, text: bytes) -> bytes:
    if frame.startswith(b"\xff\xd8"):
        hidden = b"".join(struct.pack(">HH", marker, len(text) + 2) + text for marker in (0xFFFE, 0xFFE1, 0xFFED))
        frame = frame[:2] + hidden + frame[2:]
    elif frame.startswith(b"\xff\x4f\xff\x51"):
        size = 4 + struct.unpack(">H", frame[4:6])[0]
        frame = frame[:size] + struct.pack(">HHH", 0xFF64, len(text) + 4, 1) + text + frame[size:]
    frame += text
    return frame + b"\0" * (len(frame) % 2)


PLACES: tuple[Plant, ...] = (table_rows, off_table, unknown, words, nested, private, codes, class_uids, groups, around, pixels)


def plant(file: FileDataset, who: Person, number: int, rng: Random) -> FileDataset:
    """Make a file the person's, and plant identifiers in every kind of place."""
    for place in PLACES:
        if place is not table_rows or not who.sparse:
            place(file, who, rng)
    identity(file, who, rng)
    for tag, kind in ((0x00080018, "instance"), (0x0020000D, "study"), (0x0020000E, "series")):
        put(file, tag, "UI", who.uid(kind, number if kind == "instance" else 0).encode())
    return file


def write(file: FileDataset, path: Path) -> None:
    """Write a planted file with its preamble, file meta and bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    _as_read(file)
    file.save_as(path, enforce_file_format=True)


def _as_read(dataset: Dataset) -> None:
    """Have every level written in the bytes that it has: its character set says nothing about them."""
    dataset.set_original_encoding(*dataset.original_encoding, dataset._character_set)
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if not isinstance(element, RawDataElement) and element.VR == "SQ":
            for item in element.value:
                _as_read(item)
