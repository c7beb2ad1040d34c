"""Pixels of the phantom hospital: from an image's plan to a chest radiograph with the truth about its lesion.

`render` is pure: the same plan gives the same pixels. About 10 ms for 256 × 256 on one core.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from medpipe.seeds import generator
from medpipe.sources import phantom_anatomy as anatomy
from medpipe.sources.phantom_truth import ImagePlan

F = np.float32
Rectangle = tuple[int, int, int, int]
"""(first row, first column, row after the last, column after the last)."""
TEXT_PX = 12
MARK_PX = 20
MARGIN = 6
OUTLINE = 1


def render(image: ImagePlan) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.bool_]]:
    """Return (pixels, lesion mask), both (rows, columns) as displayed (bone bright).

    Pixels are uint8, or uint16 with 12 bits used, as the scanner stores. Text and side mark are in the pixels; the mask is
    False everywhere on a normal image.
    """
    rng = generator(image.seed, "render")
    scanner, pose = image.scanner, image.pose
    at = anatomy.chest(image)
    bone = anatomy.bones(image, at, rng)
    soft = anatomy.soft(image, at, rng)
    added, mask = anatomy.lesion(image, at, generator(image.seed, "lesion"))  # its own: without it, the rest stays the same
    tree = anatomy.vessels(image, rng)
    air = at.lung * (1 - added)  # a lesion replaces air: an effusion melts into the diaphragm
    inside = at.depth > 0
    met = at.depth * F(1.12 + 1.1 * image.body.fat) + F(0.27) * bone + soft - F(0.86) * air
    met += air * (F(0.30) * tree + F(0.035) * _cloud(rng, 64) + F(0.04))
    met += F(0.045) * _cloud(rng, 9) * at.depth
    met *= inside
    seen = _detector(image, np.asarray(_placed(image, np.maximum(met, F(0)), Image.Resampling.BICUBIC), F), rng)
    mask = np.asarray(_placed(image, mask.astype(np.uint8), Image.Resampling.NEAREST), np.bool_)
    seen = _hardware(image, seen, rng)
    left, right, top, bottom = pose.collimation
    rows, columns = seen.shape
    shutter = np.zeros(seen.shape, np.bool_)
    shutter[round(top * rows) : rows - round(bottom * rows), round(left * rows) : columns - round(right * rows)] = True
    seen = np.where(shutter, seen, F(0.015))
    seen = _written(image, seen)
    top_value = 2**scanner.bits - 1
    stored = np.rint(np.clip(seen, 0, 1) * top_value).astype(np.uint16 if scanner.bits > 8 else np.uint8)
    return stored, mask & shutter


def _placed(image: ImagePlan, drawn: NDArray[np.generic], resampling: Image.Resampling) -> NDArray[np.generic]:
    """Turn, scale and shift the upright frame onto the detector."""
    pose, rows, columns = image.pose, image.scanner.rows, image.scanner.columns
    dot = anatomy.SIDE / anatomy.SPAN / rows
    c, s = dot * np.cos(pose.turn) / pose.zoom, dot * np.sin(pose.turn) / pose.zoom
    dx, dy = columns / 2 + pose.x * rows, rows / 2 + pose.y * rows
    middle = anatomy.SIDE / 2
    matrix = (c, s, middle - c * dx - s * dy, -s, c, middle + s * dx - c * dy)
    return np.asarray(Image.fromarray(drawn).transform((columns, rows), Image.Transform.AFFINE, matrix, resampling))


def _detector(image: ImagePlan, met: anatomy.Field, rng: np.random.Generator) -> anatomy.Field:
    """From thickness to display values: exposure, blur, noise (more where few quanta arrive), edge enhancement, curve."""
    scanner = image.scanner
    seen = 1 - np.exp(F(-1.15) * met * F(1 + image.pose.exposure))
    grain = rng.standard_normal(seen.shape, dtype=F)
    seen = _blur(seen + F(2 * scanner.noise) * (F(0.45) + seen) * grain, scanner.blur_px)
    seen = seen + F(scanner.edge) * (seen - _wide(seen, 4)) + F(0.32) * (seen - _wide(seen, 28))  # as digital radiography flattens
    lung, heart = np.percentile(seen[::4, ::4], 12), np.percentile(seen[::4, ::4], 96)
    seen = (seen - F(min(lung, 0.12))) / F(max(heart - min(lung, 0.12), 0.2)) * F(0.88)
    curve = scanner.contrast * (1 + 0.8 * image.pose.exposure)
    return np.asarray(np.clip(seen, 0, 0.965) ** F(curve), F)


def _blur(field: anatomy.Field, sigma: float) -> anatomy.Field:
    reach = max(1, round(2.5 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(F)
    rows, columns = field.shape
    padded = np.pad(field, ((reach, reach), (0, 0)), mode="edge")
    down = sum(weight * padded[k : k + rows] for k, weight in enumerate(weights))
    padded = np.pad(np.asarray(down), ((0, 0), (reach, reach)), mode="edge")
    return np.asarray(sum(weight * padded[:, k : k + columns] for k, weight in enumerate(weights)), F)


def _wide(field: anatomy.Field, width: int) -> anatomy.Field:
    """Blur by making the image `width` times smaller and large again."""
    image = Image.fromarray(field)
    return np.asarray(image.reduce(width).resize(image.size, Image.Resampling.BICUBIC), F)


def _cloud(rng: np.random.Generator, grid: int) -> anatomy.Field:
    """Smooth random field of about unit spread: a random grid made larger."""
    seeds = Image.fromarray(rng.standard_normal((grid, grid), dtype=F))
    return np.asarray(seeds.resize((anatomy.SIDE, anatomy.SIDE), Image.Resampling.BICUBIC), F)


def _hardware(image: ImagePlan, seen: anatomy.Field, rng: np.random.Generator) -> anatomy.Field:
    """Pacemaker, and at the bedside electrodes with their cables: what a patient carries."""
    if not (image.body.pacemaker or image.pose.mobile):
        return seen
    rows, columns = seen.shape
    canvas = Image.new("L", (columns * 2, rows * 2))  # drawn at twice the size: smooth edges
    draw = ImageDraw.Draw(canvas)

    def place(x: float, y: float) -> tuple[float, float]:
        row, column = anatomy.to_pixels(image, np.asarray(x), np.asarray(y))
        return 2 * float(column) + 1, 2 * float(row) + 1

    body = image.body
    if body.pacemaker:
        x, y = place(body.width * 0.62, body.apex + 0.13)
        draw.rounded_rectangle((x - 24, y - 20, x + 24, y + 20), 12, fill=225)
        lead = [(0.5, 0.15), (0.25, 0.10), (0.02, 0.17), (-0.05, 0.34), (-0.04, 0.46), (0.08, 0.56), (0.16, 0.565)]
        draw.line(
            [place(a * body.width / 0.37 if k < 2 else a, body.apex + b) for k, (a, b) in enumerate(lead)], fill=190, width=3, joint="curve"
        )
    if image.pose.mobile:
        for a, b in ((-0.24, 0.16), (0.25, 0.15), (-0.26, 0.52), (0.27, 0.5))[: int(rng.integers(2, 5))]:
            a, b = a + rng.normal(0, 0.02), b + rng.normal(0, 0.02)
            x, y = place(a, body.apex + b)
            draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=200)
            bend = rng.normal(0, 0.04)
            draw.line([(x, y), place(a * 0.8 + bend, body.apex + b + 0.12), place(a * 0.9 - bend, 1.02)], fill=95, width=2, joint="curve")
    drawn = np.asarray(canvas.resize((columns, rows), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.4)), F) / 255
    return np.maximum(seen, seen * (1 - drawn) + F(0.93) * drawn)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the typeface that Pillow carries: the same on every machine."""
    return ImageFont.load_default(size)


