"""Burned-in text: lines found, boxes on images without text, and seconds for a frame, beside tesseract where it is installed.

Lines are drawn with fresh seeds onto real images that show no text (`drawn_text`). A line is found if at least 85 % of
the box of its ink is blacked out; a technical line stays if at most 15 % is. Needs the folder that MEDPIPE_DATA names
(default: ../shared/data). `python -m benchmarks.burned_in SEED ...` prints the lines that were missed, too.
"""

from __future__ import annotations

import csv
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import beta

from benchmarks import drawn_text
from benchmarks.drawn_text import Line, Pixels
from benchmarks.table import Row
from medpipe.deid import pixels
from medpipe.deid.burned_in import STEP, Search, allowed, covering

LONG = True
SEEDS = (101, 102, 103, 104, 105, 106)
"""No constant of `medpipe.deid` was chosen with these."""
COVERED, LEFT_ALONE = 0.85, 0.15
SECONDS = 1.5
Blackened = Callable[[Pixels], tuple[NDArray[np.bool_], int]]
"""From an image to what of it is blacked out (H, W), and in how many boxes at first sight."""


@dataclass
class Tally:
    """What one way of finding text did."""

    found: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0
    boxes: int = 0


def medpipe(image: Pixels) -> tuple[NDArray[np.bool_], int]:
    """Black out as `pixels.clean` does, with its further rounds."""
    out, mask, search, first = image.copy(), np.zeros(image.shape[:2], bool), Search(), None
    for _ in range(pixels.ROUNDS):
        lines = search.frame(out.copy(), out)
        first = len(lines) if first is None else first
        for line in lines:
            mask[covering(line, out.shape)] = True
            out[covering(line, out.shape)] = 0 if out.ndim == 3 else out.min()
        search.lines = []
        if not lines:
            break
    return mask, first or 0


def tesseract(image: Pixels) -> tuple[NDArray[np.bool_], int]:
    """Black out what `tesseract --psm 3` reads, under the same allow-list."""
    buffer, mask = io.BytesIO(), np.zeros(image.shape[:2], bool)
    Image.fromarray(image).save(buffer, "PNG")
    out = subprocess.run(
        ["tesseract", "stdin", "stdout", "--psm", "3", "tsv"],
        input=buffer.getvalue(),
        capture_output=True,
        check=True,
        env=os.environ | {"OMP_THREAD_LIMIT": "1"},
    ).stdout.decode()
    rows: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(out), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] == "5" and row["text"].strip():
            rows.setdefault((row["block_num"], row["par_num"], row["line_num"]), []).append(row)
    count = 0
    for words in rows.values():
        if not allowed(" ".join(word["text"] for word in words)):
            count += 1
            for word in words:
                left, top, wide, high = (int(word[name]) for name in ("left", "top", "width", "height"))
                mask[max(0, top - 2) : top + high + 2, max(0, left - 2) : left + wide + 2] = True
    return mask, count


def measured(blackened: Blackened, seeds: tuple[int, ...]) -> tuple[Tally, Tally]:
    """Return the tally on drawn lines and the one on the images as they are."""
    drawn, clean = Tally(), Tally()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for modality, image in drawn_text.clean_images():
            with_text, lines = drawn_text.drawn(image, rng)
            mask, _ = _timed(blackened, with_text, drawn)
            for line in lines:
                _count(drawn, line, mask, f"{seed} {modality} {image.shape}")
    for modality, image in drawn_text.clean_images():
        _, boxes = _timed(blackened, image, clean)
        clean.boxes += boxes
        if boxes:
            clean.missed.append(f"{modality} {image.shape}: {boxes}")
    return drawn, clean


def _timed(blackened: Blackened, image: Pixels, tally: Tally) -> tuple[NDArray[np.bool_], int]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.process_time()
    mask, boxes = blackened(image)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    tally.seconds += time.process_time() - begun + after.ru_utime - children.ru_utime + after.ru_stime - children.ru_stime
    tally.images += 1
    return mask, boxes


