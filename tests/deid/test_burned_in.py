"""Burned-in text: what stays, what must go, and that no frame is looked at twice and none that could hold text is skipped."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from builders_deid import instance, with_pixels, written
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medpipe.deid import burned_in, ocr, pixels
from medpipe.deid.burned_in import Search, must_go
from medpipe.deid.ocr import Line
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def read(text: str, left: int = 0, wide: int | None = None, *, top: int = 0, sure: float = 0.9, found: float = 0.9) -> Line:
    return Line(top, top + 12, left, left + (wide or 8 * len(text)), text, found, sure)


def texts(line: str, image: NDArray[np.uint8], place: tuple[int, int], pixels: int = 14, fill: int = 255) -> NDArray[np.uint8]:
    """A copy of an image with one line of text at (left, top)."""
    drawing = Image.fromarray(image)
    ImageDraw.Draw(drawing).text(place, line, fill=fill, font=ImageFont.load_default(pixels))
    return np.asarray(drawing)


@pytest.mark.parametrize(
    ("text", "stays"),
    [("L", True), ("R MLO", True), ("LMLO", True), ("120 kVp", True), ("5mm", True), ("AP PORTABLE", True), ("80 kV 5 mAs", True),
     ("80 kV5 mAs", True), ("MI 1.1", True), ("TIS<0.4 MI 0.8", True), ("SMITH", False), ("L SMITH", False), ("1234", False),
     ("12.03.2017", False), ("MI 12.03.2017", False), ("MI 1.1.1950", False), ("5 mmSMITH", False), ("AB120 kV", False)],
)  # fmt: skip
def test_the_allow_list_of_burned_in_text(text: str, stays: bool) -> None:
    assert burned_in.allowed(text) is stays


def test_a_line_goes_in_one_piece_and_a_mark_beside_nothing_stays() -> None:
    together = must_go([read("SMITH", 0, 40), read("J", 46, 8), read("L", 200, 8)])
    assert [(line.left, line.right) for line in together] == [(0, 54)]
    assert must_go([read("5", 0, 8), read("mm", 12, 16)]) == []
    assert len(must_go([read(letter, 14 * place, 8) for place, letter in enumerate("MILLER")])) == 1
    assert must_go([read(letter, 14 * place, 8, top=40 * place) for place, letter in enumerate("LRLR")]) == []


def test_doubt_counts_where_text_is_to_be_expected() -> None:
    unread, faint = read("", wide=16, sure=0.0), read("SMITH", found=0.4)
    everywhere = np.ones((20, 60), bool)
    for line in (unread, faint):
        assert must_go([line]) == []
        assert len(must_go([line], everywhere)) == 1
        assert must_go([line], ~everywhere) == []


@pytest.mark.parametrize(
    ("name", "low", "place"),
    [("at the upper edge", 0, (3, -3)), ("at the lower edge", 0, (140, 245)), ("faint", 40, (60, 130))],
)
def test_lines_at_the_edge_and_faint_lines_are_found(name: str, low: int, place: tuple[int, int]) -> None:
    ground = written([])
    at = ground[max(0, place[1]) : place[1] + 14, place[0] : place[0] + 90]
    image = texts("HADDAD, LEILA", ground, place, fill=int(at.mean()) + low if low else 255)
    (line,) = Search().frame(image, image)
    rows, columns = burned_in.covering(line, image.shape)
    changed = image != ground
    assert changed[rows, columns].sum() >= 0.9 * changed.sum(), name


def test_text_that_only_colour_tells_apart_is_found() -> None:
    image = np.zeros((200, 320, 3), np.uint8)
    image[..., 0] = 110  # red and green of one grey
    ink = texts("COHEN, PAVEL", np.zeros((200, 320), np.uint8), (30, 80), 16)
    image[..., 0] -= (ink.astype(int) * 110 // 255).astype(np.uint8)
    image[..., 1] = ink.astype(int) * 56 // 255
    assert Search().frame(image, image)
    blue = np.zeros((200, 320, 3), np.uint8)
    blue[..., 2] = ink
    assert Search().frame(blue, blue)


def test_text_beside_an_implant_is_found_in_wide_pixels() -> None:
    file = instance(BitsAllocated=16, BitsStored=16, HighBit=15, Rows=256, Columns=256)
    values = (
        np.random.default_rng(0).normal(1000, 4, (256, 256)) + texts("HADDAD, LEILA", np.zeros((256, 256), np.uint8), (40, 60))
    ).astype("<u2")
    values[200:230, 100:130] = 60000
    file.PixelData = values.tobytes()
    counts: Counter[str] = Counter()
    assert pixels.clean(file, DeidSettings(), counts) is None
    assert counts["frames blacked out"] == 1


def clip(frames: list[NDArray[np.uint8]]) -> pydicom.FileDataset:
    file = with_pixels(instance(NumberOfFrames=len(frames)), frames[0])
    file.PixelData = np.stack(frames).tobytes()
    return file


def moving(number: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A frame of a clip: speckle in a sector that changes, black around it."""
    image = np.zeros((256, 384), np.uint8)
    image[96:192, 128:256] = rng.integers(20, 90, (96, 128)) + number
    return image


