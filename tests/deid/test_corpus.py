"""Identifiers planted in every kind of place and spelling: none is in any byte that is written or said."""

from __future__ import annotations

import logging
from pathlib import Path
from random import Random
from typing import Any

import pydicom
import pytest
from builders_corpus import Person, leaks, person, within
from builders_deid import save, settings
from builders_objects import document, ecg, presentation, report, structures
from builders_plants import plant, write

from medpipe.deid.deidentify import deidentify
from medpipe.deid.reading import quiet

BUNDLE = Path(pydicom.__file__).parent / "data" / "test_files"
QUICK = ("MR_small_implicit.dcm", "MR_small_bigendian.dcm", "CT_small.dcm", "SC_rgb_small_odd.dcm")


def planted(files: list[Path], people: list[Person], folder: Path, seed: int) -> int:
    """Write the files with identifiers under names that identify, too; return how many there are."""
    for number, path in enumerate(files):
        who = people[number % len(people)]
        with quiet():
            try:
                file = pydicom.dcmread(path, force=True)
                if not file.file_meta.get("TransferSyntaxUID") or "SOPClassUID" not in file:
                    continue
                target = folder / who.words["family"] / f"{who.words['mrn']}_{number}.dcm"
                write(plant(file, who, number, Random(f"{seed} {number}")), target)
            except (ValueError, TypeError, AttributeError, EOFError, KeyError):  # no file to plant anything in, or a half-written one
                continue
    return sum(path.is_file() for path in folder.rglob("*"))


EVERYTHING = {
    "objects": "all",
    "structured_content": "clean",
    "graphics": "clean",
    "descriptors": "clean",
    "retain_safe_private": True,
    "faces": "keep",
}


def searched(
    files: list[Path], seed: int, folder: Path, said: pytest.CaptureFixture[str], log: pytest.LogCaptureFixture, **options: Any
) -> int:
    """De-identify what was planted, also in objects that are no images, and search everything that came of it; return the instances."""
    for number, file in enumerate((document(), ecg(), presentation(), report(), structures())):
        files = [*files, save(file, folder / "objects" / f"{number}.dcm")]
    people = [person(seed * 3 + number) for number in range(3)]
    log.set_level(logging.DEBUG)
    given = planted(files, people, folder / "in", seed)
    record = deidentify(folder / "in", folder / "out", settings(quarantine_max=1.0, **options), key_file=folder / "private" / "p.key")
    assert not leaks(folder / "out", people)
    words = ("".join(said.readouterr()) + log.text).encode()
    assert not list(within(words, people))
    facts = record.facts
    assert facts["instances"] + sum(facts["quarantined"].values()) + sum(facts["set_aside"].values()) == given
    return int(facts["instances"])


def test_nothing_planted_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert searched([BUNDLE / name for name in QUICK], 1, tmp_path, capfd, caplog) == len(QUICK)


def test_nothing_planted_is_left_where_a_recipe_keeps_all_that_it_can(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    documents = 1
    assert searched([BUNDLE / name for name in QUICK], 2, tmp_path, capfd, caplog, **EVERYTHING) == len(QUICK) + 5 - documents


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("seed", "options"), [(0, {}), (1, {}), (2, {}), (3, EVERYTHING), (4, EVERYTHING), (5, EVERYTHING)])
def test_nothing_planted_is_left_in_any_bundled_or_real_file(
    seed: int, options: dict[str, Any], tmp_path: Path, data_dir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    real = [path for path in (data_dir / "dicom").rglob("*.dc*") if path.is_file()]
    files = sorted(path for path in [*BUNDLE.rglob("*.dcm"), *real] if path.stat().st_size < 500_000)
    assert searched(files, seed, tmp_path, capfd, caplog, **options) >= 60
