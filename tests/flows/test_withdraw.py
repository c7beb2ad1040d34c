"""A patient withdraws through Prefect, which is told pseudonyms and places alone."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders_deid import hospital, settings
from jsonschema import Draft202012Validator
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

from flows.withdraw import withdraw
from medpipe import chain, ledger
from medpipe.errors import ConsentError, InputError

pytestmark = pytest.mark.usefixtures("prefect_server")


def stored() -> str:
    """Everything that Prefect's database holds."""
    url = PREFECT_SERVER_DATABASE_CONNECTION_URL.value()
    assert url is not None
    with sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///")) as database:
        return "\n".join(database.iterdump())


def test_the_form_takes_pseudonyms_and_nothing_that_could_be_a_patient_id() -> None:
    schema: dict[str, Any] = withdraw.parameters.model_dump()
    fields = schema["properties"]
    assert set(fields) == {"patients", "workspace", "key_file", "ledger_file"}
    assert all(field["description"] for field in fields.values())
    form = Draft202012Validator({"type": "object", "properties": {"patients": fields["patients"]}})
    assert form.is_valid({"patients": ["P" + "0a" * 8]})
    for wrong in ([], ["MRN000001"], ["P" + "0A" * 8], ["P" + "0a" * 9], "P" + "0a" * 8):
        assert not form.is_valid({"patients": wrong})


def test_a_patient_id_in_the_form_is_refused_by_the_server_and_not_kept() -> None:
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(withdraw)
        deployment = client.create_deployment(flow_id, "patients", parameter_openapi_schema=withdraw.parameters.model_dump())
        with pytest.raises(PrefectHTTPStatusError):
            client.create_flow_run_from_deployment(deployment, parameters={"patients": ["MRN000001"], "workspace": "w"})
        client.create_flow_run_from_deployment(deployment, parameters={"patients": ["P" + "0a" * 8], "workspace": "w"})
    assert "MRN0" not in stored()
    assert "P" + "0a" * 8 in stored()


def test_a_withdrawal_is_recorded_and_what_descends_is_an_artifact(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    source, recipe = hospital(tmp_path / "in"), settings()
    made = chain.deidentify(workspace, source, recipe, chain.keys(workspace))
    who = pd.read_parquet(made.path / "index.parquet")["patient"][0]
    state = withdraw([who], workspace, return_state=True)
    assert state.is_completed(), state.message
    assert state.result() == ledger.place(workspace)
    book = ledger.load(ledger.place(workspace))
    assert book is not None
    assert book.withdrawn == {who}
    run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        (shown,) = [item for item in client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run)) if item.key == "withdrawal"]
    assert made.path.name in str(shown.data)
    assert "1 withdrawals recorded" in str(shown.description)
    assert not re.search("MRN0|Family", stored())
    again = chain.deidentify(workspace, source, recipe, chain.keys(workspace))
    assert again.facts["set_aside"] == {"CONSENT_REFUSED": 2}


def test_a_withdrawal_in_a_workspace_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    state = withdraw(["P" + "0a" * 8], tmp_path / "nowhere", return_state=True)
    assert state.name == "InputError"
    assert isinstance(state.result(raise_on_failure=False), InputError)
    assert state.message is not None
    assert "there is no pseudonym key" in state.message


def test_a_refresh_that_lacks_consent_ends_as_such(tmp_path: Path) -> None:
    from flows.deidentify import deidentify
    from medpipe.recipe import build

    source = hospital(tmp_path / "in")
    asking = build({"consent": {"check": "ledger"}})
    state = deidentify(source, tmp_path / "workspace", asking, return_state=True)
    assert state.name == "ConsentError"
    assert isinstance(state.result(raise_on_failure=False), ConsentError)
