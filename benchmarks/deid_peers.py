"""One peer's de-identification of a folder of files, run by `benchmarks.deid` with an interpreter that has the peer.

`python -I deid_peers.py NAME SOURCE OUT` prints JSON: the peer's version, processor seconds, and how many files it wrote.
Each peer runs with its own defaults; a file that it fails on is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

Work = Callable[[Path, Path], object]


def dicom_anonymizer() -> Work:
    """Kitware's dicom-anonymizer: the Basic Profile's table."""
    anonymize = importlib.import_module("dicomanonymizer").anonymize_dicom_file
    return lambda source, target: anonymize(str(source), str(target))


def dicognito() -> Work:
    """Conrad's dicognito: consistent pseudonyms."""
    pydicom = importlib.import_module("pydicom")
    anonymizer = importlib.import_module("dicognito.anonymizer").Anonymizer(seed="benchmark")

    def work(source: Path, target: Path) -> None:
        dataset = pydicom.dcmread(source, force=True)
        anonymizer.anonymize(dataset)
        dataset.save_as(target)

    return work


def deid() -> Work:
    """Pydicom's deid: its default recipe."""
    dicom = importlib.import_module("deid.dicom")

    def work(source: Path, target: Path) -> None:
        found = dicom.get_identifiers([str(source)])
        dicom.replace_identifiers(dicom_files=[str(source)], ids=found, save=True, overwrite=True, output_folder=str(target.parent))

    return work


PEERS = {"dicom-anonymizer": dicom_anonymizer, "dicognito": dicognito, "deid": deid}


def main(name: str, source: Path, out: Path) -> None:
    """De-identify every file of `source` into `out` and say how long it took."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    out.mkdir(parents=True)
    files = sorted(source.iterdir())
    said = sys.stdout
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        work = PEERS[name]()
        begun = time.process_time()
        for path in files:
            with contextlib.suppress(Exception):  # whatever a peer raises: it has no result for this file
                work(path, out / path.name)
        seconds = time.process_time() - begun
    print(json.dumps({"version": version(name), "seconds": seconds, "written": len(list(out.iterdir()))}), file=said)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
