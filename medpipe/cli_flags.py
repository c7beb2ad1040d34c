"""The command line's flags, made from the Recipe: one per field, with the field's own sentence as its help.

`run_arguments(parser)` gives a parser everything that names a run, and `recipe_from(namespace)` turns what was typed
into a Recipe. `medpipe run` and `python -m flows.refresh` share them, so that both take the same flags; `as_flags` goes
the other way, from a namespace to the arguments that make it.
"""

from __future__ import annotations

import argparse
import difflib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from medpipe import recipe as recipes
from medpipe.recipe import SECTIONS, Recipe
from medpipe.settings import Section

SETTINGS_FLAGS = """Every setting of the recipe is a flag, --section.field VALUE; lists are separated by commas, yes and no are true and
false, 'none' empties an optional setting. A flag goes before the recipe, the recipe before the default shown."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence: with eighty flags, the usage would bury it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=36, width=120))
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: --"):
            flag = message.split()[2].partition("=")[0]
            near = difflib.get_close_matches(flag, [f"--{place}" for place in _places()], n=1)
            message = f"{flag} is not a flag" + (f", did you mean {near[0]}?" if near else "")
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names a run: recipe, source, workspace, keys, `--dry-run`, `--debug` and every setting.

    The namespace then has `recipe`, `source`, `out`, `key`, `signing_key`, `ledger` (None: kept in the workspace),
    `dry_run`, `debug` and what `recipe_from` reads.
    """
    parser.add_argument("--recipe", required=True, metavar="NAME|FILE", help="a recipe by name (medpipe recipe --list) or a YAML file")
    parser.add_argument("--source", required=True, type=Path, metavar="PATH", help="folder of DICOM files, or an .npz file of arrays")
    parser.add_argument("--out", required=True, type=Path, metavar="WORKSPACE", help="workspace folder; a second run goes on in it")
    key_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and what it costs, and do nothing")
    debug_argument(parser)
    settings_arguments(parser)


def key_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--key` and `--signing-key`, the files of the two secrets of a workspace, and `--ledger`."""
    parser.add_argument("--key", type=Path, metavar="FILE", help="pseudonym key, made where absent (default: WORKSPACE/private)")
    parser.add_argument("--signing-key", type=Path, metavar="FILE", help="signing key, made where absent (default: WORKSPACE/private)")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="consent ledger (default: consent.jsonl in WORKSPACE/private)")


def debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--debug`."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (it may hold patients' values)")


def settings_arguments(parser: argparse.ArgumentParser, shown: tuple[str, ...] = SECTIONS) -> None:
    """Add `--seed` and one flag per setting; sections that are not `shown` are taken too, but not listed in the help."""
    seed = Recipe.model_fields["seed"]
    parser.add_argument("--seed", metavar="N", help=_help(seed))
    for name in SECTIONS:
        section = _section(name)
        title = (section.__doc__ or name).strip().splitlines()[0].rstrip(".")
        group = parser.add_argument_group(f"{name}: {title}" if name in shown else None)
        for field, info in section.model_fields.items():
            text = _help(info) if name in shown else argparse.SUPPRESS
            group.add_argument(f"--{name}.{field}", metavar=_metavar(info.annotation), help=text, default=None)


def recipe_from(namespace: argparse.Namespace) -> Recipe:
    """Return the recipe that was named, with the flags that were given laid over it; raises InputError."""
    changes: dict[str, Any] = {}
    for section, field, info, text in _given(namespace):
        changes.setdefault(section, {})[field] = _value(info.annotation, text)
    if getattr(namespace, "seed", None) is not None:
        changes["seed"] = namespace.seed
    name = getattr(namespace, "recipe", None)
    return recipes.load(name, changes) if name is not None else recipes.build(changes)


def as_flags(namespace: argparse.Namespace) -> list[str]:
    """Return the `--seed` and `--section.field` arguments that were given: what another process needs to do the same."""
    flags = [part for section, field, _, text in _given(namespace) for part in (f"--{section}.{field}", text)]
    return flags if namespace.seed is None else ["--seed", namespace.seed, *flags]


def _given(namespace: argparse.Namespace) -> Iterator[tuple[str, str, FieldInfo, str]]:
    for section in SECTIONS:
        for field, info in _section(section).model_fields.items():
            text = getattr(namespace, f"{section}.{field}", None)
            if text is not None:
                yield section, field, info, text


def _places() -> list[str]:
    return [f"{name}.{field}" for name in SECTIONS for field in _section(name).model_fields]


def _section(name: str) -> type[Section]:
    section = Recipe.model_fields[name].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    return section


def _value(annotation: Any, text: str) -> Any:
    """Turn a flag's text into what pydantic can judge: it reads numbers and booleans itself, and says what is wrong."""
    annotation, optional = _bare(annotation)
    if optional and text.lower() in ("", "none"):
        return None
    if get_origin(annotation) is list:
        return [part.strip() for part in text.strip("[] ").split(",") if part.strip()]  # as YAML writes a list, or without its brackets
    if get_origin(annotation) is Literal and text.isdigit() and int(text) in get_args(annotation):
        return int(text)
    return text


def _bare(annotation: Any) -> tuple[Any, bool]:
    """Strip Annotated and Optional; say whether None is allowed."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _bare(kinds[0])[0], True
    return annotation, False


def _metavar(annotation: Any) -> str:
    kind, _ = _bare(annotation)
    if get_origin(kind) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(kind)) + "}"
    if get_origin(kind) is list:
        return f"{_metavar(get_args(kind)[0])},..."
    return {int: "N", float: "X", bool: "{true,false}"}.get(kind, "TEXT")


def _help(info: FieldInfo) -> str:
    """The field's sentence, its bounds and its default."""
    notes = [f"{sign} {value}" for sign, value in _bounds(info)]
    default = info.default
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, list):
        default = ",".join(str(entry) for entry in default) or "empty"
    notes.append(f"default {'none' if default is None else default}")
    return f"{info.description} ({'; '.join(notes)})".replace("%", "%%")


def _bounds(info: FieldInfo) -> Iterator[tuple[str, Any]]:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    metadata = [*info.metadata, *_inner_metadata(info.annotation)]
    for entry in metadata:
        for constraint in getattr(entry, "metadata", [entry]):
            yield from ((sign, getattr(constraint, name)) for name, sign in signs.items() if getattr(constraint, name, None) is not None)


def _inner_metadata(annotation: Any) -> list[Any]:
    """Constraints under an Optional or in a list: `Annotated[float, Field(gt=0)] | None`."""
    out: list[Any] = []
    for part in typing.get_args(annotation):
        if get_origin(part) is Annotated:
            out += get_args(part)[1:]
    return out
