"""MONAI's DiffusionModelUNet under the same patch stem and the same conditions as our own networks."""

from __future__ import annotations

import math

from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn

from medpipe.diffusion.network import fold, unfold
from medpipe.settings import ModelSettings
from medpipe.sizes import layout

NOISE_SCALE = 1000.0
"""MONAI embeds time steps of 0 to 1000, and c_noise is of the order of 1."""


class MonaiUNet(nn.Module):
    """F(x, c_noise, c): group norms, attention at the coarsest resolution, skips that are joined (Rombach et al. 2022).

    MONAI's table of class embeddings, which is added to the embedding of time, is replaced by a small network of the
    condition vector. Sides must be multiples of patch · 2^(levels - 1).
    """

    def __init__(self, settings: ModelSettings, channels: int, conditions: int, dimensions: int, maps: int = 0) -> None:
        super().__init__()
        widths, counts = layout(settings)
        self.patch, positions = settings.patch, settings.patch**dimensions
        self.inner = DiffusionModelUNet(
            spatial_dims=dimensions,
            in_channels=(channels + maps) * positions,
            out_channels=channels * positions,
            channels=widths,
            num_res_blocks=counts,
            attention_levels=[False] * (len(widths) - 1) + [True],
            num_head_channels=math.gcd(64, widths[-1]),
            norm_num_groups=math.gcd(32, *widths),
            num_class_embeds=1 if conditions else None,
            use_flash_attention=True,
        )
        if conditions:
            width = 4 * widths[0]
            self.inner.class_embedding = nn.Sequential(nn.Linear(conditions, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        """Map x (N, C + M, …), c_noise (N,) and conditions (N, K) to the network's output (N, C, …)."""
        out: Tensor = self.inner(fold(x, self.patch), noise * NOISE_SCALE, class_labels=conditions)
        return unfold(out, self.patch)
