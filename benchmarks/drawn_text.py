"""Lines of text drawn onto real images that show none: who, when and what, as scanners and film printers burn them in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib
import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medpipe.deid import pixels
from medpipe.deid.reading import quiet

Pixels = NDArray[np.uint8]
"""(H, W) grey or (H, W, 3) colour."""
Box = tuple[int, int, int, int]
"""Top, bottom, left and right in pixels, ends exclusive."""
Contrast = Literal["low", "middle", "full"]
SIZES = (10, 14, 20, 28)
"""Heights of a font in pixels."""
LEVELS: dict[Contrast, tuple[int, int]] = {"low": (36, 60), "middle": (80, 120), "full": (256, 257)}
"""Pixels levels (of 256) between the text and the mean of what it lies on; full is white on dark and black on light."""
TINTS = ((1, 1, 1), (1, 1, 0.2), (0.2, 1, 1), (0.3, 1, 0.3))
"""White, yellow, cyan and green, on colour images."""
FACES = ("built-in", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral", "bitmap", "stroke")
_BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
_DICOM: tuple[tuple[str, str, tuple[int, int, int, int] | None], ...] = (
    ("CT", "693_J2KI.dcm", None),
    ("CT", "CT_small.dcm", None),
    ("MR", "examples_overlay.dcm", None),
    ("NM", "JPEG2000.dcm", None),
    ("PT", "dicom/presidio/RGB_ORIGINAL.dcm", None),
    ("CT", "dicom/presidio/2_ORIGINAL.dicom", (60, 552, 0, 394)),
    ("CR", "dicom/presidio/0_ORIGINAL_compressed.dcm", (240, 1500, 60, 2060)),
    ("MR", "dicom/dicom2nifti/generic/rgb/001/IM-0001-0001-0001.dcm", None),
    ("XC", "dicom/deid_data/dicom-cookies/image1.dcm", None),
    ("US", "examples_ybr_color.dcm", (22, 190, 40, 285)),
    ("US, colour", "examples_rgb_color.dcm", (75, 145, 20, 300)),
    ("US", "examples_palette.dcm", (70, 350, 260, 690)),
    ("US", "dicom/deid_data/ultrasounds/GREYSCALE_IMAGE.dcm", (60, 690, 130, 890)),
    ("US", "dicom/deid_data/ultrasounds/RGB_IMAGE.dcm", (70, 690, 60, 840)),
)
"""Modality, file and, where text stands beside it, the part that shows none (looked at, 2026-11-24)."""
_RADIOGRAPHS = (10, 11, 20, 30, 31, 33, 35, 39, 40, 41, 42, 47, 48, 53, 79, 80, 81, 88, 89)
"""Numbers in `covid_cxr` of those without any letter."""
_TUMOURS = (5, 400, 800, 1300, 1700, 2200, 2600, 3000)
_VOLUMES = (("mni152_t1_template", 100), ("nibabel_someones_anatomy", 28), ("torchio_fernando_t2", 12), ("niivue_MR_Gd", 80))


@dataclass(frozen=True)
class Line:
    """A line as it was drawn: the box of its ink, and what makes it hard to find."""

    text: str
    box: Box
    size: int
    contrast: Contrast
    face: str
    technical: bool
    """It names nobody and should stay."""


def data() -> Path:
    """Return the folder of real data."""
    return Path(os.environ.get("MEDPIPE_DATA", Path(__file__).parents[2] / "shared" / "data"))


@lru_cache
def clean_images() -> tuple[tuple[str, Pixels], ...]:
    """Return (modality, image (H, W) or (H, W, 3)) of every real image, or part of one, that shows no text."""
    out: list[tuple[str, Pixels]] = []
    with quiet():
        for modality, name, part in _DICOM:
            file = pydicom.dcmread((data() / name) if "/" in name else _BUNDLED / name)
            image, _ = pixels.shown(next(iter(pixels.frames(file))), file)
            if part is not None:
                top, bottom, left, right = part
                image = image[top:bottom, left:right]
            if image.ndim == 3 and modality != "US, colour":
                image = image.max(-1)
            out.append((modality, image))
    for number in _RADIOGRAPHS:
        out.append(("CR", np.asarray(Image.open(data() / "covid_cxr" / "png512" / f"cxr_{number:03d}.png").convert("L"))))
    with np.load(data() / "brain_tumor_mri" / "brain_tumor_128.npz") as file:
        out += [("MR", file["images"][number]) for number in _TUMOURS]
    for name, at in _VOLUMES:
        volume = np.asarray(nibabel.load(data() / "nifti" / f"{name}.nii.gz").dataobj, np.float32).squeeze()
        image = np.rot90(volume[..., min(at, volume.shape[2] - 1)])
        out.append(("MR", (255 * (image - image.min()) / max(float(np.ptp(image)), 1e-6)).astype(np.uint8)))
    return tuple(out)


def _phrase(rng: np.random.Generator) -> tuple[str, bool]:
    """Return a line of text, and whether it names nobody."""

    def one(*choices: str) -> str:
        return str(rng.choice(np.array(choices)))

    def word() -> str:
        syllables = (
            "ba",
            "kor",
            "le",
            "sta",
            "mi",
            "ran",
            "do",
            "vic",
            "hu",
            "sen",
            "quel",
            "to",
            "fri",
            "ya",
            "wes",
            "pol",
            "gar",
            "zu",
            "ni",
            "eth",
        )
        name = "".join(rng.choice(np.array(syllables), int(rng.integers(2, 4)))).capitalize()
        return name.upper() if shout else name

    shout = rng.random() < 0.5
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(1925, 2026))
    number = int(rng.integers(10**5, 10**8))
    date = one(f"{day:02d}.{month:02d}.{year}", f"{month}/{day}/{year}", f"{year}-{month:02d}-{day:02d}", f"{year}{month:02d}{day:02d}")
    match int(rng.integers(0, 12)):
        case 0 | 1:
            return f"{word()}, {word()}", False
        case 2:
            return f"{word()} {word()}", False
        case 3:
            return f"{word()}^{word()} {one('M', 'F')}", False
        case 4:
            return date, False
        case 5:
            return f"{one('DOB:', 'Geb.', '*', 'Acq:')} {date}", False
        case 6:
            return f"{one('ID', 'MRN', 'Acc', 'Pat-Nr.')} {number}", False
        case 7:
            return f"{one('H', 'K', 'A-')}{number}", False
        case 8:
            return f"{date} {int(rng.integers(0, 24)):02d}:{int(rng.integers(0, 60)):02d}", False
        case 9:
            return f"{one('L MLO', 'PORTABLE', '120 kVp', 'Se 3')} {word()} {date}", False
        case 10:
            return f"{one('St. ', 'Klinik ', 'Hospital ')}{word()}", False
        case _:
            return one("L MLO", "R CC", "PORTABLE", "120 kVp", "5 mm", "AP SUPINE", "MI 1.1", "80 kV 5 mAs"), True


def _mask(text: str, face: str, size: int) -> NDArray[np.float32]:
    """Return the ink of a line (H, W), 0 to 1, cut to its box."""
    if face == "stroke":
        import cv2  # comes with rapidocr-onnxruntime; needs libGL

        scale = size / 30
        (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        canvas = np.zeros((high + below + 8, wide + 8), np.uint8)
        cv2.putText(canvas, text, (4, high + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA if size > 14 else cv2.LINE_8)
        ink = canvas
    else:
        if face == "bitmap":
            font: ImageFont.ImageFont | ImageFont.FreeTypeFont = ImageFont.load_default_imagefont()
        elif face == "built-in":
            font = ImageFont.load_default(size)
        else:
            font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf", size)
        left, top, right, bottom = (int(value) for value in font.getbbox(text))
        image = Image.new("L", (right - min(0, left) + 8, bottom - min(0, top) + 8))
        ImageDraw.Draw(image).text((4 - min(0, left), 4 - min(0, top)), text, fill=255, font=font)
        ink = np.asarray(image)
        if face == "bitmap" and size > 14:  # it has one size: every pixel twice
            ink = ink.repeat(2, 0).repeat(2, 1)
    rows, columns = np.flatnonzero(ink.max(1) > 60), np.flatnonzero(ink.max(0) > 60)
    return np.asarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 255, np.float32)


def drawn(image: Pixels, rng: np.random.Generator, count: int = 4) -> tuple[Pixels, list[Line]]:
    """Draw up to `count` lines that do not touch onto an image; return the image and the lines."""
    out, taken, lines = image.copy(), np.zeros(image.shape[:2], bool), list[Line]()
    for _ in range(30 * count):
        if len(lines) == count:
            break
        text, technical = _phrase(rng)
        size, face = int(rng.choice(SIZES)), str(rng.choice(np.array(FACES)))
        contrast: Contrast = rng.choice(np.array(list(LEVELS)))
        ink = _mask(text, face, size)
        high, wide = ink.shape
        room = image.shape[0] - high, image.shape[1] - wide
        if min(room) < 0:
            continue
        top, left = int(rng.integers(0, room[0] + 1)), int(rng.integers(0, room[1] + 1))
        if rng.random() < 0.4:  # at an edge, up to touching it
            top = min(int(rng.integers(0, 5)), room[0]) if rng.random() < 0.5 else max(0, room[0] - int(rng.integers(0, 5)))
        if rng.random() < 0.4:
            left = min(int(rng.integers(0, 5)), room[1]) if rng.random() < 0.5 else max(0, room[1] - int(rng.integers(0, 5)))
        around = slice(max(0, top - 8), top + high + 8), slice(max(0, left - 8), left + wide + 8)
        if taken[around].any():
            continue
        if not _draw(out, ink, top, left, contrast, rng):
            continue
        taken[around] = True
        lines.append(Line(text, (top, top + high, left, left + wide), size, contrast, face, technical))
    return out, lines


def _draw(out: Pixels, ink: NDArray[np.float32], top: int, left: int, contrast: Contrast, rng: np.random.Generator) -> bool:
    """Blend ink into an image; False, and nothing drawn, where nobody could read it: less than twice what varies under it."""
    place = slice(top, top + ink.shape[0]), slice(left, left + ink.shape[1])
    under = out[place].astype(np.float32)
    seen = under.max(-1) if under.ndim == 3 else under
    style = rng.choice(np.array(["plain", "box", "shadow"]), p=[0.6, 0.2, 0.2])
    level, step = float(seen.mean()), float(rng.integers(*LEVELS[contrast]))
    sign = 1 if level + min(step, 200) <= 255 and (level < 128 or level - step < 0) else -1
    value = float(np.clip(level + sign * step, 0, 255))
    varies = 0.0 if style == "box" else float(seen.std())
    if abs(value - level) < max(LEVELS["low"][0], 2 * varies):
        return False
    if out.ndim == 3:
        ink = ink[..., None]
    tint = np.array(rng.choice(np.array(TINTS), axis=0) if out.ndim == 3 and sign > 0 else 1.0, np.float32)
    if style == "box":
        frame = slice(max(0, top - 2), top + ink.shape[0] + 2), slice(max(0, left - 2), left + ink.shape[1] + 2)
        out[frame] = np.uint8(level)
        under = out[place].astype(np.float32)
    if style == "shadow":
        dark = 0.7 * np.roll(ink, (1, 1), (0, 1))
        dark[0], dark[:, 0] = 0, 0
        under = under * (1 - dark) + (0.0 if sign > 0 else 255.0) * dark
    out[place] = (under * (1 - ink) + value * tint * ink).clip(0, 255).astype(np.uint8)
    return True
