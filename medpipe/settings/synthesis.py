"""Sections of a Recipe from the Dataset to the Cohort."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medpipe.settings.section import Fraction, Positive, Section

Preconditioning = Literal["karras", "epsilon", "velocity", "flow"]
MapKind = Literal["mask", "channels", "degraded", "known"]
Network = Literal["lean_unet", "monai_unet", "transformer"]


class ModelSettings(Section):
    """The denoiser D(x; σ, c)."""

    preconditioning: Preconditioning = "karras"
    """What the network predicts and the noise it learns at: Karras et al., DDPM's noise, v-prediction, or rectified flow's velocity."""
    network: Network = "lean_unet"
    """The lean U-Net, MONAI's DiffusionModelUNet, or a diffusion transformer (DiT)."""
    size: Literal["custom", "tiny", "small", "medium", "large"] = "custom"
    """Size by name, of about 0.5, 2, 8 or 32 million weights in 2D; custom takes `channels` and `blocks`."""
    space: Literal["pixel", "latent"] = "pixel"
    """Train on the images themselves, or on the latents of an autoencoder that is trained and judged first."""
    channels: Annotated[list[Positive], Field(min_length=1)] = [64, 128]
    """Channels at each resolution, finest first; multiples of 32 are fast. A transformer has one resolution: its width."""
    blocks: list[Positive] = [2, 4]
    """Residual blocks at each resolution; of a transformer, its depth."""
    patch: Literal[1, 2, 4] = 2
    """Pixels of a side that the stem folds into channels."""
    condition_dropout: Fraction = 0.1
    """How often training hides all conditions, which gives unconditional samples and guidance."""
    covariate_dropout: Fraction = 0.1
    """How often training hides each single condition, which gives partial conditioning."""
    maps: list[MapKind] = []
    """Spatial conditions: the masks of the Dataset, channels of the image that are known, a degraded copy of it, a known region."""
    map_dropout: Fraction = 0.1
    """How often training hides each single spatial condition."""
    degraded_factor: Literal[2, 4, 8] = 4
    """Pixels of a side over which a degraded copy is averaged."""
    sigma_mean: float = -1.2
    """Mean of ln σ in training with `preconditioning` karras (Karras et al. 2022, table 1); the others draw as their papers do."""
    sigma_sd: Annotated[float, Field(gt=0)] = 1.2
    """Standard deviation of ln σ in training with `preconditioning` karras."""


class AutoencoderSettings(Section):
    """The autoencoder of latent diffusion (`model.space` latent), and the bounds of its own gate."""

    kind: Literal["kl", "vq"] = "kl"
    """Latents held near a Gaussian by a small KL term, or rounded to a codebook when they are decoded."""
    channels: Annotated[list[Positive], Field(min_length=2)] = [16, 32, 32]
    """Channels at each resolution, finest first; every entry after the first halves the sides."""
    patch: Literal[1, 2, 4] = 1
    """Pixels of a side that are folded into channels first: the finest resolution is what costs, above 64 pixels most of all."""
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

    @property
    def factor(self) -> int:
        """By how much a side of the latents is shorter than that of the images."""
        return self.patch << (len(self.channels) - 1)


