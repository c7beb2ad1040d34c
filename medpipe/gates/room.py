"""Where large tensors lie: in memory, or in files that any number of workers map and none holds, so that memory stays bounded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PART = 512
"""Images that are prepared at once."""


def parts(count: int) -> Iterator[slice]:
    """Cut `count` images into runs of at most PART."""
    yield from (slice(start, min(start + PART, count)) for start in range(0, count, PART))


@dataclass(frozen=True)
class Room:
    """Files of `folder`, which only their owner may read: they show patients. Memory where there is none."""

    folder: Path | None = None

    def made(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a new tensor to be written."""
        if self.folder is None:
            return torch.empty(*shape, dtype=dtype)
        file = self._file(name)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        return torch.from_file(str(file), shared=True, size=math.prod(shape), dtype=dtype).reshape(*shape)

    def opened(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return what was written; what is changed of it is changed for nobody else."""
        return torch.from_file(str(self._file(name)), shared=False, size=math.prod(shape), dtype=dtype).reshape(*shape)

    def keep(self, names: Sequence[str]) -> None:
        """Return when what was written is on disk."""
        for name in names:
            descriptor = os.open(self._file(name), os.O_RDWR)
            os.fsync(descriptor)
            os.close(descriptor)

    def _file(self, name: str) -> Path:
        assert self.folder is not None, "what lies in memory has no file"
        return self.folder / f"{name}.mapped"
