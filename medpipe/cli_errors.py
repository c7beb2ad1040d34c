"""Errors as a person meets them at the command line: one sentence on stderr and an exit status, no traceback.

0 done · 1 something failed · 2 wrong input · 3 a gate said no or consent is missing · 130 stopped by the person. What
is not ours to word (a library's message, a path inside the source) may hold a patient's value and is therefore not
shown, only its kind.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor

from medpipe.errors import MedpipeError

INTERRUPTED = 130
GO_ON = "run the same command again to go on from there"

_SYSTEM = {
    errno.ENOSPC: "the disk is full: free some space, then " + GO_ON,
    errno.EDQUOT: "the disk quota is used up: free some space, then " + GO_ON,
    errno.EROFS: "the folder to write lies on a read-only disk: give another place with --out",
    errno.EACCES: "a file or folder is not permitted to this user: correct its permissions, or give another place",
    errno.EPERM: "a file or folder is not permitted to this user: correct its permissions, or give another place",
    errno.ENOTDIR: "a part of the path to write is a file, not a folder: give another place",
    errno.EMFILE: "too many files are open: raise the limit with 'ulimit -n', then " + GO_ON,
    errno.EIO: "the disk gave an input/output error: check the disk, then " + GO_ON,
}


def guarded(work: Callable[[], int], debug: bool = False) -> int:
    """Run `work` and return its exit status, or say on stderr what went wrong and return that status."""
    try:
        return work()
    except Exception as error:
        if debug:
            traceback.print_exc()
        sentence, status = explain(error)
        print(f"medpipe: {sentence}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        print(f"\nmedpipe: stopped; {GO_ON}", file=sys.stderr)
        return INTERRUPTED


def explain(error: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit status of an error; the sentence holds nothing that we did not word ourselves."""
    if isinstance(error, MedpipeError):
        return str(error), error.exit_status
    if isinstance(error, BlockingIOError) and error.errno is None:
        return str(error), 1  # records.making names the record that another process is making
    if isinstance(error, ChildProcessError) and error.errno is None:
        return str(error), 1  # launch.ranks says how often processes of training died
    if number := _system(error):
        return _SYSTEM[number], 1
    if isinstance(error, BrokenExecutor):
        return f"a worker process died, most often for lack of memory: lower compute.workers, then {GO_ON}", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"memory ran out: lower train.batch, cohort.batch or compute.workers, then {GO_ON}", 1
    return f"failed unexpectedly ({_kind(error)}): {GO_ON}, or add --debug to see where it failed", 1


def _system(error: BaseException | None) -> int | None:
    """The system's error behind `error`, where a library wrapped it: torch and safetensors tell a full disk only in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SYSTEM:
            return error.errno
        if "No space left on device" in str(error) or "os error 28" in str(error):
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None


def _kind(error: BaseException) -> str:
    """The kind of an error and of what caused it; never its text."""
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        kind += f" {errno.errorcode.get(error.errno, error.errno)}"
    cause = error.__cause__
    return kind if cause is None else f"{kind} from {_kind(cause)}"
