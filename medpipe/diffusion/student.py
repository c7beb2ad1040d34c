"""What a student is: a denoiser that jumps along its teacher's trajectories, and is of use at the few noise levels of its jumps only.

It stands for the teacher as one section of a recipe samples it: start, noise levels and guidance are part of what it has
learned. `generate` follows it by Euler's method, which from level a to level b is its jump: x_b = D + σ_b/σ_a·(x_a − D).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medpipe.errors import InputError
from medpipe.settings import CohortSettings

STANDS_FOR = ("sampler", "start", "schedule", "sigma_min", "sigma_start", "sigma_max", "guidance", "guidance_low", "guidance_high")
"""Fields of `cohort` that are learned with the trajectories."""


@dataclass(frozen=True)
class Student:
    """The jumps of a student, and the settings of `cohort` that it stands for."""

    sigmas: tuple[float, ...]
    """Noise levels between which it jumps, falling, the last of them 0."""
    stands_for: Mapping[str, Any]

    @property
    def evaluations(self) -> int:
        """Network evaluations of a sample."""
        return len(self.sigmas) - 1

    def as_json(self) -> dict[str, Any]:
        return {"sigmas": list(self.sigmas), "stands_for": dict(self.stands_for)}

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Student | None:
        """Read what `model.json` says; None where it is of no student."""
        said = model.get("student")
        return None if said is None else cls(tuple(said["sigmas"]), said["stands_for"])

    def check(self, settings: CohortSettings) -> None:
        """Raise InputError where a cohort asks for what this student was not trained for."""
        if settings.steps not in (None, self.evaluations):
            raise InputError(
                f"cohort.steps is {settings.steps}, and this Checkpoint was distilled for {self.evaluations}: leave it empty, give the "
                "teacher, or distil another with --distill.evaluations"
            )
        if settings.guidance_by == "weaker":
            raise InputError("cohort.guidance_by is 'weaker', and a distilled Checkpoint is not guided: leave it out, or give the teacher")
        asked = stands_for(settings)
        if other := [name for name in STANDS_FOR if asked[name] != self.stands_for[name]]:
            raise InputError(
                f"cohort.{other[0]} is {asked[other[0]]!r}, and this Checkpoint was distilled with {self.stands_for[other[0]]!r}: "
                "leave it so, give the teacher, or distil again"
            )


def stands_for(settings: CohortSettings) -> dict[str, Any]:
    """Return the settings of `cohort` that a student learns with its teacher's trajectories, in JSON's types."""
    return settings.model_dump(mode="json", include=set(STANDS_FOR))
