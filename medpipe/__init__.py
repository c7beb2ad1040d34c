"""medpipe turns a hospital's images into synthetic cohorts that may be shared.

    from medpipe import Keys, load_recipe, run

    recipe = load_recipe("pneumoniamnist")
    release = run(source, workspace, recipe, Keys(workspace / "pseudonym.key", workspace / "signing.key"))

The six verbs (`deidentify`, `preprocess`, `train`, `generate`, `validate`, `release`) go from record to record; `run`
composes them in a workspace. Names are imported when they are first used: `import medpipe` brings neither torch nor
Prefect, and the library never imports Prefect.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import medpipe.release  # noqa: F401 - the room has the verb's name: bound now and deleted below, it never hides the verb later

if TYPE_CHECKING:
    from medpipe.chain import Keys, run
    from medpipe.cohort.generate import generate
    from medpipe.comparison import compare
    from medpipe.deid.deidentify import deidentify
    from medpipe.diffusion.train import train
    from medpipe.errors import ConsentError, GateFailed, InputError, MedpipeError, PrivacyError, RecordError
    from medpipe.gates.audit import audit
    from medpipe.gates.neighbours import neighbours
    from medpipe.gates.validate import validate
    from medpipe.images.dataset import Dataset
    from medpipe.images.preprocess import preprocess
    from medpipe.recipe import Recipe
    from medpipe.recipe import load as load_recipe
    from medpipe.records import Record
    from medpipe.records import load as load_record
    from medpipe.release.release import release
    from medpipe.withdrawal import withdraw

__version__ = "0.1.0"

__all__ = [
    "ConsentError",
    "Dataset",
    "GateFailed",
    "InputError",
    "Keys",
    "MedpipeError",
    "PrivacyError",
    "Recipe",
    "Record",
    "RecordError",
    "audit",
    "compare",
    "deidentify",
    "generate",
    "load_recipe",
    "load_record",
    "neighbours",
    "preprocess",
    "release",
    "run",
    "train",
    "validate",
    "withdraw",
]

_HOMES = {
    "ConsentError": "medpipe.errors",
    "Dataset": "medpipe.images.dataset",
    "GateFailed": "medpipe.errors",
    "InputError": "medpipe.errors",
    "Keys": "medpipe.chain",
    "MedpipeError": "medpipe.errors",
    "PrivacyError": "medpipe.errors",
    "Recipe": "medpipe.recipe",
    "Record": "medpipe.records",
    "RecordError": "medpipe.errors",
    "audit": "medpipe.gates.audit",
    "compare": "medpipe.comparison",
    "deidentify": "medpipe.deid.deidentify",
    "generate": "medpipe.cohort.generate",
    "load_recipe": "medpipe.recipe:load",
    "load_record": "medpipe.records:load",
    "neighbours": "medpipe.gates.neighbours",
    "preprocess": "medpipe.images.preprocess",
    "release": "medpipe.release.release",
    "run": "medpipe.chain",
    "train": "medpipe.diffusion.train",
    "validate": "medpipe.gates.validate",
    "withdraw": "medpipe.withdrawal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medpipe' has no attribute '{name}'")
    home, _, called = _HOMES[name].partition(":")
    return getattr(import_module(home), called or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


del release
