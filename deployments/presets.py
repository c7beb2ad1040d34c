"""Build steps of `prefect.yaml`: values for its placeholders that are known elsewhere, so that the two cannot differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medpipe import recipe


def recipes() -> dict[str, Any]:
    """Return the settings of every recipe that medpipe carries: the defaults that a deployment's form is filled with."""
    return {name: recipe.load(name).model_dump(mode="json") for name in recipe.names()}


def here() -> dict[str, str]:
    """Return the folder of `prefect deploy`: relative paths in a form are below it, on a worker too."""
    return {"directory": str(Path.cwd())}
