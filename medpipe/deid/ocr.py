"""Find and read text in an image: PP-OCRv4's detector and recogniser, offline, one thread, no OpenCV.

The two networks (Apache-2.0) lie in the wheel of rapidocr-onnxruntime. Only its model files are used: its code needs
OpenCV and with it libGL, which a bare server lacks. The steps around the networks are those of DBNet (Liao et al. 2020)
and of CTC's greedy decoding, for lines that run left to right; other text is found but may not be read.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medpipe.errors import InputError

SIDE_MIN, SCALE_MAX = 640, 3.0
"""The shorter side of the image as the detector sees it, unless it would have to be enlarged by more than this."""
PLAIN_SIDE_MAX, EVENED_SIDE_MAX = 1280, 2560
"""Longer sides as the detector sees them: large text is found in the plain view, small text in the evened one."""
EVENED_SCALE, EVENED_PIXELS = 2.0, 1.3e6
"""Small or faint letters are found when the evened view is enlarged, as long as it has no more pixels than this."""
GLANCE_SCALE, GLANCE_SIDE, GLANCE_THRESHOLD = 1.5, 100, 0.1
"""A small image (from this side on) is first looked at in this size, which costs a quarter or less: of 257 drawn lines all
gave a probability of 0.11 and more somewhere but two faint ones, which the larger view does not show either."""
EVENED_REACH_PX, EVENED_FLOOR, EVENED_GAIN = 8.0, 12.0, 48.0
"""Local contrast: standard deviation of its window, grey levels that are taken for noise, grey levels of one deviation."""
MAP_THRESHOLD, BOX_THRESHOLD, UNCLIP = 0.3, 0.5, 1.6
CLOSE_THRESHOLD = 0.35
"""In place of the box's threshold where the header says that text is to be expected."""
SAME = 0.6
"""Boxes of two views are one line if so much of the smaller lies in the other."""
EDGE_PX = 32
"""The image is continued by so much on all sides: the detector finds no text that touches the end of what it sees."""
HEIGHT = 48
"""Height of a line as the recogniser takes it."""
Image8 = NDArray[np.uint8]
"""(H, W) grey or (H, W, 3) red, green, blue."""
Box = tuple[int, int, int, int]
"""Top, bottom, left and right in pixels, ends exclusive."""


@dataclass(frozen=True)
class Line:
    """A line of text: its box in pixels (end exclusive), what it seems to say, and how sure both networks are."""

    top: int
    bottom: int
    left: int
    right: int
    text: str
    found: float
    """Mean probability of the detector over the line."""
    read: float
    """Mean probability of the recogniser over its letters; 0 where nothing was read."""


def lines(
    image: Image8,
    depth: NDArray[np.float32] | None = None,
    *,
    at: tuple[float, float] | None = None,
    threshold: float = BOX_THRESHOLD,
    evened: bool = True,
) -> list[Line]:
    """Find the lines of text in an image, in a plain view and in one of even local contrast.

    `depth` (H, W) holds the values before they were cut to 8 bits, in grey levels of any range: the evened view then
    shows what is faint in the plain one; `evened` says whether it is looked at. `at` are the scales of the image that
    this one is a part of.
    """
    first, second = at or scales(*image.shape[:2])
    even_view = even(depth if depth is not None else image) if evened else image
    if first > GLANCE_SCALE and min(image.shape[:2]) >= GLANCE_SIDE:
        views = (image,) if depth is None else (image, even_view)
        if all(_probability(view, GLANCE_SCALE).max() < GLANCE_THRESHOLD for view in views):
            return []
    found = [(image, box, sure) for box, sure in boxes(image, first, threshold)]
    for box, sure in boxes(even_view, second, threshold) if evened else ():
        twin = next((number for number, (_, other, _) in enumerate(found) if _same(box, other)), None)
        if twin is None:
            found.append((even_view, box, sure))
        else:
            view, other, before = found[twin]
            found[twin] = view, _around(box, other), max(before, sure)
    return [_read(view, box, sure) for view, box, sure in found]


def even(image: Image8 | NDArray[np.float32]) -> Image8:
    """Return an image (H, W) in which each place has the same mean and about the same contrast."""
    values = (image.max(-1) if image.ndim == 3 else image).astype(np.float32)  # blue is bright here, dark in grey
    around = ndimage.gaussian_filter(values, EVENED_REACH_PX, mode="nearest", truncate=3)
    values = values - around
    spread = np.sqrt(ndimage.gaussian_filter(values * values, EVENED_REACH_PX, mode="nearest", truncate=3))
    return np.asarray((128 + EVENED_GAIN * values / (spread + EVENED_FLOOR)).clip(0, 255), dtype=np.uint8)


def scales(rows: int, columns: int) -> tuple[float, float]:
    """Return how much an image is enlarged for the plain view and for the evened one."""
    small = min(SCALE_MAX, SIDE_MIN / max(1, min(rows, columns)))
    large = min(EVENED_SCALE, (EVENED_PIXELS / (rows * columns)) ** 0.5)
    longer = max(rows, columns)
    return min(max(1.0, small), PLAIN_SIDE_MAX / longer), min(max(1.0, small, large), EVENED_SIDE_MAX / longer)


