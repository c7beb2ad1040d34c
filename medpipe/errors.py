"""The errors that medpipe raises on purpose, and the exit status of each.

    MedpipeError                 ours: final; running again changes nothing
    ├── InputError               what was given cannot be used
    ├── PrivacyError             stop at once; nothing is written
    ├── ConsentError             no permission on record, or it was withdrawn
    ├── RecordError              a record is missing, altered, or made from something else
    └── GateFailed               a gate said no: release refused (carries the Report), or an autoencoder unfit for diffusion
    (anything else)              OSError, out of memory, a lost worker: may be retried

A message names the value or place, the rule and the remedy in one sentence, and never a patient's value:
an element is named by its keyword and tag, an instance by its new UID, a file by its place in the listing.
"""

from __future__ import annotations

from pathlib import Path


class MedpipeError(Exception):
    """What went wrong is ours to name: running the same again gives the same error."""

    exit_status = 1


class InputError(MedpipeError):
    """What was given (a folder, a file, a recipe, a value) cannot be used."""

    exit_status = 2


class PrivacyError(MedpipeError):
    """A patient's data would leave its room: stop at once, write nothing."""


class ConsentError(MedpipeError):
    """There is no permission on record for this use, or it was withdrawn."""

    exit_status = 3


class RecordError(MedpipeError):
    """A record is missing, was altered, or was made from something else."""

    exit_status = 2


class GateFailed(MedpipeError):
    """A gate said no: nothing is released, or trained on. `report` is the path of the Report that says why, where there is one."""

    exit_status = 3

    def __init__(self, message: str, report: Path | None = None) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[GateFailed], tuple[str, Path | None]]:
        return (type(self), (str(self), self.report))
