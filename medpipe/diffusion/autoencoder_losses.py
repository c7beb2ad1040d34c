"""What an autoencoder is trained to keep beside the pixels: edges at several scales, and what a discriminator can tell.

Nothing is downloaded: in place of a network trained on photographs, the features are those of the discriminator, which
learns from the training split itself (feature matching, Wang et al. 2018, eq. 4).
"""

from __future__ import annotations

import torch
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional

SCALES = 3
DISCRIMINATOR_CHANNELS = 32


def detail(made: Tensor, real: Tensor) -> Tensor:
    """Return the mean difference of the gradients of images (N, C, …) at up to SCALES resolutions, each half the one before."""
    pool = functional.avg_pool2d if made.ndim == 4 else functional.avg_pool3d
    total, terms = made.new_zeros(()), 0
    for _ in range(SCALES):
        for axis in range(2, made.ndim):
            total = total + (made.diff(dim=axis) - real.diff(dim=axis)).abs().mean()
            terms += 1
        if min(made.shape[2:]) < 4:
            break
        made, real = pool(made, 2), pool(real, 2)
    return total / terms


class Critic(nn.Module):
    """MONAI's patch discriminator with least squares (Mao et al. 2017); images (N, C, …) of sides of at least 8."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        side = min(shape[1:])
        layers = 3 if side >= 32 else 2 if side >= 16 else 1
        self.network = PatchDiscriminator(
            spatial_dims=len(shape) - 1,
            in_channels=shape[0],
            channels=DISCRIMINATOR_CHANNELS,
            num_layers_d=layers,
            norm="INSTANCE",  # batch statistics would tie an image to its neighbours
        )
        self.judge = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def fooled(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far the critic is from taking `made` for real, and how far its features of both lie apart."""
        *features, verdict = self.network(made)
        with torch.no_grad():
            *wanted, _ = self.network(real)
        apart = torch.stack([(one.float() - other.float()).abs().mean() for one, other in zip(features, wanted, strict=True)]).mean()
        loss: Tensor = self.judge(verdict.float(), target_is_real=True, for_discriminator=False)
        return loss, apart

    def loss(self, made: Tensor, real: Tensor) -> Tensor:
        """Return how far the critic is from telling `made` and `real` apart."""
        verdicts = [(self.network(images)[-1].float(), true) for images, true in ((made, False), (real, True))]
        parts = [self.judge(verdict, target_is_real=true, for_discriminator=True) for verdict, true in verdicts]
        total: Tensor = (parts[0] + parts[1]) / 2
        return total
