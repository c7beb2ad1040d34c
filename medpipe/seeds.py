"""One root seed, children by name: every random choice can be named, repeated and moved between machines.

Nothing here touches a global generator, and `hash()` is never used, since it differs between processes.
"""

from __future__ import annotations

import hashlib

import numpy as np


def child(seed: int, *names: str | int) -> int:
    """Derive the 63-bit seed of the child called `names` (SHA-256 over the root seed and the names)."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return the NumPy generator of the child called `names`."""
    return np.random.Generator(np.random.PCG64(child(seed, *names)))
