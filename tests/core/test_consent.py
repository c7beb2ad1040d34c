"""What a permission covers: the Data Use Ontology against the purposes and conditions of a recipe, and the words of the evidence."""

from __future__ import annotations

from datetime import date
from typing import Any, get_args

import pytest

from medpipe import consent, duo, recipe
from medpipe.consent import Why, decide
from medpipe.errors import InputError
from medpipe.ledger import Entry
from medpipe.settings import ConsentSettings

DAY = date(2026, 6, 15)
WHO = "P0123456789abcdef"
DIABETES, ASTHMA = "MONDO:0005148", "MONDO:0004979"


def asked(purpose: str = "general", conditions: tuple[str, ...] = (), diseases: tuple[str, ...] = ()) -> ConsentSettings:
    diseases = diseases or ((DIABETES,) if purpose == "disease" else ())
    return recipe.build(
        {"consent": {"check": "ledger", "purpose": purpose, "conditions": list(conditions), "diseases": list(diseases)}}
    ).consent


def permit(permission: str, *modifiers: str, **changes: Any) -> Entry:
    if permission == "DS":
        changes.setdefault("diseases", (DIABETES,))
    return Entry(WHO, "permit", permission, modifiers, **changes)


@pytest.mark.parametrize("purpose", ["general", "health", "disease", "ancestry"])
@pytest.mark.parametrize("permission", list(duo.PERMISSIONS))
def test_a_permission_covers_its_own_purpose_and_narrower_ones(permission: str, purpose: str) -> None:
    yes = {
        "general": {"NRES", "GRU"},
        "health": {"NRES", "GRU", "HMB"},
        "disease": {"NRES", "GRU", "HMB", "DS"},
        "ancestry": {"NRES", "GRU", "POA"},
    }
    why = decide(permit(permission), asked(purpose), DAY)
    assert why == (None if permission in yes[purpose] else Why.OTHER_USE)


def test_a_permission_for_diseases_must_name_all_that_the_use_is_about() -> None:
    both = permit("DS", diseases=(DIABETES, ASTHMA))
    assert decide(both, asked("disease", diseases=(DIABETES,)), DAY) is None
    assert decide(both, asked("disease", diseases=(DIABETES, ASTHMA)), DAY) is None
    assert decide(permit("DS"), asked("disease", diseases=(DIABETES, ASTHMA)), DAY) is Why.OTHER_USE
    assert decide(permit("DS"), asked("disease", diseases=(ASTHMA,)), DAY) is Why.OTHER_USE


def test_who_is_not_on_record_or_withdrew_is_denied_whatever_the_purpose() -> None:
    for purpose in ("general", "health", "disease", "ancestry"):
        assert decide(None, asked(purpose), DAY) is Why.NOT_ON_RECORD
        assert decide(Entry(WHO, "withdraw"), asked(purpose), DAY) is Why.WITHDRAWN


@pytest.mark.parametrize("permission", ["GRU", "NRES", "HMB", "DS"])
@pytest.mark.parametrize("purpose", ["health", "disease"])
def test_no_recipe_lifts_what_forbids_training_a_generator(permission: str, purpose: str) -> None:
    every = tuple(get_args(get_args(ConsentSettings.model_fields["conditions"].annotation)[0]))
    for modifier in ("NMDS", "GSO"):
        assert modifier not in every
        assert decide(permit(permission, modifier), asked(purpose, every), DAY) in (Why.NO_GENERATOR, Why.OTHER_USE)
        with pytest.raises(InputError, match=r"consent\.conditions"):
            asked(purpose, (modifier,))


KEPT = [code for code in duo.MODIFIERS if code not in ("NMDS", "GSO", "TS", "MOR", "CC", "NPOA")]


@pytest.mark.parametrize("modifier", KEPT)
def test_a_condition_denies_unless_a_person_decided_that_the_use_keeps_it(modifier: str) -> None:
    assert decide(permit("GRU", modifier), asked(), DAY) is Why.CONDITION
    assert decide(permit("GRU", modifier), asked(conditions=(modifier,)), DAY) is None
    other = next(code for code in ("IRB", "PUB") if code != modifier)
    assert decide(permit("GRU", modifier), asked(conditions=(other,)), DAY) is Why.CONDITION
    assert decide(permit("GRU", modifier, "NMDS"), asked(conditions=(modifier,)), DAY) is Why.NO_GENERATOR


def test_not_for_profit_and_non_commercial_use_are_two_conditions_and_one_code_for_both() -> None:
    assert decide(permit("GRU", "NPUNCU"), asked(conditions=("NPU",)), DAY) is Why.CONDITION
    assert decide(permit("GRU", "NPUNCU"), asked(conditions=("NPU", "NCU")), DAY) is None
    assert decide(permit("GRU", "NPU", "NCU"), asked(conditions=("NPUNCU",)), DAY) is None


