"""De-identification: files per processor second beside pydicom's own read, walk and write, and identifiers left, beside peers.

The files are those that pydicom brings along and, where they are, those in the folder `dicom` of MEDPIPE_DATA (default:
../shared/data). Peers are no dependencies: they are measured where PEERS_PYTHON names an interpreter that has
dicom-anonymizer, dicognito and deid; rows of those that it lacks are left out and said to be.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pydicom

from benchmarks.deid_peers import PEERS
from benchmarks.table import Row
from medpipe import recipe
from medpipe.deid import instance, ocr, patient, pixels
from medpipe.deid.deidentify import deidentify
from medpipe.deid.reading import quiet
from medpipe.recipe import Recipe

LONG = True
BUNDLE = Path(pydicom.__file__).parent / "data" / "test_files"
ROUNDS, SEARCHED, PEOPLE = 3, 12, 12
SIZE_MAX = 3_000_000
"""Larger files are left out: one of them would weigh more than all others together."""


@dataclass(frozen=True)
class Corpus:
    """Files in one folder, under names that say nothing."""

    folder: Path

    @property
    def files(self) -> list[Path]:
        """The files, sorted."""
        return sorted(self.folder.iterdir())


def rows() -> Iterator[Row]:
    """Measure speed on files as they are, then leaks on the same files with identifiers put into them."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        clean = _taken(_given(place / "given"), place)
        yield from _speed(clean, place)
        yield from _searched(clean, place)
        planted, people = _planted(place / "planted")
        yield from _two_workers(planted, place)
        yield from _leaks(planted, people, place)


