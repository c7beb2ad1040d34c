"""Input that is broken or hostile: a reason code in bounded time and memory, never a crash, never an image passed unseen."""

from __future__ import annotations

import io
import time
import zlib
from pathlib import Path
from random import Random

import pydicom
import pytest
from builders_deid import canary, instance, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medpipe.deid import instance as instances
from medpipe.deid import reading
from medpipe.deid.actions import Cleaner
from medpipe.deid.identifiers import Identifiers
from medpipe.deid.needles import Needles
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.reading import quiet, read
from medpipe.settings import DeidSettings
from medpipe.sources.folder import Reason

NAMES = Pseudonyms(b"k" * 32)
SECONDS = 20.0


def became(path: Path, folder: Path) -> str:
    """De-identify one file as a patient of its own; return its reason code, or "output" after a search of what was written."""
    with quiet():
        dataset = read(path)
        if isinstance(dataset, Reason):
            return str(dataset)
        identifiers = Identifiers()
        identifiers.gather(dataset)
        cleaner = Cleaner(DeidSettings(objects="all"), NAMES, identifiers, "P1", -7)
        anywhere, alone = identifiers.needles()
        needles = Needles(frozenset(anywhere), frozenset(alone))
        outcome = instances.deidentify(dataset, folder / "out.dcm", folder / "tmp", cleaner, needles, [])
    return str(outcome.reason or "output")


def test_a_deflated_file_that_swells_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "INFLATED_MAX", 2**22)
    file = instance()
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(file, tmp_path / "a.dcm")
    assert became(path, tmp_path) == "output"
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(data[:start] + squeezer.compress(b"\0" * 2**24) + squeezer.flush())
    assert path.stat().st_size < 2**16
    assert became(path, tmp_path) == "MALFORMED"


def test_sequences_a_hundred_deep_and_ten_thousand_private_elements_end_in_bounded_time(tmp_path: Path) -> None:
    file, inner = canary(), Dataset()
    inner.PatientName = "Nested^Deep"
    for _ in range(100):
        outer = Dataset()
        outer.RequestAttributesSequence = Sequence([inner])
        inner = outer
    file.RequestAttributesSequence = Sequence([inner])
    for group in range(0x0009, 0x0009 + 2 * 40, 2):
        block = file.private_block(group, "ACME", create=True)
        for element in range(250):
            block.add_new(element, "LO", f"Nested^Deep {element}")
    begun = time.monotonic()
    assert became(save(file, tmp_path / "deep.dcm"), tmp_path) in ("output", "MALFORMED")
    assert time.monotonic() - begun < SECONDS
    assert b"Nested" not in (tmp_path / "out.dcm").read_bytes() if (tmp_path / "out.dcm").exists() else True


def seeds() -> list[bytes]:
    """Small files to begin from: two byte orders, implicit and explicit, sequences, private blocks, many scripts."""
    folder = Path(pydicom.__file__).parent / "data"
    names = ("MR_small_implicit.dcm", "reportsi.dcm", "CT_small.dcm", "rtplan.dcm", "MR_small_bigendian.dcm", "nested_priv_SQ.dcm")
    found = [path.read_bytes() for path in sorted(folder.rglob("*.dcm")) if path.name in names]
    buffer = io.BytesIO()
    canary().save_as(buffer, enforce_file_format=True)
    return [data for data in found if len(data) < 12_000] + [buffer.getvalue()]


def mutated(data: bytes, draws: Random) -> bytes:
    """Return a file with a few bytes changed, doubled, moved or cut, mostly in its header."""
    out = bytearray(data)
    for _ in range(draws.randint(1, 8)):
        place = draws.randrange(len(out)) if draws.random() < 0.3 else draws.randrange(min(len(out), 1200))
        match draws.randrange(5):
            case 0:
                out[place] = draws.randrange(256)
            case 1:
                out[place : place + 4] = draws.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"))
            case 2:
                out[place:place] = out[place : place + draws.randint(1, 64)]
            case 3:
                del out[place : place + draws.randint(1, 16)]
            case _:
                out[place : place + 2] = draws.choice((b"SQ", b"UN", b"OB", b"PN", b"UT", b"DS", b"UI"))
        if not out:
            return b"\0"
    return bytes(out[: draws.randrange(len(out))] if draws.random() < 0.1 else out)


def fuzzed(count: int, seed: int, folder: Path) -> dict[str, int]:
    """Try `count` mutated files; return how often each outcome came."""
    begin, draws, outcomes = seeds(), Random(seed), dict[str, int]()
    path = folder / "f.dcm"
    for number in range(count):
        data = mutated(draws.choice(begin), draws)
        path.write_bytes(data)
        begun = time.monotonic()
        try:
            what = became(path, folder)
        except Exception as error:
            kept = folder / f"broke-{seed}-{number}.dcm"
            kept.write_bytes(data)
            raise AssertionError(f"file {number} of seed {seed} raised {type(error).__name__}, kept as {kept.name}") from error
        assert time.monotonic() - begun < SECONDS, f"file {number} of seed {seed} took too long"
        outcomes[what] = outcomes.get(what, 0) + 1
    return outcomes


def test_mutated_files_never_raise(tmp_path: Path) -> None:
    outcomes = fuzzed(400, 0, tmp_path)
    assert len(outcomes) >= 3, outcomes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_thousand_mutated_files_never_raise(tmp_path: Path, seed: int) -> None:
    fuzzed(50_000, seed, tmp_path)
