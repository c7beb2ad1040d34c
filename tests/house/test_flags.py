"""The command line's flags are the recipe's fields: same names, same sentences, same limits."""

from __future__ import annotations

import argparse

import pytest

from medpipe.cli_flags import Parser, as_flags, recipe_from, run_arguments
from medpipe.errors import InputError
from medpipe.recipe import SECTIONS, Recipe

PLACES = [f"{section}.{field}" for section in SECTIONS for field in type(getattr(Recipe(), section)).model_fields]


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="run")
    run_arguments(parser)
    return parser


def parsed(parser: argparse.ArgumentParser, *flags: str) -> argparse.Namespace:
    arguments = parser.parse_args(["--recipe", "given below", "--source", "images", "--out", "workspace", *flags])
    arguments.recipe = None  # every default
    return arguments


@pytest.mark.parametrize("place", PLACES)
def test_every_setting_is_a_flag_with_the_settings_own_sentence_as_its_help(parser: argparse.ArgumentParser, place: str) -> None:
    section, field = place.split(".")
    description = type(getattr(Recipe(), section)).model_fields[field].description
    action = parser._option_string_actions[f"--{place}"]
    assert description
    assert action.help is not None
    assert action.help.startswith(description.replace("%", "%%"))
    assert "default" in action.help


@pytest.mark.parametrize("place", PLACES)
def test_the_default_of_every_setting_can_be_given_as_a_flag(parser: argparse.ArgumentParser, place: str) -> None:
    section, field = place.split(".")
    value = getattr(getattr(Recipe(), section), field)
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    assert recipe_from(parsed(parser, f"--{place}={text}")) == Recipe()


@pytest.mark.parametrize(
    ("flags", "place", "value"),
    [
        (["--model.channels", "32, 64,96", "--model.blocks", "1,1,1"], "model.channels", [32, 64, 96]),
        (["--train.flip", "true"], "train.flip", True),
        (["--train.flip", "no"], "train.flip", False),
        (["--images.dimensions", "3"], "images.dimensions", 3),
        (["--images.spacing_mm", "1.5"], "images.spacing_mm", 1.5),
        (["--images.spacing_mm", "none"], "images.spacing_mm", None),
        (["--source.categorical", "PatientSex,site"], "source.categorical", ["PatientSex", "site"]),
        (["--source.categorical", ""], "source.categorical", []),
        (["--train.learning_rate", "1e-3"], "train.learning_rate", 0.001),
        (["--compute.scheduler", "tcp://10.0.0.1:8786"], "compute.scheduler", "tcp://10.0.0.1:8786"),
    ],
)
def test_flags_are_read_as_the_settings_kind(parser: argparse.ArgumentParser, flags: list[str], place: str, value: object) -> None:
    section, field = place.split(".")
    arguments = parsed(parser, *flags)
    assert getattr(getattr(recipe_from(arguments), section), field) == value
    assert recipe_from(parsed(parser, *as_flags(arguments))) == recipe_from(arguments)


@pytest.mark.parametrize("flag", ["--train.images=0", "--train.flip=perhaps", "--model.channels=a", "--images.dimensions=4", "--seed=-1"])
def test_a_wrong_value_is_the_recipes_own_sentence(parser: argparse.ArgumentParser, flag: str) -> None:
    with pytest.raises(InputError, match="the recipe is wrong"):
        recipe_from(parsed(parser, flag))


def test_a_mistyped_flag_is_refused_and_the_near_one_named(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(parser, "--train.imags", "3")
    assert ended.value.code == 2
    assert "--train.imags is not a flag, did you mean --train.images?" in capsys.readouterr().err