def _count(tally: Tally, line: Line, mask: NDArray[np.bool_], where: str) -> None:
    top, bottom, left, right = line.box
    share = float(mask[top:bottom, left:right].mean())
    good = share <= LEFT_ALONE if line.technical else share >= COVERED
    for kind in ("technical",) if line.technical else ("all", f"{line.size} px", f"{line.contrast} contrast", f"font {line.face}"):
        tally.drawn[kind] += 1
        tally.found[kind] += good
    if not good and not line.technical:
        tally.missed.append(f"{where} {line.box} {line.size} px, {line.contrast}, {line.face}: {share:.2f} of {line.text!r}")


def interval(found: int, drawn: int) -> tuple[float, float]:
    """Return the 95 % interval of Clopper and Pearson (1934), in per cent."""
    low = beta.ppf(0.025, found, drawn - found + 1) if found else 0.0
    high = beta.ppf(0.975, found + 1, drawn - found) if found < drawn else 1.0
    return 100 * float(low), 100 * float(high)


def rows() -> Iterator[Row]:
    """Lines found in all, by size and by contrast; technical lines that stay; false boxes; seconds; and a clip."""
    name, other, other_clean = _reference()
    yield from _rows(*measured(medpipe, SEEDS), name, other, other_clean)
    yield _clip()


def _reference() -> tuple[str, Tally | None, Tally | None]:
    return ("tesseract --psm 3", *measured(tesseract, SEEDS[:1])) if shutil.which("tesseract") else ("what is wanted", None, None)


def _rows(drawn: Tally, clean: Tally, name: str, other: Tally | None, other_clean: Tally | None) -> Iterator[Row]:
    for kind in sorted(drawn.drawn, key=lambda kind: (kind != "all", kind)):
        percent = 100 * drawn.found[kind] / drawn.drawn[kind]
        beside = 98.0 if other is None else 100 * other.found[kind] / max(1, other.drawn[kind])
        low, high = interval(drawn.found[kind], drawn.drawn[kind])
        what = f"technical lines that stay (n = {drawn.drawn[kind]})" if kind == "technical" else f"lines found, {kind}"
        goal = "98 %" if kind == "all" else ""
        yield Row(f"{what} [{low:.1f}, {high:.1f}] of {drawn.drawn[kind]}", percent, "%", name, beside, goal)
    beside = 0.1 if other_clean is None else other_clean.boxes / other_clean.images
    yield Row(f"boxes on an image without text, of {clean.images}", clean.boxes / clean.images, "", name, beside, "0.1")
    for what, mine, theirs in (("without", clean, other_clean), ("with", drawn, other)):
        beside = SECONDS if theirs is None else theirs.seconds / theirs.images
        yield Row(f"processor seconds for an image {what} text", mine.seconds / mine.images, "s", name, beside, f"{SECONDS} s")


def _clip() -> Row:
    """A clip, frame after frame, beside each of its frames alone."""
    file = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "examples_ybr_color.dcm")
    frames = [(np.array(frame), *pixels.shown(frame, file)) for frame in islice(pixels.frames(file), 10)]
    close = pixels.expected(file, frames[0][0].shape)
    search, begun = Search(close, STEP), time.process_time()
    for frame in frames:
        search.frame(*frame)
    together = time.process_time() - begun
    begun = time.process_time()
    for frame in frames:
        Search(close, STEP).frame(*frame)
    return Row("processor seconds for a frame of a clip", together / 10, "s", "each frame alone", (time.process_time() - begun) / 10)


if __name__ == "__main__":
    for tally in measured(medpipe, tuple(int(seed) for seed in sys.argv[1:])):
        print(f"{tally.seconds / tally.images:.2f} s, {tally.boxes} boxes on {tally.images} images", *tally.missed, sep="\n")
        for kind, number in sorted(tally.drawn.items()):
            print(f"{kind}: {tally.found[kind]} of {number}")
