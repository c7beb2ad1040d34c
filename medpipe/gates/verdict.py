"""A Verdict: what one gate measured, against which bound, and what that means in plain words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["privacy", "fidelity", "utility", "fairness", "table"]


@dataclass(frozen=True)
class Verdict:
    """One gate's figure with its interval, its bound and its verdict.

    `baseline` is what real held-out data reach on the same measure at the same n; `bound` was derived from it before
    the cohort was looked at. NaN never passes.
    """

    name: str
    kind: Kind
    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    baseline: float
    bound: float
    direction: Literal["at most", "at least"]
    n: int
    """Images that the figure rests on."""
    passed: bool
    meaning: str
    """One plain sentence: what this figure tells a person."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.bound)) and self.passed:
            raise ValueError(f"gate {self.name} cannot pass with the value {self.value} and the bound {self.bound}")

    def as_json(self) -> dict[str, Any]:
        """Return the fields in JSON's types; NaN and infinity become null."""
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        state = "passed" if self.passed else "FAILED"
        return f"{self.name}: {state}, {self.value:.4g} [{self.low:.4g}, {self.high:.4g}], {self.direction} {self.bound:.4g}"


def judge(
    name: str,
    kind: Kind,
    value: float,
    interval: tuple[float, float],
    *,
    bound: float,
    direction: Literal["at most", "at least"],
    baseline: float,
    n: int,
    meaning: str,
    on: Literal["value", "interval"] = "value",
) -> Verdict:
    """Judge `value` against `bound`; with `on="interval"` its unfavourable end decides. Fails closed on NaN."""
    low, high = interval
    decisive = value if on == "value" else high if direction == "at most" else low
    passed = bool(decisive <= bound if direction == "at most" else decisive >= bound)
    passed = passed and math.isfinite(value) and math.isfinite(bound) and math.isfinite(decisive)
    return Verdict(name, kind, value, low, high, baseline, bound, direction, n, passed, meaning)
