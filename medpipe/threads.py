"""How many threads a computation takes: torch's and those of the linear algebra below NumPy and SciPy, which know nothing of each other.

A sum has one order on one thread, so what is to be the same to the last bit on any machine computes on one; and two
workers that each take every core are slower than two that take one each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` threads inside, and as before outside."""
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
