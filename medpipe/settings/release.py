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
    mmd_excess_max: Annotated[float, Field(ge=0, le=2)] = 0.003
    """Kernel distance (MMD) beyond the upper end of that of real held-out images."""
    spectrum_excess_max: Annotated[float, Field(ge=0)] = 1.0
    """Fréchet distance of the power spectra beyond that of real held-out images, in variances of the training images."""
    precision_drop_max: Fraction = 0.15
    """How far precision may fall below that of real held-out images."""
    recall_drop_max: Fraction = 0.2
    """How far recall may fall below that of real held-out images."""
    intensity_excess_max: Fraction = 0.15
    """How far the distributions of brightness, contrast and detail may lie apart beyond those of real held-out images."""
    repeats_excess_max: Fraction = 0.05
    """How much more often a synthetic image may have a near twin in the cohort than real held-out images among themselves."""
    family_level: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Chance that images of other real patients fail any gate of likeness by luck alone: it is split over the measures."""
    too_good_excess_max: Annotated[float, Field(ge=0)] = 0.0
    """Standard errors by which the cohort may beat other real images beyond chance; more lets smooth images pass, and copies too."""
    outlier_false_positive: Annotated[float, Field(ge=0, le=0.1)] = 0.005
    """Share of real held-out images that may count as outliers: it sets how far from real images an image may lie; 0 looks for none."""
    outlier_excess_max: Fraction = 0.03
    """How much more often synthetic than real held-out images may be outliers, at the interval's upper end."""
    condition_drop_max: Fraction = 0.05
    """How much worse (AUC) a classifier trained on real images may find the requested class in synthetic than in real images."""
    covariate_drop_max: Fraction = 0.2
    """How much worse (AUC or correlation) a requested covariate may be found in synthetic than in real images."""
    feature_network: str | None = None
    """Path of a feature network of your own (TorchScript .pt or .safetensors); it is never downloaded."""
    feature_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that file: it is not opened unless it matches."""
    feature_architecture: Literal["resnet10", "resnet18", "resnet34", "resnet50"] | None = None
    """Architecture (MONAI's) that .safetensors weights are loaded into; TorchScript brings its own."""
    class_shortfall_max: Fraction = 0.25
    """How much of a class may be lacking against what was asked for."""
    utility_images: Positive = 20_000
    """Images over which each classifier of the utility gate is trained."""
    utility_drop_max: Fraction = 0.03
    """How far the AUC of train-on-synthetic-test-on-real may fall below train-on-real."""
    utility_seeds: Annotated[int, Field(ge=1, le=20)] = 3
    """Classifiers trained per arm of the utility gate."""
    curve_shares: list[Annotated[float, Field(gt=0, le=1)]] = [0.1, 0.3, 1.0]
    """Sizes of the learning curve, as shares of the real training images; empty leaves it out."""
    curve_images: Positive = 5_000
    """Images over which each classifier of the learning curve and of the rare class is trained."""
    curve_seeds: Annotated[int, Field(ge=1, le=20)] = 2
    """Classifiers trained per arm and size of the learning curve and of the rare class."""
    rare_images: list[Positive] = []
    """Real images to keep of the rarest class, such as 10, 30, 100, to see what the cohort adds then; empty leaves it out."""
    segmentation_images: Positive = 3_000
    """Images over which each segmentation network is trained, where images have masks."""
    segmentation_ratio_min: Fraction = 0.9
    """Share of the Dice score of real images that synthetic ones must reach, where images have masks."""
    copy_false_positive: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    """Share of real held-out images that may be called near copies: it sets the threshold."""
    copy_recall_min: Fraction = 0.85
    """Share of each required kind of planted copies that the detector must find, or its silence proves nothing."""
    copy_planted: Annotated[int, Field(ge=10, le=1000)] = 60
    """Copies of each kind that are planted in every run; 59 that are all found prove a recall of 95 %."""
    copy_practice: Annotated[int, Field(ge=50, le=10_000)] = 1200
    """Altered copies, as many real training images, half as many altered ones and an eighth that shows no patient, on which the detector
    learns to weigh its measures."""
    copy_excess_max: Fraction = 0.02
    """How much more often synthetic than real held-out images may be near copies, at the interval's upper end."""
    diversity_min: Annotated[int, Field(ge=1, le=20)] = 2
    """Classes that training patients with the same released covariates must have at least (l-diversity)."""
    disclosure_risk_max: Fraction = 0.1
    """Risk that an attack on the released table may bring a training patient, at the interval's upper end."""
    membership_images: Annotated[int, Field(ge=50, le=100_000)] = 512
    """Training images, and as many held-out ones, on which membership attacks are tried; 0.1 % false positives need 1,000 of them."""
    membership_model_excess_max: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """How much better than chance (AUC) someone who has the model may tell who was trained on."""
    membership_cohort_excess_max: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """How much better than chance (AUC) someone who has the cohort alone may tell who was trained on."""
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
    approved_by: str | None = None
    """Role or name of who approves this release, such as "data-protection officer"; stands on the page and in the evidence."""
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