def _extent(line: str) -> tuple[int, int, int, int]:
    """Return what a line of text covers around the point it is drawn at, outline included: left, top, right, bottom."""
    left, top, right, bottom = font(TEXT_PX).getbbox(line)
    return int(np.floor(left)) - OUTLINE, int(np.floor(top)) - OUTLINE, int(np.ceil(right)) + OUTLINE, int(np.ceil(bottom)) + OUTLINE


def burned_in_boxes(image: ImagePlan) -> list[Rectangle]:
    """Return the rectangle of each line of identifying text in the pixels."""
    scanner, step = image.scanner, TEXT_PX + 3
    boxes = []
    for number, line in enumerate(image.burned_in):
        left, top, right, bottom = _extent(line)
        width = right - left
        column = max(MARGIN if "left" in image.corner else scanner.columns - MARGIN - width, 0)
        row = MARGIN + number * step if "top" in image.corner else scanner.rows - MARGIN - (len(image.burned_in) - number) * step
        boxes.append((row, column, row + bottom - top, min(column + width, scanner.columns)))
    return boxes


def _written(image: ImagePlan, seen: anatomy.Field) -> anatomy.Field:
    """Burn the side mark (a lead letter) and the lines of text into the pixels: text at the highest value, outlined in black."""
    rows, columns = seen.shape
    ink, outline = Image.new("L", (columns, rows)), Image.new("L", (columns, rows))
    if image.side_mark:
        right = image.side_mark == "L"  # the patient's left is on the image's right
        low = "top" in image.corner and bool(image.burned_in) and ("right" in image.corner) == right
        place = (columns - 24 if right else 10, rows - 60 if low else 14)
        ImageDraw.Draw(ink).text(place, image.side_mark, fill=242, font=font(MARK_PX))
    for line, (row, column, _, _) in zip(image.burned_in, burned_in_boxes(image), strict=True):
        left, top, _, _ = _extent(line)
        ImageDraw.Draw(ink).text((column - left, row - top), line, fill=255, font=font(TEXT_PX))
        ImageDraw.Draw(outline).text((column - left, row - top), line, fill=255, font=font(TEXT_PX), stroke_width=OUTLINE)
    if not (image.side_mark or image.burned_in):
        return seen
    bright, dark = np.asarray(ink, F) * F(1 / 255), np.asarray(outline, F) * F(1 / 255)
    under = seen * (1 - dark)
    return np.asarray(np.maximum(under, under * (1 - bright) + bright), F)
