"""Which of the text in a frame must go, and where a frame has to be looked at: deny by default, and nothing twice.

Only lines made wholly of technical tokens (side marks, projections, measures with their unit) stay. A place is looked at
unless it shows one single value, or the pixels that were looked at there in an earlier frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.deid import ocr
from medpipe.deid.ocr import Box, Line

READ_MIN = 0.4
"""From this mean probability on, what the recogniser read is text (smallest over 720 drawn lines: 0.58)."""
LINE_MIN = 2.5
"""A box this many times wider than high is a line of text even where it cannot be read, as in a foreign script."""
TALL_PX, TALL_LETTERS, TALL_UNREAD_PX = 120, 3, 48
"""Limbs and ribs look like a few huge letters, and frames around a region like an unread line: no scanner writes so high."""
GAP = 1.5
"""Boxes on one row are one line up to this gap, in heights of the lower one: also letters that are set wide apart."""
MARGIN_PX = 2
TILE_PX = 16
"""Frames are compared in squares of this side; around what has to be looked at, one more square is."""
STEP = 4
"""Grey levels of 256 that nobody reads: what a lossy codec changes from frame to frame in a place that stands still."""
WHOLE = 0.7
"""Where so much of a frame has to be looked at, it is looked at in one piece."""
ALLOWED = frozenset(
    {
        "L", "R", "LT", "RT", "LEFT", "RIGHT", "LINKS", "RECHTS", "H", "F", "A", "P", "S", "I", "HEAD", "FEET", "AP", "PA", "LAT",
        "LATERAL", "OBL", "AXIAL", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "PORTABLE", "PORT", "MOBILE", "LIEGEND", "STEHEND",
        "SITZEND", "BETTAUFNAHME", "STANDING", "SITTING", "INSP", "EXP", "INSPIRATION", "EXPIRATION", "CC", "MLO", "ML", "LM", "RCC",
        "LCC", "RMLO", "LMLO", "XCCL", "KVP", "KV", "MA", "MAS", "MM", "CM", "M", "HZ", "MHZ", "DB", "FPS", "BPM", "MSEC", "MS",
        "SEC", "MI", "TIS", "TIB", "TIC", "WL", "WW", "TE", "TR", "TI", "FOV", "ST", "THK", "DFOV", "ZOOM", "GAIN", "DR", "PRF", "HU",
        "SUV", "MGY", "SEMI",
    }
)  # fmt: skip
_WORD = re.compile(r"[^\W_]+")
_UNITS = "(?:KVP|KV|MAS|MA|MM|CM|HZ|MHZ|DB|FPS|BPM|MSEC|MS|SEC|%)"
_MEASURES = re.compile(rf"(?:[0-9]{{1,3}}(?:[.,][0-9]{{1,2}})?\s*{_UNITS}(?=\Z|[^A-Z])\s*)+")
_INDEX = re.compile(r"\b(?:MI|TI[SBC]?)\s?[<:=]?\s?[0-9][.,][0-9](?![0-9.,])")
"""Mechanical and thermal index of ultrasound (IEC 62359), which have one digit on each side of the point."""


def allowed(text: str) -> bool:
    """Say whether a line of text is wholly technical: side marks, projections, and numbers with their unit."""
    rest = _INDEX.sub(" ", text.upper())
    rest = re.sub(rf"(?<![^\W_]){_MEASURES.pattern}", " ", rest)
    return all(part in ALLOWED for part in _WORD.findall(rest))


def denied(line: Line, *, close: bool = False) -> bool:
    """Say whether a line found in an image must go; `close` where text is to be expected, so that doubt counts against it."""
    letters = "".join(_WORD.findall(line.text))
    high, wide = line.bottom - line.top, line.right - line.left
    if not close and (line.found < ocr.BOX_THRESHOLD or (high >= TALL_PX and len(letters) <= TALL_LETTERS)):
        return False
    if line.read >= READ_MIN and letters:
        return not allowed(line.text) and len(letters) > 1  # one letter names nobody
    return close or (wide >= LINE_MIN * high and high < TALL_UNREAD_PX)  # an unread line might


def covering(line: Line, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the part of an image that a denied line takes, with a margin: its first and last letter may have been missed."""
    beside = max(MARGIN_PX, (line.bottom - line.top) // 3)
    return (
        slice(max(0, line.top - MARGIN_PX), min(shape[0], line.bottom + MARGIN_PX)),
        slice(max(0, line.left - beside), min(shape[1], line.right + beside)),
    )


def must_go(lines: list[Line], close: NDArray[np.bool_] | None = None) -> list[Line]:
    """Return the lines that must go, each in one piece; `close` (H, W) is true where text is to be expected."""

    def judged(line: Line) -> bool:
        return denied(line, close=close is not None and bool(close[line.top : line.bottom, line.left : line.right].mean() > 0.5))

    out = []
    for parts in _rows(lines):
        read = [part for part in parts if part.read >= READ_MIN and part.found >= ocr.BOX_THRESHOLD]
        text = " ".join(part.text for part in read)
        whole = replace(
            parts[0],
            top=min(part.top for part in parts),
            bottom=max(part.bottom for part in parts),
            left=parts[0].left,
            right=max(part.right for part in parts),
            text=text,
            found=max(part.found for part in parts),
            read=max((part.read for part in read), default=0.0),
        )
        if any(judged(part) for part in parts) or (len(read) > 1 and judged(whole)):
            out.append(whole)
    return out


def _rows(lines: list[Line]) -> list[list[Line]]:
    """Group boxes that stand on one row with small gaps, from left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.left):
        for row in rows:
            last = max(row, key=lambda part: part.right)
            heights = sorted((line.bottom - line.top, last.bottom - last.top))
            common = min(line.bottom, last.bottom) - max(line.top, last.top)
            if heights[1] <= 2 * heights[0] and common >= 0.6 * heights[0] and line.left - last.right <= GAP * heights[0]:
                row.append(line)
                break
        else:
            rows.append([line])
    return rows


@dataclass
class Search:
    """Looks at the frames of one object in their order, each place only where no earlier frame answers for it."""

    close: NDArray[np.bool_] | None = None
    """Where text is to be expected (H, W)."""
    step: int = 0
    """Differences in the stored values that cannot be seen: `STEP` where they are 8-bit grey levels, else 0."""
    evened: bool = True
    """Look at the view of even contrast, too, which shows nothing new where there are only two values."""
    lines: list[Line] = field(default_factory=list)
    looked_at: int = 0
    """Pixels that went through the detector so far."""
    seen: NDArray[Any] | None = None
    """Each place as it was when it was looked at."""

    def frame(self, stored: NDArray[Any], shown: ocr.Image8, depth: NDArray[np.float32] | None = None) -> list[Line]:
        """Return the lines of the next frame that must go: `stored` as in the file, `shown` in 8 bits, `depth` before that."""
        flat, changed = _flat(stored), self._changed(stored)
        parts = _boxes(changed & ~flat, stored.shape)
        answered = flat & changed  # nothing is left where only one value is
        for top, bottom, left, right in parts:
            answered[top // TILE_PX : -(-bottom // TILE_PX), left // TILE_PX : -(-right // TILE_PX)] = True
        inside = [line for line in self.lines if not answered[_squares(line)].all()]  # some of their pixels stand unchanged
        found: list[Line] = []
        scales = ocr.scales(*shown.shape[:2])
        threshold = ocr.BOX_THRESHOLD if self.close is None else ocr.CLOSE_THRESHOLD
        if self.seen is None or self.seen.shape != stored.shape:
            self.seen = np.array(stored)
        for top, bottom, left, right in parts:
            place = slice(top, bottom), slice(left, right)
            self.looked_at += (bottom - top) * (right - left)
            self.seen[place] = stored[place]
            part = None if depth is None else depth[place]
            for line in ocr.lines(shown[place], part, at=scales, threshold=threshold, evened=self.evened):
                found.append(replace(line, top=line.top + top, bottom=line.bottom + top, left=line.left + left, right=line.right + left))
        self.lines = inside + must_go(found, self.close)
        return self.lines

    def _changed(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Say of each square whether it or a neighbour differs from what was looked at there."""
        if self.seen is None or self.seen.shape != stored.shape:
            return np.ones(tuple(-(-side // TILE_PX) for side in stored.shape[:2]), bool)
        different = np.abs(stored.astype(np.int16) - self.seen) > self.step if self.step else stored != self.seen
        squares = _tiles(different.any(-1) if different.ndim == 3 else different, np.maximum)
        return np.asarray(ndimage.binary_dilation(squares, np.ones((3, 3))))


def _boxes(squares: NDArray[np.bool_], shape: tuple[int, ...]) -> list[Box]:
    """Return the boxes in pixels around connected squares, or one around all of them where that is hardly more."""
    if not squares.any():
        return []
    height, width = shape[:2]
    labels, _ = ndimage.label(squares, np.ones((3, 3)))
    boxes = [
        (rows.start * TILE_PX, min(height, rows.stop * TILE_PX), columns.start * TILE_PX, min(width, columns.stop * TILE_PX))
        for rows, columns in ndimage.find_objects(labels)
    ]
    around = min(box[0] for box in boxes), max(box[1] for box in boxes), min(box[2] for box in boxes), max(box[3] for box in boxes)
    apart = sum((box[1] - box[0]) * (box[3] - box[2]) for box in boxes)
    return [around] if apart > WHOLE * (around[1] - around[0]) * (around[3] - around[2]) else boxes


def _squares(line: Line) -> tuple[slice, slice]:
    return slice(line.top // TILE_PX, -(-line.bottom // TILE_PX)), slice(line.left // TILE_PX, -(-line.right // TILE_PX))


def _tiles(values: NDArray[Any], reduce: np.ufunc) -> NDArray[Any]:
    """Reduce an image (H, W) to one value for each square of TILE_PX."""
    rows = reduce.reduceat(values, np.arange(0, values.shape[0], TILE_PX), axis=0)
    return np.asarray(reduce.reduceat(rows, np.arange(0, values.shape[1], TILE_PX), axis=1))


def _flat(stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of each square whether it and its neighbours show one single value."""
    planes = stored if stored.ndim == 3 else stored[..., None]
    out = None
    for plane in np.moveaxis(planes, -1, 0):
        low, high = _tiles(plane, np.minimum), _tiles(plane, np.maximum)
        flat = ndimage.minimum_filter(low, 3, mode="nearest") == ndimage.maximum_filter(high, 3, mode="nearest")
        out = flat if out is None else out & flat
    return np.asarray(out)
