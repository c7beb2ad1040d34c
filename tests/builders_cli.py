"""Parts of the command line's tests: a tiny recipe and source, and the real command in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medpipe import cli

TINY = """
name: tiny
source:
  form: arrays
  classes: [empty, disc]
images:
  size: 16
  split: patient
  shard: 64
model:
  channels: [32]
  blocks: [1]
train:
  images: 512
  batch: 32
  warmup_images: 64
  state_images: 256
  compile: 'off'
cohort:
  images: 96
  steps: 4
  shard: 32
  batch: 32
gates:
  resamples: 20
  feature_images: 256
  frechet_ratio_max: 1.0e+6
  kid_ratio_max: 1.0e+6
  precision_drop_max: 1
  recall_drop_max: 1
  intensity_excess_max: 1
  class_shortfall_max: 1
  mmd_excess_max: 2
  spectrum_excess_max: 1.0e+6
  repeats_excess_max: 1
  outlier_false_positive: 0
  too_good_excess_max: 1.0e+6
  condition_drop_max: 1
  covariate_drop_max: 1
  disclosure_risk_max: 1
  utility_images: 256
  copy_planted: 10
  copy_practice: 50
  copy_false_positive: 1.0e-9  # a handful of training passes makes noise, of which a detector with so little practice knows nothing
  copy_recall_min: 0
  utility_drop_max: 1
  utility_seeds: 1
  curve_shares: []
  copy_excess_max: 1
  membership_model_excess_max: 0.5
  membership_cohort_excess_max: 0.5
release:
  name: tiny-cohort
compute:
  workers: 1
  threads: 1
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        """The path on the last line of stdout."""
        return Path(self.out.splitlines()[-1])


def medpipe(*arguments: str | Path, inside: Sequence[str] = (), cwd: Path | None = None) -> Done:
    """Run the command line in its own process, `inside` another command where given."""
    command = [*inside, sys.executable, "-m", "medpipe.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "200"}, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def ran(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Done:
    """Run a command in this process, which has imported everything already."""
    capsys.readouterr()
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    return Done(status, *capsys.readouterr())


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a gradient, and on every second image a bright disc: (N, 16, 16) uint8 and labels (N, 1)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    labels = np.arange(count) % 2
    centre = rng.uniform(5, 11, (count, 2, 1, 1))
    disc = (x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2 < rng.uniform(4, 14, (count, 1, 1))
    ground = 60 + 3 * x * rng.uniform(0.2, 1, (count, 1, 1)) + rng.normal(0, 12, (count, 16, 16))
    return np.clip(ground + 110 * disc * labels[:, None, None], 0, 255).astype(np.uint8), labels[:, None].astype(np.uint8)


@dataclass(frozen=True)
class Finished:
    """A workspace after a whole run, and how the command ended. Tests copy it before they change it."""

    workspace: Path
    done: Done
    recipe: Path
    source: Path