def _given(folder: Path) -> Corpus:
    data = Path(os.environ.get("MEDPIPE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "dicom"
    found = [path for root in (BUNDLE, data) for path in sorted(root.rglob("*.dc*")) if path.is_file()]
    folder.mkdir()
    for number, path in enumerate(path for path in found if path.stat().st_size <= SIZE_MAX):
        shutil.copyfile(path, folder / f"{number:04d}.dcm")
    return Corpus(folder)


def _taken(given: Corpus, place: Path) -> Corpus:
    """Return the files of which a Collection has an instance: the others (broken, no images, copies) cost each tool something else."""
    with _headers_only():
        _deidentified(given, place / "first")
    audit = json.loads((place / "first" / "audit.json").read_text())
    out = {number for reason in audit["not_in_the_collection"].values() for number in reason["ordinals"]}
    for path in [path for number, path in enumerate(given.files) if number in out]:
        path.unlink()
    return given


def _recipe() -> Recipe:
    return recipe.build({"deid": {"quarantine_max": 1.0, "faces": "keep"}})


@contextlib.contextmanager
def _headers_only() -> Iterator[None]:
    """Leave the pixels unseen: what is compared with pydicom is what is done with elements."""
    with mock.patch.object(pixels, "clean", _unseen):
        yield


def _unseen(*_: object) -> None:
    """Stand in for `pixels.clean`."""


def _trusted(*_: object) -> bool:
    """Stand in for `instance.verified`."""
    return True


def _no_lines(*_: object, **__: object) -> list[ocr.Line]:
    """Stand in for `ocr.lines`."""
    return []


def _blind() -> None:
    """Have a worker find no text in pixels."""
    ocr.lines = _no_lines


def _deidentified(corpus: Corpus, out: Path, *, settings: Recipe | None = None, executor: Executor | None = None) -> dict[str, object]:
    shutil.rmtree(out, ignore_errors=True)
    key = out.parent / "private" / f"{out.name}.key"
    shutil.rmtree(key.parent, ignore_errors=True)  # with the digests of files that it remembers
    key.parent.mkdir(mode=0o700)
    key.write_text("3c" * 32)
    key.chmod(0o600)
    return dict(deidentify(corpus.folder, out, settings or _recipe(), key_file=key, executor=executor).facts)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


@contextlib.contextmanager
def _clocked() -> Iterator[list[float]]:
    """Give the processor seconds of each patient's work: reading, gathering identifiers, cleaning, writing."""
    work, spent = patient.deidentify, []

    def clocked(unit: patient.Unit) -> patient.Journal:
        begun = time.process_time()
        journal = work(unit)
        spent.append(time.process_time() - begun)
        return journal

    with mock.patch.object(patient, "deidentify", clocked):
        yield spent


def _floor(corpus: Corpus, out: Path) -> None:
    """Read each file, look at each element, write the file."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with quiet():
        for path in corpus.files:
            dataset = pydicom.dcmread(path, force=True)
            for _ in dataset.iterall():
                pass
            dataset.save_as(out / path.name)


def _speed(corpus: Corpus, place: Path) -> Iterator[Row]:
    """Best processor seconds of interleaved rounds."""
    count = len(corpus.files)
    best: dict[str, float] = {}

    def least(name: str, seconds: float) -> None:
        best[name] = min(best.get(name, seconds), seconds)

    peers: dict[str, str] = {}
    for _ in range(ROUNDS):
        least("floor", _seconds(lambda: _floor(corpus, place / "floor")))
        with _headers_only():
            least("verified", _seconds(lambda: _deidentified(corpus, place / "out")))
            with mock.patch.object(instance, "verified", _trusted), _clocked() as spent:
                least("plain", _seconds(lambda: _deidentified(corpus, place / "out")))
                least("cleaning", sum(spent))
        for name in PEERS:
            if told := _peer(name, corpus, place / "peer"):
                peers[name] = f"{name} {told['version']}, {told['written']} of {count} files written"
                least(name, float(told["seconds"]))
    floor = count / best["floor"]
    reference = f"pydicom: read, walk, write ({count} files)"
    yield Row("headers, not verified", count / best["plain"], "files/s", reference, floor, "≥ 0.80")
    yield Row("the same without intake, index and seal, as peers do it", count / best["cleaning"], "files/s", reference, floor)
    yield Row("headers, verified after writing", count / best["verified"], "files/s", reference, floor, "≥ 0.45")
    for name, what in peers.items():
        yield Row(what, count / best[name], "files/s", reference, floor)


def _searched(corpus: Corpus, place: Path) -> Iterator[Row]:
    """The whole verb: pixels are searched for text, heads lose their faces."""
    some = Corpus(place / "some")
    some.folder.mkdir()
    for path in corpus.files[:: max(1, len(corpus.files) // SEARCHED)]:
        shutil.copyfile(path, some.folder / path.name)
    floor = _seconds(lambda: _floor(some, place / "floor"))
    seconds = _seconds(lambda: _deidentified(some, place / "out", settings=recipe.build({"deid": {"quarantine_max": 1.0}})))
    count = len(some.files)
    reference = f"pydicom: read, walk, write ({count} files)"
    yield Row("with pixels searched and faces removed", count / seconds, "files/s", reference, count / floor)


def _planted(folder: Path) -> tuple[Corpus, list[object]]:
    """The files with the identifiers of `PEOPLE` people in every kind of place, made and searched for as in the tests."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from builders_corpus import person
    from builders_plants import plant, write

    given = _given(folder.with_name("to plant"))
    people = [person(number) for number in range(PEOPLE)]
    folder.mkdir()
    for number, path in enumerate(path for path in given.files if path.stat().st_size < 500_000):
        with quiet(), contextlib.suppress(ValueError, TypeError, AttributeError, EOFError, KeyError):  # nothing to plant in
            file = pydicom.dcmread(path, force=True)
            if file.file_meta.get("TransferSyntaxUID") and "SOPClassUID" in file:
                write(plant(file, people[number % PEOPLE], number, Random(f"0 {number}")), folder / path.name)
    return Corpus(folder), people


def _two_workers(corpus: Corpus, place: Path) -> Iterator[Row]:
    """Wall time of the verb in the caller over that on two processes, with nothing found in pixels."""
    with mock.patch.object(ocr, "lines", _no_lines):
        begun = time.perf_counter()
        alone = _deidentified(corpus, place / "out")
        one = time.perf_counter() - begun
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=_blind) as executor:
        list(executor.map(time.sleep, [0.5, 0.5]))  # both have started
        begun = time.perf_counter()
        together = _deidentified(corpus, place / "out", executor=executor)
        two = time.perf_counter() - begun
    if alone != together:
        raise AssertionError("two workers made another Collection than one")
    yield Row("one patient after the other over two workers", 1 / two, "runs/s", "one worker, wall time", 1 / one, "≥ 1.7")


def _leaks(planted: Corpus, people: list[object], place: Path) -> Iterator[Row]:
    """How many of the planted forms, counted once per file, are still found in what a tool wrote."""
    from builders_corpus import leaks

    given = planted.files
    held = sum(leaks(planted.folder, people).values())
    reference = f"forms of identifiers in {len(given)} files given"
    with mock.patch.object(ocr, "lines", _no_lines):
        facts = _deidentified(planted, place / "out")
    left = sum(leaks(place / "out", people).values())
    yield Row(f"left by medpipe in {facts['instances']} instances", left, "forms", reference, held, "0")
    for name in PEERS:
        told = _peer(name, planted, place / "peer")
        if told and told["written"]:
            left = sum(leaks(place / "peer", people).values())
            yield Row(f"left by {name} in {told['written']} files", left, "forms", reference, held)
        elif told:
            print(f"{name}: wrote none of the {len(given)} files with identifiers in them")


def _peer(name: str, corpus: Corpus, out: Path) -> dict[str, Any] | None:
    """Run a peer with the interpreter that has it; None, and a word about it, where there is none."""
    shutil.rmtree(out, ignore_errors=True)
    script = Path(__file__).with_name("deid_peers.py")
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    done = subprocess.run([python, "-I", str(script), name, str(corpus.folder), str(out)], capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: not installed (PEERS_PYTHON names an interpreter that has it)")
        return None
    return dict(json.loads(done.stdout))
