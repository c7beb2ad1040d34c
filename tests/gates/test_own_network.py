"""A feature network of the user's own: opened only with its digest, from its path, and used as a space like the others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet
from safetensors.torch import save_file
from torch import Tensor, nn

from medpipe.errors import InputError
from medpipe.gates import own_network
from medpipe.settings import GatesSettings

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 1, 24, 24)).astype(np.uint8)


class Small(nn.Module):
    """A convolution and a mean: (N, 1, H, W) to (N, 6), or something that is no vector."""

    def __init__(self, maps: bool = False) -> None:
        super().__init__()
        self.layer, self.maps = nn.Conv2d(1, 6, 3), maps

    def forward(self, images: Tensor) -> Tensor:
        found = self.layer(images)
        return found if self.maps else found.mean((2, 3))


def settings(path: Path, architecture: str | None = None, digest: str | None = None) -> GatesSettings:
    found = digest or hashlib.sha256(path.read_bytes()).hexdigest()
    return GatesSettings.model_validate({"feature_network": str(path), "feature_sha256": found, "feature_architecture": architecture})


def script(path: Path, net: nn.Module) -> Path:
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, 1, 24, 24)), path)  # type: ignore[no-untyped-call]
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_module_gives_the_vectors_that_it_gave_when_it_was_saved(tmp_path: Path) -> None:
    net = Small().eval()
    loaded = own_network.load(settings(script(tmp_path / "net.pt", net)), 1, 2)
    assert loaded is not None
    with torch.inference_mode():
        expected = net(torch.from_numpy(IMAGES.astype(np.float32) / 127.5 - 1)).numpy()
    assert own_network.embed(loaded, IMAGES) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_missing_file_another_digest_no_digest_and_a_wrong_output_are_said(tmp_path: Path) -> None:
    path = script(tmp_path / "net.pt", Small(maps=True).eval())
    with pytest.raises(InputError, match="is not a file"):
        own_network.load(settings(tmp_path / "none.pt", digest="0" * 64), 1, 2)
    with pytest.raises(InputError, match=r"not gates\.feature_sha256 0000"):
        own_network.load(settings(path, digest="0" * 64), 1, 2)
    with pytest.raises(InputError, match=r"give gates\.feature_sha256"):
        own_network.load(GatesSettings(feature_network=str(path)), 1, 2)
    maps = own_network.load(settings(path), 1, 2)
    assert maps is not None
    with pytest.raises(InputError, match="one vector of floats"):
        own_network.embed(maps, IMAGES)
    with pytest.raises(InputError, match="cannot take images of shape"):
        own_network.embed(maps, np.zeros((2, 3, 8, 8), np.uint8))
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no network")
    with pytest.raises(InputError, match="no TorchScript module"):
        own_network.load(settings(broken), 1, 2)


@pytest.mark.parametrize(("channels", "kernel"), [(1, 7), (3, 3)])
def test_safetensors_weights_of_a_residual_network_give_its_vectors_without_the_last_layer(
    tmp_path: Path, channels: int, kernel: int
) -> None:
    torch.manual_seed(0)
    net = resnet.resnet10(spatial_dims=2, n_input_channels=channels, conv1_t_size=kernel, num_classes=4, bias_downsample=False).eval()
    path = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    loaded = own_network.load(settings(path, "resnet10"), 1, 2)
    assert loaded is not None
    net.fc = None
    with torch.inference_mode():
        batch = torch.from_numpy(IMAGES.astype(np.float32) / 127.5 - 1).expand(-1, channels, -1, -1)
        expected = net(batch).numpy()
    assert own_network.embed(loaded, IMAGES) == pytest.approx(expected, abs=1e-4)


def test_weights_without_an_architecture_or_of_another_one_are_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    net = resnet.resnet10(spatial_dims=2, n_input_channels=1, feed_forward=False, bias_downsample=False)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    with pytest.raises(InputError, match=r"gates\.feature_architecture"):
        own_network.load(settings(path), 1, 2)
    with pytest.raises(InputError, match="does not fit resnet18"):
        own_network.load(settings(path, "resnet18"), 1, 2)
    with pytest.raises(InputError, match="over 3 axes"):
        own_network.load(settings(path, "resnet10"), 1, 3)
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match="no safetensors file"):
        own_network.load(settings(path, "resnet10"), 1, 2)


def test_nothing_is_loaded_where_the_recipe_names_nothing() -> None:
    assert own_network.load(GatesSettings(), 1, 2) is None