def boxes(image: Image8, scale: float, threshold: float = BOX_THRESHOLD) -> list[tuple[Box, float]]:
    """Find text boxes in an image seen at `scale` times its size, each with the detector's mean probability."""
    height, width = image.shape[:2]
    probability = _probability(image, scale)
    labels, _ = ndimage.label(ndimage.binary_dilation(probability > MAP_THRESHOLD, np.ones((2, 2))))
    out = []
    for number, (vertical, horizontal) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[vertical, horizontal] == number
        mean = float(probability[vertical, horizontal][inside].mean())
        high, wide = vertical.stop - vertical.start, horizontal.stop - horizontal.start
        if mean < threshold or min(high, wide) < 3:
            continue
        margin = high * wide * UNCLIP / (2 * (high + wide))  # the detector was trained on shrunk boxes (eq. 10)
        top, bottom = int((vertical.start - margin) / scale), int(np.ceil((vertical.stop + margin) / scale))
        left, right = int((horizontal.start - margin) / scale), int(np.ceil((horizontal.stop + margin) / scale))
        out.append(((max(0, top), min(height, bottom), max(0, left), min(width, right)), mean))
    return out


def _same(one: Box, other: Box) -> bool:
    high = min(one[1], other[1]) - max(one[0], other[0])
    wide = min(one[3], other[3]) - max(one[2], other[2])
    smaller = min((box[1] - box[0]) * (box[3] - box[2]) for box in (one, other))
    alike = max(one[1] - one[0], other[1] - other[0]) <= 2 * min(one[1] - one[0], other[1] - other[0])
    return alike and high > 0 and wide > 0 and high * wide >= SAME * smaller


def _around(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), max(one[3], other[3])


def _probability(image: Image8, scale: float) -> NDArray[np.float32]:
    """Return the detector's map of text at `scale` times the image's size."""
    rows, columns = max(8, round(image.shape[0] * scale)), max(8, round(image.shape[1] * scale))
    scaled = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))
    padded = _continued(_continued(scaled).swapaxes(0, 1)).swapaxes(0, 1)
    session = _detector()
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: _planes(padded)})[0][0, 0]
    return found[EDGE_PX : EDGE_PX + rows, EDGE_PX : EDGE_PX + columns]


def _planes(image: Image8) -> NDArray[np.float32]:
    """Return an image as the networks take it: (1, 3, H, W), blue first, mean and deviation of 0.5 as in training."""
    values = image / np.float32(127.5) - 1
    if values.ndim == 2:
        return np.broadcast_to(values, (1, 3, *values.shape))
    return np.ascontiguousarray(values[..., ::-1].transpose(2, 0, 1)[None])


def _continued(image: Image8) -> Image8:
    """Continue an image above and below (to a multiple of 32) by what its border shows at large, without what is written there."""
    size = (2 * EDGE_PX + 1, *(1,) * (image.ndim - 2))
    above, below = (
        ndimage.median_filter(np.median(strip, 0).astype(np.uint8), size, mode="nearest") for strip in (image[:EDGE_PX], image[-EDGE_PX:])
    )
    more = EDGE_PX + -(len(image) + 2 * EDGE_PX) % 32
    return np.concatenate([np.repeat(above[None], EDGE_PX, 0), image, np.repeat(below[None], more, 0)])


def _read(image: Image8, box: Box, found: float) -> Line:
    top, bottom, left, right = box
    crop = image[top:bottom, left:right]
    if crop.shape[0] > 1.5 * crop.shape[1]:
        crop = np.rot90(crop)
    width = int(np.clip(round(HEIGHT * crop.shape[1] / crop.shape[0]), HEIGHT, 2048))
    line = np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize((width, HEIGHT), Image.Resampling.BICUBIC))
    session, letters = _recogniser()
    steps = session.run(None, {session.get_inputs()[0].name: _planes(line)})[0][0]  # (T, letters)
    best, sure = steps.argmax(1), steps.max(1)
    kept = (best > 0) & np.concatenate([[True], best[1:] != best[:-1]])  # CTC: 0 is the blank, repeats are one letter
    text = "".join(letters[index] for index in best[kept])
    return Line(top, bottom, left, right, text, found, float(sure[kept].mean()) if kept.any() else 0.0)


def _session(model: str) -> Any:
    import onnxruntime

    found = importlib.util.find_spec("rapidocr_onnxruntime")
    if found is None or not found.submodule_search_locations:
        raise InputError("the models of rapidocr-onnxruntime are missing: install medpipe with its dependencies")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the pool's workers are the parallelism
    options.log_severity_level = 3
    path = Path(found.submodule_search_locations[0]) / "models" / model
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=1)
def _detector() -> Any:
    return _session("ch_PP-OCRv4_det_infer.onnx")


@lru_cache(maxsize=1)
def _recogniser() -> tuple[Any, list[str]]:
    session = _session("ch_PP-OCRv4_rec_infer.onnx")
    letters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    return session, ["", *letters, " "]
