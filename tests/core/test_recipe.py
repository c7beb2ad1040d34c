"""The Recipe: every wrong key or value is one sentence, and the form says what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medpipe import recipe as recipes
from medpipe.errors import InputError
from medpipe.recipe import SECTIONS, Recipe


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_that_medpipe_carries_is_valid_and_says_what_it_is(name: str) -> None:
    loaded = recipes.load(name)
    assert loaded.name == name
    assert len(recipes.headline(name)) > 20


def test_a_recipe_survives_writing_and_reading() -> None:
    recipe = recipes.build({"seed": 5, "model": {"channels": [32], "blocks": [1]}, "source": {"categorical": ["PatientSex"]}})
    assert recipes.build(yaml.safe_load(recipes.dump(recipe))) == recipe


def test_a_file_is_read_and_changes_are_laid_over_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntrain:\n  images: 10\n  batch: 4\nrelease:\n")
    recipe = recipes.load(path, {"train": {"images": 20}, "release": {"name": "other-name"}})
    assert (recipe.train.images, recipe.train.batch, recipe.release.name) == (20, 4, "other-name")


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"trian": {}}, "trian is not a setting"),
        ({"train": {"imgs": 3}}, r"train\.imgs is not a setting"),
        ({"train": {"images": 0}}, r"train\.images: .*greater than or equal to 1.*found 0"),
        ({"train": {"images": "many"}}, r"train\.images: .*valid integer.*found 'many'"),
        ({"train": {"images": 2.5}}, r"train\.images: .*valid integer.*found 2\.5"),
        ({"train": {"learning_rate": float("nan")}}, r"train\.learning_rate: "),
        ({"train": 3}, "train: "),
        ({"train": None}, "train: "),
        ({"images": {"dimensions": 4}}, r"images\.dimensions: .*2 or 3"),
        ({"images": {"validation": 1.5}}, r"images\.validation: .*less than or equal to 1"),
        ({"cohort": {"sampler": "eular"}}, r"cohort\.sampler: .*'dpmpp_2m'"),
        ({"release": {"name": "Has Spaces"}}, r"release\.name: "),
        ({"release": {"version": "1"}}, r"release\.version: "),
        ({"compute": {"scheduler": "http://scheduler"}}, r"compute\.scheduler: "),
        ({"model": {"channels": [64, -1]}}, r"model\.channels\.1: "),
        ({"seed": -1}, "seed: "),
        ({"seed": 2**31}, "seed: "),
        ({"name": "../up"}, "name: "),
        ({"images": {"validation": 0.3, "holdout": 0.3, "test": 0.2}}, "leave less than 0.3 for training"),
        ({"model": {"channels": [64], "blocks": [1, 1]}}, "one entry per resolution"),
        ({"model": {"channels": [], "blocks": []}}, r"model\.channels: "),
        ({"images": {"size": 30}}, "must be a multiple of 4"),
        ({"images": {"sides": [32, 30]}}, r"images\.sides must be a multiple of 4"),
        ({"images": {"sides": [32, 48, 32]}}, r"images\.sides needs 2 entries"),
        ({"cohort": {"sigma_min": 90}}, r"sigma_min must be below"),
        ({"source": {"form": "arrays", "label": "finding"}}, "arrays carry their own labels"),
        ({"images": {"split": "blocks"}}, "must be 'patient' for DICOM"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_rule_in_one_sentence(tree: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        recipes.build(tree)
    assert "\n" not in str(error.value)
    assert "pydantic" not in str(error.value)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"train\.images.*; .*cohort\.steps"):
        recipes.build({"train": {"images": 0}, "cohort": {"steps": 0}})


@pytest.mark.parametrize("place", [f"{s}.{f}" for s in SECTIONS for f in getattr(Recipe(), s).__class__.model_fields])
def test_no_field_takes_a_value_of_another_kind(place: str) -> None:
    section, field = place.split(".")
    with pytest.raises(InputError, match=place):
        recipes.build({section: {field: {"a": 1}}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: [1, 2", r"not valid YAML \(line"),
        ("- a\n- b\n", "mapping of sections"),
        ("just words", "mapping of sections"),
        ("train:\n  images: 3\ntrain:\n  batch: 4\n", "twice"),
        ("1: 2", "Keys should be strings"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as error:
        recipes.load(path)
    assert "\n" not in str(error.value)


def test_an_unreadable_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="cannot be read"):
        recipes.load(tmp_path / "r.yaml")
    with pytest.raises(InputError, match="no recipe 'nowhere'"):
        recipes.load("nowhere")
    with pytest.raises(InputError, match="no recipe"):
        recipes.load(tmp_path)


def test_an_empty_file_is_every_default(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("# nothing yet\n")
    assert recipes.load(tmp_path / "r.yaml") == Recipe()


def _leaves(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    out = []
    for section in SECTIONS:
        definition = schema["$defs"][schema["properties"][section]["$ref"].rsplit("/", 1)[1]]
        out += [(f"{section}.{name}", field) for name, field in definition["properties"].items()]
    return out


FORM = _leaves(Recipe.model_json_schema())


@pytest.mark.parametrize(("place", "field"), FORM, ids=[place for place, _ in FORM])
def test_the_form_describes_every_field_and_can_draw_it(place: str, field: dict[str, Any]) -> None:
    assert field.get("description", "").endswith((".", ")")), "a sentence is needed under the field"
    assert "default" in field
    kinds = [option.get("type", "enum" if "enum" in option or "const" in option else "?") for option in field.get("anyOf", [field])]
    drawable = {"string", "integer", "number", "boolean", "array", "enum", "null"}
    assert set(kinds) <= drawable, "the Prefect form shows this as raw JSON"
    assert len([kind for kind in kinds if kind != "null"]) == 1, "one kind of value, or none"


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().train.images = 3  # type: ignore[misc]


def test_settings_of_compute_are_asked_for_by_nobody_but_themselves() -> None:
    assert set(Recipe().settings("train", "model")) == {"train", "model"}
