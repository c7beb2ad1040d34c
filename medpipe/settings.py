"""The sections of a Recipe: every setting, its bounds and its default.

The sentence under a field is its comment, its `--help` text and its description in the Prefect form. A field's order is
the order of the form.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, and nothing is changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class SourceSettings(Section):
    """Where the images come from, and which table says what they show."""

    form: Literal["dicom", "arrays"] = "dicom"
    """A folder of DICOM files, or one .npz file of arrays (MedMNIST's six arrays, or 'images' and 'labels')."""
    table: str | None = None
    """Name of a CSV file inside the source folder with labels and covariates (DICOM only)."""
    table_key: Literal["SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID"] = "SOPInstanceUID"
    """The table's first identifying column: which DICOM attribute its rows are matched by."""
    label: str | None = None
    """Column of the table that holds the class (DICOM only; arrays hold 'labels')."""
    continuous: list[str] = []
    """Continuous covariates to condition on, such as age: columns of the table or kept DICOM attributes."""
    categorical: list[str] = []
    """Categorical covariates to condition on, such as sex, site or scanner."""
    classes: list[str] = []
    """Names of the classes in the order of their numbers; for a table, the values that are accepted (empty: as found)."""
    licence: str = "not stated"
    """Licence of the source images, carried to the release."""


class DeidSettings(Section):
    """De-identification by PS3.15 Annex E."""

    dates: Literal["shift", "remove", "keep"] = "shift"
    """Shift all dates of a patient by one secret number of days (intervals stay), remove them, or keep them as they are."""
    shift_days_max: Annotated[int, Field(ge=30, le=36500)] = 3650
    """Largest date shift in days; each patient's own shift is drawn from the key."""
    retain_patient_characteristics: bool = True
    """Keep sex, age (over 89 becomes 90), size, weight and the other characteristics of PS3.15's option of that name."""
    sites: Literal["pseudonym", "remove"] = "pseudonym"
    """Replace institutions and devices by keyed pseudonyms, so that groups stay apart without their names, or remove them."""
    retain_device_identity: bool = False
    """Keep serial numbers, station names and what else PS3.15's option of that name lists."""
    retain_institution_identity: bool = False
    """Keep the names and addresses of institutions and departments."""
    retain_uids: bool = False
    """Keep all UIDs, by which anyone who has the original images finds them again; else they are mapped under the key."""
    retain_safe_private: bool = False
    """Keep the private elements that PS3.15 calls safe, such as b-values, where creator and value are as they should be."""
    descriptors: Literal["remove", "clean"] = "remove"
    """Remove descriptions and comments, or keep their technical words."""
    structured_content: Literal["remove", "clean"] = "remove"
    """Leave out the content of reports, and so the reports, or keep it with only the technical words of its texts."""
    graphics: Literal["remove", "clean"] = "remove"
    """Remove overlays and graphic annotations, or keep overlays without text and annotations with only technical words."""
    objects: Literal["images", "all"] = "images"
    """Take images only, or also presentation states, radiotherapy objects, waveforms, registrations and reports."""
    burned_in: Literal["black_out", "quarantine"] = "black_out"
    """What to do with text burned into the pixels: black out its region, or quarantine the image."""
    faces: Literal["deface", "quarantine", "keep"] = "deface"
    """What to do with heads in MR, CT and PET: remove the face and quarantine what cannot be judged, quarantine, or keep."""
    quarantine_max: Fraction = 0.2
    """Largest share of the instances that may be quarantined before the run ends in an error."""


class ConsentSettings(Section):
    """Whose images may be used, and for what: permissions are asked of the consent ledger."""

    check: Literal["off", "ledger"] = "off"
    """Do not ask (the evidence says so), or use only patients whose permission is in the consent ledger; withdrawals always count."""
    purpose: Literal["general", "health", "disease", "ancestry"] = "general"
    """What the release is for: any research, health research, research on the diseases named, or on population origins."""
    diseases: list[Annotated[str, Field(pattern=r"^[A-Z]{2,10}:[A-Za-z0-9.]{1,20}$")]] = []
    """Codes of the diseases where the purpose is disease, such as MONDO:0005148; a permission for diseases (DS) must name all of them."""
    conditions: list[Literal["COL", "GS", "IRB", "IS", "NCU", "NPOA", "NPU", "NPUNCU", "PS", "PUB", "RS", "RTN", "US"]] = []
    """Conditions (GA4GH DUO) that a person decided this use keeps; a permission under any other condition is none."""
    denied_max: Fraction = 1.0
    """Largest share of the source's patients that may be without permission before the run ends in an error."""


class ImagesSettings(Section):
    """From instances to model-ready images."""

    dimensions: Literal[2, 3] = 2
    """2 for images or single slices, 3 for volumes."""
    size: Annotated[int, Field(ge=8, le=512)] = 64
    """Side of the square (or cubic) image in pixels; 0 padding keeps the aspect ratio."""
    spacing_mm: Annotated[float, Field(gt=0)] | None = None
    """Resample to this step in millimetres and keep the centre (DICOM only); empty keeps the whole field of view."""
    modalities: list[str] = []
    """DICOM modalities to use, such as CT; may be empty where the source has only one (CR, DX and RG count as one)."""
    secondary_captures: bool = False
    """Use secondary captures too, which are mostly screenshots and pages with text."""
    percentile_low: Annotated[float, Field(ge=0, lt=50)] = 0.5
    """Percentile of an image that becomes the lowest stored value (8-bit images are kept as they are)."""
    percentile_high: Annotated[float, Field(gt=50, le=100)] = 99.5
    """Percentile of an image that becomes the highest stored value."""
    split: Literal["patient", "given", "blocks"] = "patient"
    """Split by patient; keep the splits that the arrays have; or cut the rows into contiguous blocks."""
    validation: Fraction = 0.1
    """Share for validation during development."""
    holdout: Fraction = 0.2
    """Share cut from the training population, never trained on: gates are calibrated on it."""
    test: Fraction = 0.1
    """Share for the final utility figure (a given test split is kept)."""
    blocks: Annotated[int, Field(ge=8)] = 64
    """Number of contiguous blocks where `split` is blocks."""
    block_gap: Annotated[int, Field(ge=0)] = 0
    """Rows left out on the weaker side of the border between two splits, where neighbours may show one patient."""
    patients_per_class_min: Positive = 3
    """A class with fewer patients (or blocks) cannot be split without telling who is in it: it is excluded and counted."""
    shard: Positive = 512
    """Images in one shard, which is one file with one owner."""


class ModelSettings(Section):
    """The denoiser D(x; σ, c)."""

    space: Literal["pixel", "latent"] = "pixel"
    """Train on the images themselves, or on the latents of an autoencoder that is trained and judged first."""
    channels: Annotated[list[Positive], Field(min_length=1)] = [64, 128]
    """Channels at each resolution, finest first; multiples of 32 are fast."""
    blocks: list[Positive] = [2, 4]
    """Residual blocks at each resolution."""
    patch: Literal[1, 2, 4] = 2
    """Pixels of a side that the stem folds into channels."""
    condition_dropout: Fraction = 0.1
    """How often training hides all conditions, which gives unconditional samples and guidance."""
    covariate_dropout: Fraction = 0.1
    """How often training hides each single condition, which gives partial conditioning."""
    sigma_mean: float = -1.2
    """Mean of ln σ in training (Karras et al. 2022, table 1)."""
    sigma_sd: Annotated[float, Field(gt=0)] = 1.2
    """Standard deviation of ln σ in training."""


class AutoencoderSettings(Section):
    """The autoencoder of latent diffusion (`model.space` latent), and the bounds of its own gate."""

    kind: Literal["kl", "vq"] = "kl"
    """Latents held near a Gaussian by a small KL term, or rounded to a codebook when they are decoded."""
    channels: Annotated[list[Positive], Field(min_length=2)] = [16, 32, 32]
    """Channels at each resolution, finest first; every entry after the first halves the sides."""
    blocks: Positive = 1
    """Residual blocks at each resolution."""
    latent_channels: Positive = 4
    """Channels of the latents."""
    codes: Annotated[int, Field(ge=2, le=65536)] = 512
    """Entries of the codebook (vq only)."""
    images: Positive = 20_000
    """Images to train on, counting repeats."""
    batch: Positive = 16
    """Images in one step."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate of AdamW, of the autoencoder and its discriminator."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the KL term per value of the latents (kl only), beside 1 for the mean absolute error."""
    detail_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the differences of edges at several scales: it takes the place of a perceptual loss, and nothing is downloaded."""
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.02
    """Weight of the patch discriminator and of the match of its features; 0 trains without one."""
    adversarial_start: Fraction = 0.5
    """Share of the images after which the discriminator begins."""
    state_images: Positive = 4_000
    """Images between two saved states, from which an interrupted training goes on exactly."""
    psnr_min_db: Annotated[float, Field(ge=0, le=100)] = 25.0
    """Mean peak signal-to-noise ratio that reconstructions of the validation split must reach, in dB."""
    ssim_min: Annotated[float, Field(ge=-1, le=1)] = 0.8
    """Mean structural similarity that they must reach."""
    detail_min: Fraction = 0.5
    """Share of the images' fine detail (energy of second differences) that they must keep."""
    detail_max: Annotated[float, Field(ge=1)] = 1.5
    """How much more fine detail than the images they may have, which is noise."""


class TrainSettings(Section):
    """Training, counted in images."""

    images: Positive = 200_000
    """Images to train on, counting repeats."""
    batch: Positive = 128
    """Images in one step."""
    learning_rate: Annotated[float, Field(gt=0)] = 7e-4
    """Peak learning rate of AdamW."""
    warmup_images: Annotated[int, Field(ge=0)] = 5_000
    """Images over which the learning rate rises from 0."""
    ema_images: Positive = 10_000
    """Half-life of the weights' moving average, in images; it warms up with training."""
    flip: bool = False
    """Mirror images left-right in training; only where a mirrored image is a possible patient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 where the processor multiplies it in hardware, or as said."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile where training is long enough to pay for it, or as said."""
    state_images: Positive = 20_000
    """Images between two saved states, from which an interrupted training goes on exactly."""


class CohortSettings(Section):
    """The synthetic cohort."""

    images: Positive = 1_000
    """Synthetic images to make."""
    composition: Literal["as_trained", "balanced"] = "as_trained"
    """Classes as frequent as in the training data, or equally frequent."""
    sampler: Literal["dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "euler", "ddim", "ddpm"] = "dpmpp_2m"
    """Solver of the reverse process; dpmpp_2m_sde and ddpm, and ddim and heun where asked, draw fresh noise on the way."""
    start: Literal["gaussian", "noise"] = "gaussian"
    """Begin at `sigma_start` with the closed form of what lies above it, or at `sigma_max` with pure noise and twice the steps."""
    steps: Annotated[int, Field(ge=2, le=1000)] = 10
    """Steps of the solver; one network evaluation each, two for Heun."""
    guidance: Annotated[float, Field(ge=0, le=20)] = 1.0
    """Classifier-free guidance; 1 follows the learned distribution, more sharpens classes at the cost of variety."""
    schedule: Literal["karras", "exponential", "ddpm"] = "karras"
    """How the noise levels are spaced."""
    sigma_min: Annotated[float, Field(gt=0)] = 0.005
    """Smallest noise level; the step of 8-bit images is 0.008."""
    sigma_start: Annotated[float, Field(gt=0)] = 3.0
    """Noise level of the Gaussian start: well above the spread of the images, which is below 1."""
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    """Noise level where samples begin with pure noise."""
    eta: Fraction = 0.0
    """Fresh noise of DDIM: 0 is deterministic, 1 is ancestral sampling as in DDPM."""
    churn: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Fresh noise of Heun's method over the whole path (S_churn of Karras et al. 2022)."""
    shard: Positive = 256
    """Images in one shard: one seed range, one file, one owner."""
    batch: Positive = 64
    """Images sampled at once; part of what makes a cohort reproducible to the bit."""


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
    """Threads of training on a CPU."""
