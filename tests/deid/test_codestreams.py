"""Text hidden inside compressed frames is blanked, the image stays as it was, and what cannot be followed is decoded."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from builders_deid import CANARY, instance, with_pixels, written
from pydicom.encaps import encapsulate, generate_frames

from medpipe.deid import encapsulated, ocr, pixels
from medpipe.deid.codestreams import blanked
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

HIDDEN = f"{CANARY} was here".encode()
FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
JPEG, JLS, J2K, RLE = "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"


def opened(name: str) -> tuple[pydicom.FileDataset, bytes, int]:
    file = pydicom.dcmread(FOLDER / name)
    return file, next(generate_frames(file.PixelData, number_of_frames=1)), file.Rows * file.Columns


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def planted(name: str) -> dict[str, bytes]:
    """The frame of a file with the hidden text in each place that its syntax has."""
    _, frame, _ = opened(name)
    padded = HIDDEN + b"\0" * (len(HIDDEN) % 2)
    if name == RLE:
        header = bytearray(frame)
        header[64 - 16 : 64] = HIDDEN[:16]
        return {"header": bytes(header), "behind": frame + padded}
    if name == J2K:
        main = 4 + int.from_bytes(frame[4:6], "big")
        return {"comment": frame[:main] + segment(0x64, b"\0\1" + HIDDEN) + frame[main:], "behind": frame + padded}
    places = {f"APP{number}": frame[:2] + segment(0xE0 + number, HIDDEN) + frame[2:] for number in range(16)}
    at = frame.rindex(b"\xff\xd9")
    return places | {
        "COM": frame[:2] + segment(0xFE, HIDDEN) + frame[2:],
        "COM behind the scan": frame[:at] + segment(0xFE, HIDDEN) + frame[at:],
        "thumbnail": frame[:2] + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\4\4" + HIDDEN * 3) + frame[2:],
        "behind": frame + padded,
    }


@pytest.mark.parametrize("name", [JPEG, JLS, J2K, RLE])
def test_text_beside_the_image_is_blanked_and_the_image_is_the_same(name: str) -> None:
    for place, frame in planted(name).items():
        file, _, size = opened(name)
        before = file.pixel_array.copy()
        result = blanked(frame, file.file_meta.TransferSyntaxUID, size)
        assert result is not None, place
        assert HIDDEN[:8] not in result, place
        file.PixelData = encapsulate([frame])
        file["PixelData"].is_undefined_length = True
        counts: Counter[str] = Counter()
        assert encapsulated.blank(file, counts), place
        assert counts["frames blanked beside the image"] == 1
        assert HIDDEN[:8] not in file.PixelData, place
        assert np.array_equal(file.pixel_array, before), place


@pytest.mark.parametrize(
    "name", [JPEG, JLS, J2K, RLE, "JPEG2000.dcm", "SC_rgb_jls_lossy_line.dcm", "rtdose_rle.dcm", "SC_rgb_jpeg_app14_dcmd.dcm"]
)
def test_frames_with_nothing_to_blank_keep_their_bytes(name: str) -> None:
    file = pydicom.dcmread(FOLDER / name)
    before, counts = file.PixelData, Counter[str]()
    assert encapsulated.blank(file, counts)
    assert file.PixelData == before
    assert not counts


def framed(name: str, **changes: Any) -> pydicom.FileDataset:
    """A file whose encapsulation is made anew: `table` as offsets, `fragments` behind the frame, `lengths` as extended offsets."""
    file, frame, _ = opened(name)
    table, extra = changes.get("table", b""), changes.get("fragments", [])
    parts = [table, frame + b"\0" * (len(frame) % 2), *extra]
    file.PixelData = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in parts)
    file["PixelData"].is_undefined_length = True
    for tag, value in changes.get("extended", {}).items():
        file.add_new(tag, "OV", value)
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {"table": HIDDEN[:16]},
        {"fragments": [HIDDEN + b"\0" * (len(HIDDEN) % 2)]},
        {"extended": {0x7FE00001: HIDDEN[:16], 0x7FE00002: HIDDEN[:16]}},
        {"table": struct.pack("<I", 0), "fragments": [HIDDEN + b"\0" * (len(HIDDEN) % 2)]},
    ],
)
def test_offsets_and_fragments_that_belong_to_no_frame_go(changes: dict[str, Any]) -> None:
    file = framed(JLS, **changes)
    assert encapsulated.blank(file, Counter())
    assert HIDDEN[:8] not in bytes(file.PixelData)
    assert 0x7FE00001 not in file
    assert np.array_equal(file.pixel_array, pydicom.dcmread(FOLDER / JLS).pixel_array)


def test_right_extended_offsets_stay() -> None:
    _, frame, _ = opened(JLS)
    file = framed(JLS, extended={0x7FE00001: struct.pack("<Q", 0), 0x7FE00002: struct.pack("<Q", len(frame))})
    assert encapsulated.blank(file, Counter())
    assert 0x7FE00001 in file


def test_what_cannot_be_followed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = pydicom.dcmread(FOLDER / "GDCMJ2K_TextGBR.dcm")  # boxes around the codestream
    monkeypatch.setattr(ocr, "lines", lambda *_, **__: [])
    before, counts = file.pixel_array.copy(), Counter[str]()
    assert pixels.clean(file, DeidSettings(), counts) is None
    assert not file.file_meta.TransferSyntaxUID.is_encapsulated
    assert counts["frames decoded"] == 1
    assert np.array_equal(file.pixel_array, before)


@pytest.mark.parametrize(
    "frame", [b"", b"\xff\xd8", b"\xff\xd8\xff\xfe\xff\xff", b"no image", b"\xff\x4f\xff\x51\xff\xff", b"\1\0\0\0" + bytes(60)]
)
def test_broken_frames_are_not_followed(frame: bytes) -> None:
    for name in (JPEG, JLS, J2K, RLE):
        assert blanked(frame, pydicom.dcmread(FOLDER / name, stop_before_pixels=True).file_meta.TransferSyntaxUID, 4096) is None


def test_a_one_bit_picture_of_text_is_blacked_out() -> None:
    bits = (written(["MILLER, ANNA", "MRN 4820193"]) > 230).astype(np.uint8)
    file = with_pixels(instance(), bits)
    file.BitsAllocated = file.BitsStored = 1
    file.HighBit = 0
    file.PixelData = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    counts: Counter[str] = Counter()
    assert pixels.clean(file, DeidSettings(), counts) is None
    assert counts["frames blacked out"] == 1
    assert file.pixel_array[8:40].sum() < bits[8:40].sum() / 5


def test_a_segmentation_of_text_is_refused_and_one_of_an_organ_is_not() -> None:
    text = (written(["MILLER, ANNA", "MRN 4820193"]) > 230).astype(np.uint8)
    rows, columns = np.mgrid[:256, :256]
    organ = ((rows - 130) ** 2 / 4 + (columns - 90) ** 2 < 40**2).astype(np.uint8)
    for bits, reason in ((text, Reason.BURNED_IN_TEXT), (organ, None)):
        file = with_pixels(instance(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), bits)
        file.BitsAllocated = file.BitsStored = 1
        file.PixelData = before = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
        assert pixels.clean(file, DeidSettings(), Counter()) == reason
        assert file.PixelData == before


def test_padding_behind_floating_point_pixels_is_cut_and_two_kinds_of_pixels_are_refused() -> None:
    file = instance()
    del file.PixelData
    values = np.linspace(0, 1, 48 * 48, dtype="<f4").tobytes()
    file.add_new(0x7FE00008, "OF", values + HIDDEN.ljust(16, b"\0"))
    file.BitsAllocated = 32
    assert pixels.clean(file, DeidSettings(), Counter()) is None
    assert file.FloatPixelData == values
    file.PixelData = values
    assert pixels.clean(file, DeidSettings(), Counter()) == Reason.UNDECODABLE