class TrainSettings(Section):
    """Training, counted in images."""

    images: Positive = 200_000
    """Images to train on, counting repeats."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes after which training ends in good order where `images` were not reached; what comes out then depends on the machine."""
    stop_gap: Annotated[float, Field(gt=0, le=10)] | None = None
    """End when the loss on the validation split lies above that on training images by this share three times in a row; empty never does."""
    batch: Positive = 128
    """Images in one step, of all processes together."""
    microbatch: Positive | None = None
    """Images that one process computes at once, to save memory: gradients of a step are summed up; empty is all of its share."""
    learning_rate: Annotated[float, Field(gt=0)] = 7e-4
    """Peak learning rate of AdamW."""
    gradient_max: Annotated[float, Field(gt=0)] = 1.0
    """Norm to which the gradient of a step is shortened: a rare large one would throw the weights off."""
    warmup_images: Annotated[int, Field(ge=0)] = 5_000
    """Images over which the learning rate rises from 0."""
    ema_widths: Annotated[list[Annotated[float, Field(ge=0.01, le=0.25)]], Field(min_length=1, max_length=8)] = [0.06, 0.12]
    """Widths of the weights' moving averages, as shares of the training; all are kept, the best on the validation split is the default."""
    deduplicate: Literal["off", "exact", "near"] = "near"
    """Train images that are there twice once: none, those of one digest (mirrored and turned ones too), or very like ones as well."""
    canaries: Annotated[int, Field(ge=0, le=1000)] = 0
    """Made-up outliers that are trained on so that the report can say how much the model gives away of them; they cost a little quality."""
    flip: bool = False
    """Mirror images left-right in training; only where a mirrored image is a possible patient."""
    augment: Fraction = 0.0
    """How often an image is shifted, turned and scaled a little; the network is told, so that samples show none of it."""
    dp_epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Differentially private training (DP-SGD) by patient: the ε that this training may spend, at which it ends; empty trains without."""
    dp_epsilon_total: Annotated[float, Field(gt=0, le=1000)] | None = None
    """The ε that all private trainings of the workspace may spend together; a training that would go beyond it is refused."""
    dp_delta: Annotated[float, Field(gt=0, lt=0.1)] = 1e-5
    """The δ of that guarantee: below one over the number of patients."""
    dp_clip: Annotated[float, Field(gt=0)] = 1.0
    """Norm to which a patient's gradient is clipped."""
    dp_noise: Annotated[float, Field(gt=0)] | None = None
    """Noise in units of the clipping norm; empty takes what makes the budget last for `images`."""
    dp_draws: Annotated[int, Field(ge=1, le=256)] = 4
    """Images, noise levels and noises over which the gradient of a drawn patient is the mean: each costs as much as an image of a step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 where the processor multiplies it in hardware, or as said."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile where training is long and it is measured to be faster on this machine, or as said."""
    buffer_mib: Annotated[int, Field(ge=16)] = 1024
    """Memory for training images in each process, in MiB: a split that fits is kept whole, a larger one is read as it is needed."""
    state_images: Positive = 20_000
    """Images between two saved states, from which an interrupted training goes on exactly."""
    preview_images: Annotated[int, Field(ge=0)] = 20_000
    """Images between two pictures of samples, kept in the Checkpoint; 0 makes none."""


class DistillSettings(Section):
    """A student of a teacher Checkpoint (`train --teacher`): one that samples in few evaluations."""

    evaluations: Literal[1, 2, 4] = 2
    """Network evaluations of a sample of the student; the fewer, the faster, and the farther from the teacher."""
    trajectories: Annotated[int, Field(ge=64)] = 8_192
    """Trajectories of the teacher to learn from, five images each on disk."""
    steps: Literal[4, 8, 12, 16, 20, 24, 32] = 12
    """Steps of the teacher along a trajectory."""
    images: Positive = 60_000
    """Jumps to train on, counting repeats."""
    batch: Positive = 128
    """Jumps in one step."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-4
    """Learning rate of AdamW at the beginning of each stage; it falls to 0 in the stage."""
    state_images: Positive = 10_000
    """Jumps between two saved states, from which an interrupted training goes on exactly."""


class CohortSettings(Section):
    """The synthetic cohort."""

    images: Positive = 1_000
    """Synthetic images asked for."""
    spare: Fraction = 0.05
    """Share of images made on top, each class its part, from which a release replaces those that the gates withhold."""
    composition: Literal["as_trained", "balanced"] = "as_trained"
    """Classes as frequent as in the training data, or equally frequent."""
    classes: list[str] = []
    """Classes to make; empty makes all that training saw."""
    balance: str | None = None
    """Categorical covariate, such as sex, whose values are made equally often within each class; empty leaves them as in training."""
    masks: Literal["training", "none"] = "training"
    """Where a model with masks gets them: the training split, whose real shapes a release then holds, or nowhere; --masks gives others."""
    sampler: Literal["dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "euler", "ddim", "ddpm"] = "dpmpp_2m"
    """Solver of the reverse process; dpmpp_2m_sde and ddpm, and ddim and heun where asked, draw fresh noise on the way."""
    start: Literal["gaussian", "noise"] = "gaussian"
    """Begin at `sigma_start` with the closed form of what lies above it, or at `sigma_max` with pure noise and twice the steps."""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps of the solver; one network evaluation each, two for Heun. Empty is 10, or those of a distilled Checkpoint."""
    ema_width: Annotated[float, Field(gt=0)] | None = None
    """Which of `train.ema_widths` to sample from; empty is the one that did best on the validation split."""
    guidance: Annotated[float, Field(ge=0, le=20)] = 1.0
    """Strength of guidance; 1 is none and follows the learned distribution, more sharpens, at the cost of variety and of evaluations."""
    guidance_by: Literal["unconditional", "weaker"] = "unconditional"
    """What guidance leads away from: the model without its conditions (classifier-free), or a weaker Checkpoint (--weaker)."""
    guidance_low: Annotated[float, Field(ge=0)] = 0.0
    """Noise level down to which samples are guided."""
    guidance_high: Annotated[float, Field(gt=0)] | None = None
    """Noise level from which samples are guided, such as 1; none guides from the start."""
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
