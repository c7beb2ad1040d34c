"""The gate before latent diffusion: what the autoencoder loses can never come back, so it is judged first.

Measured on images of the validation split, by the way that samples go: encoded, clipped and rounded as latents are stored,
decoded, rounded as images are stored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from monai.metrics.regression import SSIMMetric
from torch import Tensor
from torch.nn import functional

from medpipe.diffusion.autoencoder import Autoencoder
from medpipe.errors import GateFailed
from medpipe.images.transforms import Stored, to_model, to_stored
from medpipe.settings import AutoencoderSettings


@dataclass(frozen=True)
class Reconstruction:
    """How well images come back."""

    images: int
    psnr_db: float
    """Mean peak signal-to-noise ratio; the peak is the range of the stored type."""
    psnr_resampled_db: float
    """The same of images shrunk by the autoencoder's factor and enlarged again: what is to be had without learning."""
    ssim: float
    """Mean structural similarity (Wang et al. 2004)."""
    detail: float
    """Energy of the second differences of the reconstructions, relative to that of the images: below 1 is blurred, above 1 noisy."""
    clipped: float
    """Share of the latents' values beyond what the store holds."""


def measure(autoencoder: Autoencoder, stored: Stored) -> Reconstruction:
    """Encode and decode images as stored (N, C, …) and compare; one image at least."""
    device = autoencoder.mean.device
    real = torch.from_numpy(to_model(stored))
    latents = autoencoder.encode(real.to(device)).cpu()
    kept = torch.from_numpy(to_model(to_stored(latents.numpy(), "uint16")))
    drawn = autoencoder.decode(kept.to(device)).cpu()
    made = torch.from_numpy(to_model(to_stored(drawn.numpy(), stored.dtype.name)))
    return Reconstruction(
        images=len(real),
        psnr_db=psnr(made, real),
        psnr_resampled_db=psnr(resampled(real, autoencoder.settings.factor), real),
        ssim=ssim(made, real),
        detail=energy(made) / max(energy(real), 1e-12),
        clipped=float((latents.abs() > 1).double().mean()),
    )


def psnr(made: Tensor, real: Tensor) -> float:
    """Return the mean over images (N, …) in [-1, 1] of the peak signal-to-noise ratio in dB; at most 100 for each."""
    errors = (made - real).double().square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / errors.clamp(min=4e-10))).mean())


def ssim(made: Tensor, real: Tensor) -> float:
    """Return the mean structural similarity of images (N, C, …) in [-1, 1]."""
    side = min(real.shape[2:])
    metric = SSIMMetric(spatial_dims=real.ndim - 2, data_range=1.0, win_size=min(11, side - 1 + side % 2))
    return float(metric((made + 1) / 2, (real + 1) / 2).mean())


def energy(images: Tensor) -> float:
    """Return the mean square of the second differences of images (N, C, …) along every axis."""
    return sum(float(images.diff(n=2, dim=axis).double().square().mean()) for axis in range(2, images.ndim))


def resampled(images: Tensor, by: int) -> Tensor:
    """Return images (N, C, …) averaged over `by` pixels a side and interpolated back linearly."""
    pool = functional.avg_pool2d if images.ndim == 4 else functional.avg_pool3d
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    return functional.interpolate(pool(images, by), scale_factor=by, mode=mode)


def judge(found: Reconstruction, settings: AutoencoderSettings) -> dict[str, float]:
    """Return the figures, or raise GateFailed with them where one is out of its bound."""
    wrong = []
    if not found.psnr_db >= settings.psnr_min_db:
        wrong.append(
            f"PSNR {found.psnr_db:.1f} dB (at least {settings.psnr_min_db:g}; shrinking and enlarging {found.psnr_resampled_db:.1f})"
        )
    if not found.ssim >= settings.ssim_min:
        wrong.append(f"SSIM {found.ssim:.3f} (at least {settings.ssim_min:g})")
    if not settings.detail_min <= found.detail <= settings.detail_max:
        wrong.append(f"detail {found.detail:.2f} of the images' (from {settings.detail_min:g} to {settings.detail_max:g})")
    if wrong:
        raise GateFailed(
            f"the autoencoder does not give {found.images} images of the validation split back well enough for diffusion to begin, "
            f"with {', '.join(wrong)}: raise autoencoder.images, channels or latent_channels, or use fewer halvings"
        )
    return asdict(found)
