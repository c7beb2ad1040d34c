"""A patient withdraws: recorded, blocked and listed, as a flow. Prefect keeps what it is given, so patients come by pseudonym alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import spoken
from tasks import stages

Pseudonym = Annotated[str, Field(pattern="^P[0-9a-f]{16}$")]


@flow(name="withdraw", flow_run_name="withdraw", persist_result=False)
@spoken
def withdraw(
    patients: Annotated[list[Pseudonym], Field(min_length=1)],
    workspace: Path,
    key_file: Path | None = None,
    ledger_file: Path | None = None,
) -> Path:
    """Record that patients withdrew consent: nothing more is trained on their images or released from them.

    Shows which records of the workspace descend from them, and takes release/current away where it leads to such a release.

    Args:
        patients: Pseudonyms, P and 16 hexadecimal digits, never Patient IDs: 'medpipe consent show --patients -' turns those into these.
        workspace: Folder of the workspace whose records descend from the patients.
        key_file: File of the pseudonym key on the worker's machine; empty means that of the workspace. A path, never the key.
        ledger_file: File of the consent ledger on the worker's machine; empty means that of the workspace.
    """
    return stages.withdraw(patients, workspace, key_file, ledger_file)
