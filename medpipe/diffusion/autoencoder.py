"""The autoencoder of latent diffusion: images to latents of fewer values, and back (Rombach et al. 2022, section 3.1).

MONAI's networks, without their attention: KL (a Gaussian posterior, of which the mean is the latent) and VQ (the latent is
what comes before the codebook, and the codebook is the first layer of decoding, as in Rombach et al., section 4.1). Latents
are centred and scaled by what was measured on the training split, so that they lie in [-1, 1] as images of a Dataset do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.vqvae import VQVAE
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from medpipe import records
from medpipe.diffusion.network import fold, unfold
from medpipe.errors import RecordError
from medpipe.settings import AutoencoderSettings

FILE = "autoencoder.safetensors"
REACH = 5.0
"""Standard deviations of a latent channel that ±1 stands for; what lies beyond is clipped, and the gate sees it."""
PART_PIXELS = 2**18
"""Pixels that pass through the network at once: memory does not grow with the number of images asked for."""


class Autoencoder(nn.Module):
    """Encoder, decoder and the measured scale of the latents; images (N, C, …) in [-1, 1]."""

    mean: Tensor  # (latent channels,)
    reach: Tensor  # (latent channels,)

    def __init__(self, settings: AutoencoderSettings, channels: int, dimensions: int) -> None:
        super().__init__()
        self.settings, self.dimensions = settings, dimensions
        self.network = _network(settings, channels * settings.patch**dimensions, dimensions)
        self.register_buffer("mean", torch.zeros(settings.latent_channels))
        self.register_buffer("reach", torch.ones(settings.latent_channels))

    def forward(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return reconstructions (N, C, …) as training sees them and the penalty on the latents (KL divergence, or commitment)."""
        encoded = self.network.encode(fold(images, self.settings.patch))
        if self.settings.kind == "vq":
            with torch.autocast(images.device.type, enabled=False):  # MONAI forbids it on GPUs only, and codes need exact distances
                latents, penalty = self.network.quantize(encoded.float())
        else:
            mean, deviation = (part.float() for part in encoded)
            latents = mean + deviation * torch.randn(mean.shape, generator=generator).to(mean.device)
            penalty = (mean.square() + deviation.square() - 1).mean() / 2 - deviation.log().mean()
        return unfold(self.network.decode(latents), self.settings.patch).float(), penalty

    @torch.no_grad()
    def begin(self, images: Tensor, generator: torch.Generator) -> None:
        """Take the first codes from encoded `images`: codes far from every latent would never be used."""
        if self.settings.kind != "vq":
            return
        flat = self.network.encode(fold(images, self.settings.patch)).movedim(1, -1).flatten(0, -2)
        codes = flat[torch.randint(len(flat), (self.settings.codes,), generator=generator).to(flat.device)]
        quantizer = self.network.quantizer.quantizer
        quantizer.embedding.weight.copy_(codes + 0.01 * flat.std() * torch.randn(codes.shape, generator=generator).to(codes.device))
        quantizer.ema_w.copy_(quantizer.embedding.weight)
        quantizer.ema_cluster_size.fill_(1.0)

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Measure centre and scale of the latents, channel by channel, on `images`."""
        latents = torch.cat([self._latents(part) for part in self._parts(images)]).double()
        axes = (0, *range(2, latents.ndim))
        self.mean.copy_(latents.mean(axes))
        self.reach.copy_(REACH * latents.std(axes).clamp(min=1e-6))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the latents (N, c, …) of images (N, C, …), part by part; few lie outside [-1, 1]."""
        return torch.cat([(self._latents(part) - self._like(self.mean)) / self._like(self.reach) for part in self._parts(images)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images (N, C, …) of latents (N, c, …) as `encode` gives them, part by part."""
        scale = self.settings.factor**self.dimensions
        return torch.cat([self._images(part * self._like(self.reach) + self._like(self.mean)) for part in self._parts(latents, scale)])

    def _latents(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            encoded = self.network.encode(fold(images, self.settings.patch))
        latents: Tensor = encoded if self.settings.kind == "vq" else encoded[0]
        return latents

    def _images(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            drawn = self.network.decode(self.network.quantize(latents)[0] if self.settings.kind == "vq" else latents)
        return unfold(drawn, self.settings.patch)

    def _like(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * self.dimensions)

    @staticmethod
    def _parts(tensor: Tensor, scale: int = 1) -> tuple[Tensor, ...]:
        return torch.split(tensor, max(1, PART_PIXELS // (math.prod(tensor.shape[2:]) * scale)))


def _network(settings: AutoencoderSettings, channels: int, dimensions: int) -> Any:
    """Build MONAI's network: one entry of `settings.channels` per resolution, the first at that of the image."""
    widths, levels = settings.channels, len(settings.channels)
    match settings.kind:
        case "kl":
            return AutoencoderKL(
                spatial_dims=dimensions,
                in_channels=channels,
                out_channels=channels,
                channels=widths,
                num_res_blocks=settings.blocks,
                latent_channels=settings.latent_channels,
                norm_num_groups=math.gcd(*widths, 8),
                attention_levels=[False] * levels,
                with_encoder_nonlocal_attn=False,
                with_decoder_nonlocal_attn=False,
            )
        case "vq":
            return VQVAE(
                spatial_dims=dimensions,
                in_channels=channels,
                out_channels=channels,
                channels=widths,
                num_res_layers=settings.blocks,
                num_res_channels=widths,
                # (stride, kernel, dilation, padding) and the same with output padding: the finest resolution keeps its size
                downsample_parameters=[(1, 3, 1, 1), *[(2, 4, 1, 1)] * (levels - 1)],
                upsample_parameters=[*[(2, 4, 1, 1, 0)] * (levels - 1), (1, 3, 1, 1, 0)],
                num_embeddings=settings.codes,
                embedding_dim=settings.latent_channels,
                decay=0.99,
            )
        case _:
            assert_never(settings.kind)


def save_to(folder: Path, autoencoder: Autoencoder) -> None:
    """Write the weights and the measured scale, atomically."""
    records.write_bytes(folder / FILE, save({name: tensor.cpu().contiguous() for name, tensor in autoencoder.state_dict().items()}))


def open_autoencoder(folder: Path, latent: Mapping[str, Any], device: str = "cpu") -> Autoencoder:
    """Rebuild the autoencoder of a Checkpoint from what its `model.json` says under `latent`.

    Raises RecordError where weights and settings do not belong together.
    """
    settings = AutoencoderSettings.model_validate(latent["autoencoder"])
    autoencoder = Autoencoder(settings, latent["shape"][0], len(latent["shape"]) - 1)
    try:
        autoencoder.load_state_dict(load_file(folder / FILE))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RecordError(f"{folder / FILE} is not what its settings describe ({type(error).__name__}): train again") from None
    return autoencoder.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class Decoder:
    """What turns samples of a Checkpoint's denoiser into images in [-1, 1]: the way of training images, backwards."""

    mean: float
    stretch: float
    autoencoder: Autoencoder | None

    def decode(self, samples: Tensor) -> Tensor:
        """Return the images (N, C, …) of `samples`, of any device."""
        stored = samples / self.stretch + self.mean
        return stored if self.autoencoder is None else self.autoencoder.decode(stored)


def open_decoder(folder: Path, model: Mapping[str, Any], device: str = "cpu") -> Decoder:
    """Open the decoder of the Checkpoint at `folder`, whose `model.json` is `model`."""
    latent = model.get("latent")
    return Decoder(model["data_mean"], model.get("stretch", 1.0), None if latent is None else open_autoencoder(folder, latent, device))


def image_form(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return shape and dtype of the images that a Checkpoint makes; `model["shape"]` is what its denoiser sees."""
    form = model.get("latent") or model
    return {"shape": form["shape"], "dtype": form["dtype"]}
