"""The audit of a run: what was done to how many elements, and why files were set aside. Counts and ordinals, never values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medpipe.deid import faces, profile
from medpipe.recipe import Recipe
from medpipe.records import write_json
from medpipe.sources.folder import SENTENCES, Reason


def write(
    path: Path,
    recipe: Recipe,
    files: int,
    reasons: dict[int, Reason],
    actions: Counter[str],
    table: Counter[str],
    heads: list[dict[str, Any]],
) -> None:
    """Write the audit of a folder of `files` files; a file is named by its place in the sorted listing, from 0.

    `heads` is what was found in each volume of a head, with the figures of its check.
    """
    listed: dict[Reason, list[int]] = {}
    for ordinal, reason in sorted(reasons.items()):
        listed.setdefault(reason, []).append(ordinal)
    text: dict[str, Any] = {
        "profile": profile.edition(),
        "options": profile.options_edition(),
        "codes": [list(code) for code in _codes(recipe, actions)],
        "files": files,
        "not_in_the_collection": {
            str(reason): {"files": len(ordinals), "meaning": SENTENCES[reason], "ordinals": ordinals} for reason, ordinals in listed.items()
        },
        "actions": dict(actions),
        "heads": heads,
        "table": dict(table),
    }
    write_json(path, text)


def _codes(recipe: Recipe, actions: Counter[str]) -> list[tuple[str, str]]:
    return profile.codes(recipe.deid, pixels_cleaned=actions["frames searched for text"] > 0, faces_cleaned=actions[faces.DEFACED] > 0)
