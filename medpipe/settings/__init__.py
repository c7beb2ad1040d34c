"""The sections of a Recipe: every setting, its bounds and its default.

The sentence under a field is its comment, its `--help` text and its description in the Prefect form. A field's order is
the order of the form.
"""

from __future__ import annotations

from medpipe.settings.data import ConsentSettings, DeidSettings, ImagesSettings, SourceSettings
from medpipe.settings.release import ComputeSettings, GatesSettings, ReleaseSettings
from medpipe.settings.section import Section
from medpipe.settings.synthesis import (
    AutoencoderSettings,
    CohortSettings,
    DistillSettings,
    MapKind,
    ModelSettings,
    Network,
    Preconditioning,
    TrainSettings,
)

__all__ = [
    "AutoencoderSettings",
    "CohortSettings",
    "ComputeSettings",
    "ConsentSettings",
    "DeidSettings",
    "DistillSettings",
    "GatesSettings",
    "ImagesSettings",
    "MapKind",
    "ModelSettings",
    "Network",
    "Preconditioning",
    "ReleaseSettings",
    "Section",
    "SourceSettings",
    "TrainSettings",
]
