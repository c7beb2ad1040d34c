"""Sections of a Recipe that judge a Cohort, release it, and say where the work runs."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from medpipe.settings.section import Fraction, Positive, Section


class GatesSettings(Section):
    """Bounds of the gates: each is relative to what real data reach against real data."""

    resamples: Annotated[int, Field(ge=20, le=1000)] = 50
    """Resamples behind every interval."""
    feature_images: Positive = 20_000
    """Images over which the feature network is trained on the training split."""
    frechet_ratio_max: Annotated[float, Field(ge=1)] = 1.5
    """Fréchet distance to the training split, relative to that of real held-out images."""
    kid_ratio_max: Annotated[float, Field(ge=1)] = 1.5
    """Kernel distance beyond the spread of real held-out images, in units of that spread."""
    precision_drop_max: Fraction = 0.15
    """How far precision may fall below that of real held-out images."""
    recall_drop_max: Fraction = 0.2
    """How far recall may fall below that of real held-out images."""
    intensity_excess_max: Fraction = 0.15
    """How far the distributions of brightness, contrast and detail may lie apart beyond those of real held-out images."""
    class_shortfall_max: Fraction = 0.25
    """How much of a class may be lacking against what was asked for."""
    utility_images: Positive = 20_000
    """Images over which each classifier of the utility gate is trained."""
    utility_drop_max: Fraction = 0.03
    """How far the AUC of train-on-synthetic-test-on-real may fall below train-on-real."""
    utility_seeds: Annotated[int, Field(ge=1, le=20)] = 3
    """Classifiers trained per arm of the utility gate."""
    copy_false_positive: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    """Share of real held-out images that may be called near copies: it sets the threshold."""
    copy_recall_min: Fraction = 0.85
    """Share of each required kind of planted copies that the detector must find, or its silence proves nothing."""
    copy_planted: Annotated[int, Field(ge=10, le=1000)] = 60
    """Copies of each kind that are planted in every run; 59 that are all found prove a recall of 95 %."""
    copy_practice: Annotated[int, Field(ge=50, le=10_000)] = 800
    """Altered copies, and as many real training images, on which the detector learns to weigh its measures."""
    copy_excess_max: Fraction = 0.02
    """How much more often synthetic than real held-out images may be near copies, at the interval's upper end."""
    fairness_utility_gap_max: Fraction = 0.1
    """How much more AUC training on synthetic images may cost a group of patients than it costs all."""
    fairness_share_gap_max: Fraction = 0.1
    """How far a group's share of the cohort may lie from its share of the training data."""
    small_cell: Annotated[int, Field(ge=2)] = 11
    """Counts below this are not published."""


class ReleaseSettings(Section):
    """What the shared folder says of itself."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$")] = "synthetic-cohort"
    """Name of the cohort: small letters, digits, dashes."""
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")] = "1.0.0"
    """Version of the release."""
    title: str = "Synthetic cohort"
    """Title on the card and the report."""
    creator: str = "not stated"
    """Institution that releases."""
    contact: str = "not stated"
    """Address for questions."""
    licence: str = "CC-BY-4.0"
    """Licence of the release, as an SPDX identifier."""
    published: date | None = None
    """Date of publication (YYYY-MM-DD) for the citation; empty leaves it out, so that the bytes do not depend on the day."""


class ComputeSettings(Section):
    """Where the work runs; nothing here changes a result."""

    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Worker processes for preprocessing and generation."""
    scheduler: Annotated[str, Field(pattern=r"^(tcp|tls|ws|wss)://")] | None = None
    """Address of a running Dask scheduler; empty starts local workers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of training and sampling."""
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    """Threads of training on a CPU, shared out among the processes of a node."""
    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes of training on each node; on GPUs one for each. More than one are started by torchrun."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Every process of training holds the whole model, or a share of it (for models larger than one device's memory)."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Machines that train together: start the same command on each; they share the folders of Dataset and Checkpoint."""
    rendezvous: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+:[0-9]{1,5}$")] | None = None
    """HOST:PORT on one of the nodes, where they find each other."""
    restarts: Annotated[int, Field(ge=0, le=100)] = 5
    """How often processes of training that died are started again from the last state."""
