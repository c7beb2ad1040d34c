"""One measurement beside the reference that it is to be judged by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """`value` of `what` beside `reference`, both in `unit`, both measured in the same run."""

    what: str
    value: float
    unit: str
    reference: str
    reference_value: float
    goal: str = ""
    """What is wanted of the ratio, where something is."""

    @property
    def ratio(self) -> float:
        """The value over the reference."""
        return self.value / self.reference_value if self.reference_value else float("nan")

    def as_json(self) -> dict[str, Any]:
        """The row in JSON's types."""
        return {**asdict(self), "ratio": self.ratio}


def best_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of `repeats` runs: on a shared machine the others measure the neighbours."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
