"""Lineage where two records hold the same bytes: a model is the same with and without a patient whom training does not see."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medpipe import lineage, records
from medpipe.errors import RecordError
from medpipe.records import MadeFrom, Noun, Record
from medpipe.verify import chain_of, verify

STAYS, LEAVES = "P-stays", "P-leaves"


def make(workspace: Path, noun: Noun, inputs: Mapping[str, Record], payload: bytes = b"", patients: tuple[str, ...] = ()) -> Record:
    made_from = MadeFrom(noun, {role: record.content for role, record in inputs.items()}, {"payload": payload.hex()}, 0, "1")
    with records.making(made_from.place(workspace), made_from) as building:
        (building.path / "payload").write_bytes(payload)
        if patients:
            pd.DataFrame({"patient": patients}).to_parquet(building.path / lineage.INDEX)
        return building.seal({})


@pytest.fixture
def chains(tmp_path: Path) -> dict[str, Any]:
    """Two refreshes, the second without a patient, of which both trained the same model and made the same cohort."""
    found: dict[str, Any] = {"workspace": tmp_path}
    for name, patients in (("first", (STAYS, LEAVES)), ("second", (STAYS,))):
        collection = make(tmp_path, "Collection", {}, name.encode(), patients)
        dataset = make(tmp_path, "Dataset", {"collection": collection}, b"", patients)
        checkpoint = make(tmp_path, "Checkpoint", {"dataset": dataset}, b"the same weights")
        cohort = make(tmp_path, "Cohort", {"checkpoint": checkpoint}, b"the same images")
        report = make(tmp_path, "Report", {"cohort": cohort, "dataset": dataset, "checkpoint": checkpoint}, name.encode())
        release = make(tmp_path, "Release", {"cohort": cohort, "report": report}, name.encode())
        found[name] = {
            "collection": collection, "dataset": dataset, "checkpoint": checkpoint, "cohort": cohort, "report": report, "release": release
        }  # fmt: skip
    return found


def test_what_came_out_the_same_without_a_patient_does_not_descend_from_that_patient(chains: dict[str, Any]) -> None:
    first, second = chains["first"], chains["second"]
    assert first["checkpoint"].content == second["checkpoint"].content
    assert first["cohort"].path == second["cohort"].path
    descent = lineage.descent(lineage.nodes(chains["workspace"]), [LEAVES])
    wanted = [first[noun] for noun in ("collection", "dataset", "checkpoint", "report", "release")]
    assert {node.path for node in descent} == {record.path for record in wanted}
    everyone = lineage.descent(lineage.nodes(chains["workspace"]), [STAYS])
    assert {node.path for node in everyone} == {record.path for chain in (first, second) for record in chain.values()}


def test_the_patients_behind_the_second_release_are_those_of_the_second_dataset(chains: dict[str, Any]) -> None:
    first, second = chains["first"], chains["second"]
    assert lineage.patients_behind(second["cohort"], second["report"]) == ({STAYS}, [])
    assert lineage.patients_behind(first["cohort"], first["report"]) == ({STAYS, LEAVES}, [])
    assert lineage.patients_behind(first["cohort"]) == ({STAYS}, [])


@pytest.mark.parametrize("spoilt", ["deleted", "altered"])
def test_one_whole_way_back_is_enough_where_that_of_a_twin_was_spoilt(chains: dict[str, Any], spoilt: str) -> None:
    first, second = chains["first"], chains["second"]
    if spoilt == "deleted":
        shutil.rmtree(first["dataset"].path)
    else:
        (first["dataset"].path / lineage.INDEX).write_bytes(b"another")
    assert lineage.patients_behind(second["cohort"], second["report"]) == ({STAYS}, [])
    if spoilt == "deleted":
        assert lineage.patients_behind(first["report"])[1] == [f"the Dataset {first['dataset'].content[:12]}"]
        shutil.rmtree(second["dataset"].path)
        assert lineage.patients_behind(second["cohort"])[1]
    else:
        with pytest.raises(RecordError, match="altered"):
            lineage.patients_behind(first["report"])


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_chain_of_either_release_is_its_own(chains: dict[str, Any], name: str) -> None:
    chain = chains[name]
    assert verify(chain["release"].path) == []
    assert {link.path for link in chain_of(chain["release"].path)} == {record.path for record in chain.values()}


def test_while_only_one_of_the_two_is_there_all_descends(chains: dict[str, Any]) -> None:
    second = chains["second"]
    for noun in ("release", "report", "checkpoint", "dataset", "collection"):
        (second[noun].path / records.RECORD).unlink()
    descent = lineage.descent(lineage.nodes(chains["workspace"]), [LEAVES])
    assert {record.path for record in chains["first"].values()} <= {node.path for node in descent}
