"""What research needs stays: technical values, the keys of every study, the pixels, and the validity of the object."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from builders_deid import settings
from pydicom.dataset import Dataset, FileDataset

from medpipe.deid import profile
from medpipe.deid.actions import PIXELS
from medpipe.deid.deidentify import deidentify
from medpipe.deid.pseudonyms import load
from medpipe.deid.reading import quiet

BUNDLE = Path(pydicom.__file__).parent / "data" / "test_files"
QUICK = ("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "rtdose_1frame.dcm", "waveform_ecg.dcm", "rtplan.dcm", "reportsi.dcm",
         "ExplVR_BigEnd.dcm", "liver_1frame.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm")  # fmt: skip
STANDARD = """
    SOPClassUID Modality ImageType Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel
    PixelSpacing SliceThickness SpacingBetweenSlices ImagePositionPatient ImageOrientationPatient PatientPosition RescaleSlope
    RescaleIntercept WindowCenter WindowWidth KVP RepetitionTime EchoTime FlipAngle MagneticFieldStrength ConvolutionKernel
""".split()  # noqa: SIM905
KEPT_MIN = 0.95
ALL = {"objects": "all", "structured_content": "clean", "graphics": "clean", "descriptors": "clean", "faces": "keep"}


def pairs(files: list[Path], folder: Path) -> Iterator[tuple[Path, FileDataset, Path, Counter[str]]]:
    """De-identify files under object UIDs of their own; give each that came through, before and after, with what was done."""
    sources: dict[str, Path] = {}
    for number, path in enumerate(files):
        uid, target = f"1.2.3.4.{number}", folder / "in" / f"{number}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            try:
                file = pydicom.dcmread(path)
                file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = uid
                file.save_as(target)
                sources[uid] = target
            except Exception:  # no file that pydicom can write again
                target.unlink(missing_ok=True)
    deidentify(folder / "in", folder / "out", settings(quarantine_max=1.0, **ALL), key_file=folder / "private" / "p.key")
    journal = pd.read_parquet(folder / "out" / "journal.parquet")
    entries = {row.instance: json.loads(row.entry) for row in journal.itertuples() if row.entry}
    names = load(folder / "private" / "p.key")
    for uid, source in sources.items():
        entry = entries.get(names.uid(uid))
        if entry and entry["row"]:
            with quiet():
                yield source, pydicom.dcmread(source), folder / "out" / entry["row"]["path"], Counter(entry["counts"])


LISTED = {int(row.tag, 16) for row in profile.rows() if row.tag != "PRIVATE" and "X" not in row.tag}


def technical(before: Dataset, after: Dataset) -> Iterator[tuple[str, bool]]:
    """Values at every depth that the table does not list, and whether each stayed; UIDs and dates are mapped and moved."""
    for element in before:
        tag = int(element.tag)
        if element.tag.group & 1 or element.tag.group >> 8 in (0x50, 0x60) or not tag & 0xFFFF or tag in LISTED or tag in PIXELS:
            continue
        there = after.get_item(tag) is not None
        if element.VR == "SQ":
            items = after[tag].value if there and after[tag].VR == "SQ" else []
            for old, new in zip(
                element.value, items if len(items) == len(element.value) else [Dataset()] * len(element.value), strict=True
            ):
                yield from technical(old, new)
        elif not element.is_empty and element.VR not in ("UI", "DA", "TM", "DT") and element.keyword != "SpecificCharacterSet":
            yield element.keyword, there and str(after[tag].value) == str(element.value)


def errors(path: Path) -> Counter[str]:
    """What dciodvfy calls errors, without values and the numbers of items."""
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, check=False)
    lines = (done.stderr + done.stdout).decode("latin-1").splitlines()
    return Counter(re.sub(r"\[\d+\]|= <[^>]*", "", line) for line in lines if line.startswith("Error"))


def judged(files: list[Path], folder: Path) -> tuple[int, float]:
    """Check every file that came through; return their number, and the share of technical values that stayed."""
    stayed: list[bool] = []
    count = 0
    for source, before, path, counts in pairs(files, folder):
        after = pydicom.dcmread(path)
        with quiet():
            stayed += [kept for _, kept in technical(before, after)]
            for name in STANDARD:
                if before.get_item(name) is not None and not before[name].is_empty:
                    assert name in after, (source, name)
                    assert after[name].value == before[name].value, (source, name)
            if "PixelData" in before and not counts["frames blacked out"]:
                if not before.file_meta.TransferSyntaxUID.is_encapsulated and not counts["pixels, unused bits cleared"]:
                    assert before.PixelData[: len(after.PixelData) - 1] == after.PixelData[:-1], source  # the last one may be padding
                assert np.array_equal(after.pixel_array, before.pixel_array), source
        if shutil.which("dciodvfy") and "SOPClassUID" in before and not before.file_meta.TransferSyntaxUID.is_deflated:
            assert not errors(path) - errors(source), source
        count += 1
    return count, sum(stayed) / len(stayed)


def test_what_research_needs_stays(tmp_path: Path) -> None:
    count, kept = judged([BUNDLE / name for name in QUICK], tmp_path)
    assert count == len(QUICK)
    assert kept >= KEPT_MIN


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_research_needs_stays_in_every_bundled_or_real_file(tmp_path: Path, data_dir: Path) -> None:
    real = [path for path in (data_dir / "dicom").rglob("*.dc*") if path.is_file()]
    files = sorted(path for path in [*BUNDLE.rglob("*.dcm"), *real] if path.stat().st_size < 700_000 and "truncated" not in path.name)
    count, kept = judged(files, tmp_path)
    assert count >= 80
    assert kept >= KEPT_MIN
