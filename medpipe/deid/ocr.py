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

SIDE_MIN, SIDE_MAX = 640, 2048
"""The detector sees the image with its shorter side at least, and its longer side at most, of these pixels."""
SCALE_MAX = 3.0
GLANCE_SCALE, GLANCE_THRESHOLD = 1.5, 0.1
"""A small image is first looked at in this size, which costs a quarter: text of 10 pixels and more gives a probability of
1.00 somewhere (smallest of 440 drawn lines on radiographs), and five in six images without text stay below the threshold."""
MAP_THRESHOLD, BOX_THRESHOLD, UNCLIP = 0.3, 0.5, 1.6
HEIGHT = 48
"""Height of a line as the recogniser takes it."""
Grey = NDArray[np.uint8]


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


def lines(image: Grey) -> list[Line]:
    """Find the lines of text in an image (H, W), from top to bottom."""
    return [_read(image, box, found) for box, found in boxes(image)]


def boxes(image: Grey) -> list[tuple[tuple[int, int, int, int], float]]:
    """Find text boxes (top, bottom, left, right) in an image (H, W), each with the detector's mean probability."""
    height, width = image.shape
    scale = min(max(1.0, min(SCALE_MAX, SIDE_MIN / max(1, min(height, width)))), SIDE_MAX / max(height, width))
    if scale > GLANCE_SCALE and _probability(image, GLANCE_SCALE).max() < GLANCE_THRESHOLD:
        return []
    probability = _probability(image, scale)
    labels, _ = ndimage.label(ndimage.binary_dilation(probability > MAP_THRESHOLD, np.ones((2, 2))))
    out = []
    for number, (vertical, horizontal) in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[vertical, horizontal] == number
        mean = float(probability[vertical, horizontal][inside].mean())
        high, wide = vertical.stop - vertical.start, horizontal.stop - horizontal.start
        if mean < BOX_THRESHOLD or min(high, wide) < 3:
            continue
        margin = high * wide * UNCLIP / (2 * (high + wide))  # the detector was trained on shrunk boxes (eq. 10)
        top, bottom = int((vertical.start - margin) / scale), int(np.ceil((vertical.stop + margin) / scale))
        left, right = int((horizontal.start - margin) / scale), int(np.ceil((horizontal.stop + margin) / scale))
        out.append(((max(0, top), min(height, bottom), max(0, left), min(width, right)), mean))
    return out


def _probability(image: Grey, scale: float) -> NDArray[np.float32]:
    """Return the detector's map of text at `scale` times the image's size."""
    rows, columns = max(8, round(image.shape[0] * scale)), max(8, round(image.shape[1] * scale))
    scaled = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))
    padded = np.zeros((-(-rows // 32) * 32, -(-columns // 32) * 32), np.float32)
    padded[:rows, :columns] = scaled / np.float32(127.5) - 1  # mean and deviation of 0.5, as in training
    session = _detector()
    three = np.broadcast_to(padded, (1, 3, *padded.shape))
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: three})[0][0, 0, :rows, :columns]
    return found


def _read(image: Grey, box: tuple[int, int, int, int], found: float) -> Line:
    top, bottom, left, right = box
    crop = image[top:bottom, left:right]
    if crop.shape[0] > 1.5 * crop.shape[1]:
        crop = np.rot90(crop)
    width = int(np.clip(round(HEIGHT * crop.shape[1] / crop.shape[0]), HEIGHT, 2048))
    line = np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize((width, HEIGHT), Image.Resampling.BICUBIC))
    session, letters = _recogniser()
    scaled = np.broadcast_to(line.astype(np.float32) / np.float32(127.5) - 1, (1, 3, HEIGHT, width))
    steps = session.run(None, {session.get_inputs()[0].name: scaled})[0][0]  # (T, letters)
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
