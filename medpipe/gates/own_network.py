"""A feature network of the user's own (RadImageNet, DINOv2, MedicalNet …) from a local file, opened only if its digest matches.

TorchScript (.pt, .pth) brings its own code: any module that takes floats (N, C, …) in [-1, 1] and gives (N, d). Weights
in safetensors are loaded into one of MONAI's residual networks without its last layer. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from medpipe.errors import InputError
from medpipe.images.transforms import to_model
from medpipe.settings import GatesSettings
from medpipe.threads import threads

Architecture = Literal["resnet10", "resnet18", "resnet34", "resnet50"]
BATCH = 64
IGNORED = ("fc.", "num_batches_tracked")
"""Weights that a feature network does without: the classifier's, and counters."""


def read(settings: GatesSettings) -> bytes | None:
    """Read the file that the recipe names, None where it names none. Raises InputError unless its SHA-256 is the stated one."""
    if settings.feature_network is None:
        return None
    path = Path(settings.feature_network)
    if settings.feature_sha256 is None:
        raise InputError(f"gates.feature_network {path} has no digest beside it: give gates.feature_sha256, the file's SHA-256")
    if not path.is_file():
        raise InputError(f"gates.feature_network {path} is not a file: give the path of the weights on this machine")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != settings.feature_sha256:
        raise InputError(
            f"{path} has the SHA-256 {digest}, not gates.feature_sha256 {settings.feature_sha256}: take the file it was made of"
        )
    return data


def load(settings: GatesSettings, channels: int, dimensions: int) -> nn.Module | None:
    """Build the network for images of `channels` over `dimensions` axes, None where the recipe names none.

    Raises InputError for a file that is not there, has another digest, or is no network of the kind its name says.
    """
    data = read(settings)
    if data is None:
        return None
    path = Path(str(settings.feature_network))
    if path.suffix != ".safetensors":
        try:
            script: nn.Module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise InputError(f"{path} is no TorchScript module: save it by torch.jit.save, or give .safetensors weights") from error
        return script.eval()
    if settings.feature_architecture is None:
        raise InputError(f"{path} holds weights only: say which network they are of, by gates.feature_architecture")
    try:
        weights = {name: value for name, value in load_safetensors(data).items() if not any(part in name for part in IGNORED)}
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file: save the weights by safetensors.torch.save_file") from error
    return _filled(path, settings.feature_architecture, weights, channels, dimensions)


def _filled(path: Path, architecture: Architecture, weights: dict[str, Tensor], channels: int, dimensions: int) -> nn.Module:
    """Load the weights; a network of three channels sees grey images three times."""
    first = weights.get("conv1.weight")
    if first is None or first.ndim != dimensions + 2:
        raise InputError(f"{path} holds no weights of {architecture} over {dimensions} axes: its first must be conv1.weight")
    net = _resnet(architecture, dimensions, int(first.shape[1]), tuple(first.shape[2:]), set(weights))
    missing, unexpected = net.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not any(part in name for part in IGNORED)]
    if missing or unexpected:
        names = ", ".join((missing + unexpected)[:3])
        raise InputError(f"{path} does not fit {architecture} (first differences: {names}): name the architecture of these weights")
    return _Channels(net.eval(), int(first.shape[1]), channels)


def _resnet(architecture: Architecture, dimensions: int, channels: int, kernel: tuple[int, ...], names: set[str]) -> nn.Module:
    from monai.networks.nets import resnet  # MONAI takes seconds to import

    options: dict[str, Any] = {
        "spatial_dims": dimensions,
        "n_input_channels": channels,
        "conv1_t_size": kernel,
        "feed_forward": False,
        "shortcut_type": "B" if "layer2.0.downsample.0.weight" in names else "A",
        "bias_downsample": "layer2.0.downsample.0.bias" in names,
    }
    net: nn.Module
    match architecture:
        case "resnet10":
            net = resnet.resnet10(**options)
        case "resnet18":
            net = resnet.resnet18(**options)
        case "resnet34":
            net = resnet.resnet34(**options)
        case "resnet50":
            net = resnet.resnet50(**options)
        case _:
            assert_never(architecture)
    return net


class _Channels(nn.Module):
    """Repeat or average channels to what the network was trained on."""

    def __init__(self, net: nn.Module, wanted: int, given: int) -> None:
        super().__init__()
        self.net, self.wanted, self.given = net, wanted, given

    def forward(self, images: Tensor) -> Tensor:
        if self.given != self.wanted:
            images = images.mean(1, keepdim=True).expand(-1, self.wanted, *images.shape[2:])
        vectors: Tensor = self.net(images)
        return vectors


def embed(net: nn.Module, images: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float64]:
    """Map stored images (N, C, …) to the network's vectors (N, d). Raises InputError where it gives something else."""
    found = []
    with threads(1), torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(to_model(images[start : start + BATCH]))
            try:
                vectors = net(batch)
            except RuntimeError as error:
                raise InputError(
                    f"the network of gates.feature_network cannot take images of shape {tuple(batch.shape[1:])}: "
                    "wrap it so that it resizes and repeats channels itself"
                ) from error
            if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != len(batch) or not vectors.is_floating_point():
                raise InputError("the network of gates.feature_network must give one vector of floats for each image: (N, d)")
            if not bool(torch.isfinite(vectors).all()):
                raise InputError("the network of gates.feature_network gives vectors that are not numbers: check its weights")
            found.append(vectors.double())
    return np.asarray(torch.cat(found).numpy())