def test_a_static_overlay_is_read_once_and_text_that_appears_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    frames = [texts("HADDAD, LEILA", moving(number, rng), (8, 8)) for number in range(4)]
    frames[2] = texts("10.03.2015", frames[2], (280, 230))
    seen: list[tuple[int, ...]] = []
    looked = ocr.lines

    def noted(image: NDArray[np.uint8], *more: Any, **named: Any) -> list[Line]:
        seen.append(image.shape[:2])
        return looked(image, *more, **named)

    monkeypatch.setattr(ocr, "lines", noted)
    search = Search()
    found = [search.frame(frame, frame) for frame in frames]
    assert [len(lines) for lines in found] == [1, 1, 2, 1]
    assert [lines[0].text for lines in found] == [found[0][0].text] * 4
    assert max(rows * columns for rows, columns in seen[2:]) <= 160 * 192 + 64 * 256
    file = clip(frames)
    counts: Counter[str] = Counter()
    assert pixels.clean(file, DeidSettings(), counts) is None
    assert counts["text regions blacked out"] == 5
    out = file.pixel_array
    assert not out[:, :30, :120].any()
    assert not out[2, 225:, 280:].any()
    assert np.array_equal(out[:, 96:192, 128:256], np.stack(frames)[:, 96:192, 128:256])


def test_text_that_replaces_text_is_found() -> None:
    ground = written([])
    search = Search()
    for name in ("MILLER, ANNA", "COHEN, PAVEL", "HADDAD, LEILA"):
        image = texts(name, ground, (20, 100))
        assert [line.text.replace(" ", "") for line in search.frame(image, image)] == [name.replace(" ", "")]
    assert search.frame(ground, ground) == []


def masks(frames: list[NDArray[np.uint8]]) -> pydicom.FileDataset:
    file = with_pixels(instance(SOPClassUID=SEGMENTATION, NumberOfFrames=len(frames)), frames[0])
    file.BitsAllocated = file.BitsStored = 1
    file.HighBit = 0
    file.PixelData = np.packbits(np.stack(frames).reshape(-1), bitorder="little").tobytes()
    return file


def organ(number: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:256, :256]
    return np.asarray((((rows - 120) / 1.5) ** 2 + (columns - 100) ** 2) < (10 + number) ** 2, dtype=np.uint8)


def test_only_the_surroundings_of_a_mask_are_looked_at_and_text_in_one_frame_is_found() -> None:
    frames = [organ(number) for number in range(4)]
    search = Search(evened=False)
    assert not any(search.frame(frame, frame * np.uint8(255)) for frame in frames)
    assert search.looked_at < 0.4 * len(frames) * 256 * 256
    for place in ((20, 220), (80, 112)):  # far from the organ, and cut out of it
        frames = [organ(number + 30) for number in range(3)]
        ink = texts("MILLER, ANNA", np.zeros((256, 256), np.uint8), place) > 128
        frames[1] = np.where(ink, 1 - frames[1], frames[1])
        assert pixels.clean(masks(frames), DeidSettings(), Counter()) == Reason.BURNED_IN_TEXT


def test_where_the_header_lets_text_be_expected() -> None:
    file, shape = instance(), (100, 200)
    assert pixels.expected(file, shape) is None
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 50, 20, 149, 89
    file.SequenceOfUltrasoundRegions = Sequence([region])
    mask = pixels.expected(file, shape)
    assert mask is not None
    assert mask.sum() == 100 * 200 - 70 * 100
    assert not mask[20:90, 50:150].any()
    region.RegionLocationMinX0 = None
    assert pixels.expected(file, shape) is None
    file.ConversionType = "DF"
    mask = pixels.expected(file, shape)
    assert mask is not None
    assert mask.all()


def test_a_real_clip_is_not_looked_at_where_it_stands_still() -> None:
    file = pydicom.dcmread(BUNDLED / "examples_ybr_color.dcm")
    search = Search(pixels.expected(file, (file.Rows, file.Columns)), burned_in.STEP)
    for frame in islice(pixels.frames(file), 2):
        assert len(search.frame(frame, *pixels.shown(frame, file))) >= 6
    assert search.looked_at < 1.95 * file.Rows * file.Columns


def test_a_difference_that_adds_up_over_the_frames_is_looked_at() -> None:
    ground = written([])
    ink = texts("MILLER, ANNA", np.zeros_like(ground), (20, 100)) > 128
    search = Search(step=burned_in.STEP)
    found = [bool(search.frame(frame, frame)) for frame in (np.where(ink, ground + 3 * number, ground) for number in (0, 1, 2, 12, 24))]
    assert not found[0]
    assert found[-1]