@pytest.mark.parametrize(("purpose", "kept", "why"), [
    ("general", (), Why.CONDITION), ("general", ("NPOA",), None), ("health", (), None), ("disease", (), None),
    ("ancestry", (), Why.OTHER_USE), ("ancestry", ("NPOA",), Why.OTHER_USE),
])  # fmt: skip
def test_no_research_on_origins_leaves_health_research_alone(purpose: str, kept: tuple[str, ...], why: Why | None) -> None:
    assert decide(permit("GRU", "NPOA"), asked(purpose, kept), DAY) == why


def test_clinical_care_adds_a_use_and_takes_none_away() -> None:
    assert decide(permit("GRU", "CC"), asked(), DAY) is None


@pytest.mark.parametrize(("start", "end", "why"), [
    (None, None, None), (DAY, DAY, None), (date(2026, 6, 16), None, Why.NOT_YET_VALID), (None, date(2026, 6, 14), Why.ENDED),
])  # fmt: skip
def test_a_permission_holds_from_its_first_to_its_last_day(start: date | None, end: date | None, why: Why | None) -> None:
    assert decide(permit("GRU", valid_from=start, valid_to=end), asked(), DAY) == why


def test_a_time_limit_and_a_moratorium_need_their_day() -> None:
    assert decide(permit("GRU", "TS"), asked(), DAY) is Why.ENDED
    assert decide(permit("GRU", "TS", valid_to=DAY), asked(), DAY) is None
    assert decide(permit("GRU", "MOR"), asked(), DAY) is Why.NOT_YET_VALID
    assert decide(permit("GRU", "MOR", publish_from=date(2026, 6, 16)), asked(), DAY) is Why.NOT_YET_VALID
    assert decide(permit("GRU", "MOR", publish_from=DAY), asked(), DAY) is None


def test_a_code_that_this_version_does_not_know_denies() -> None:
    assert decide(permit("XYZ"), asked(), DAY) is Why.UNKNOWN_CODE
    assert decide(permit("GRU", "XYZ"), asked(), DAY) is Why.UNKNOWN_CODE
    assert decide(permit(""), asked(), DAY) is Why.UNKNOWN_CODE


@pytest.mark.parametrize(
    "text", ["GRU", " gru ", "DUO:0000042", "duo_0000042", "http://purl.obolibrary.org/obo/DUO_0000042", "https://x.org/DUO:0000042"]
)
def test_a_code_is_read_in_every_form_that_people_write(text: str) -> None:
    assert duo.code(text) == "GRU"


@pytest.mark.parametrize("text", ["", "GRUX", "DUO:9999999", "0000042", "general research", "DUO:0000042x"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no code of the Data Use Ontology"):
        duo.code(text)


def test_the_ontologys_numbers_are_each_used_once() -> None:
    numbers = [identifier for identifier, _ in (duo.PERMISSIONS | duo.MODIFIERS).values()]
    assert len(set(numbers)) == len(numbers) == 23


@pytest.mark.parametrize("section", [{"purpose": "disease"}, {"diseases": [DIABETES]}, {"diseases": ["asthma of J. Smith"]}])
def test_a_recipe_names_diseases_by_code_where_and_only_where_its_purpose_is_one(section: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"consent\.diseases"):
        recipe.build({"consent": section})


FACTS: dict[str, Any] = {
    "check": "ledger", "settings": asked("health", ("IRB",)).model_dump(mode="json"), "judged_on": "2026-06-15",
    "permitted": 240, "denied": {"withdrawn": 5, "not on record": 20}, "head": "ab" * 32, "entries": 245,
}  # fmt: skip


def test_evidence_says_what_was_asked_with_counts_that_tell_of_nobody() -> None:
    found = consent.evidence(FACTS, 11)
    assert set(found) == set(consent.FIELDS)
    assert found["checked"] is True
    assert found["patients"] == {"permitted": 240, "denied": 25}
    assert found["ledger_head"] == "ab" * 32
    assert "health research" in found["statement"]
    assert "IRB" in found["statement"]
    assert "legal question" in found["statement"]


@pytest.mark.parametrize(("permitted", "denied"), [(240, {"withdrawn": 1}), (3, {"not on record": 200})])
def test_one_small_count_hides_both_since_their_sum_could_be_known(permitted: int, denied: dict[str, int]) -> None:
    assert consent.evidence({**FACTS, "permitted": permitted, "denied": denied}, 11)["patients"] == {"permitted": None, "denied": None}


@pytest.mark.parametrize("facts", [None, {}, {"check": "off", "head": "ab" * 32, "entries": 3, "denied": {"withdrawn": 2}}])
def test_evidence_of_a_chain_that_did_not_ask_says_so(facts: dict[str, Any] | None) -> None:
    found = consent.evidence(facts, 11)
    assert found["checked"] is False
    assert "was not checked" in found["statement"]
    assert set(found) <= set(consent.FIELDS)
