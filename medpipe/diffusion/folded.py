"""The lean U-Net with its conditioning folded into its weights, for sampling on CPUs.

In sampling all images of a batch are at one noise level, and many are asked for the same: there the scale a and the shift b of
a block are constants, conv(x)·(1 + a) + b is one convolution with other weights, and the network is a list of
convolutions, each with its activation or its residual sum done while the result is still in the cache. oneDNN's operators for
that are private to torch: where they are absent, or do not give what the network gives, the network itself is used.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from medpipe.diffusion.augment import Unaugmented
from medpipe.diffusion.denoiser import Denoiser
from medpipe.diffusion.device import layout
from medpipe.diffusion.network import Block, LeanUNet, fold, unfold
from medpipe.settings import ModelSettings

GROUP_MIN = 8
"""Images on average that have to be asked for the same, or folding their weights costs more than it saves."""
KEPT_BYTES = 2**29
"""Of folded weights, over all noise levels and conditions of a cohort."""
TOLERANCE = 0.01


def folded(denoiser: Denoiser, dtype: torch.dtype) -> Denoiser:
    """Return `denoiser` with its network folded, where it is a lean U-Net on a CPU that has the operators; else as it is."""
    network = denoiser.network
    inner = network.network if isinstance(network, Unaugmented) else network
    if not isinstance(inner, LeanUNet) or inner.stem.weight.device.type != "cpu" or not works(inner.stem.weight.ndim - 2, dtype):
        return denoiser
    own: nn.Module = Folded(inner, dtype)
    if isinstance(network, Unaugmented):
        own = Unaugmented(own, network.conditions)
    return Denoiser(own, denoiser.sigma_data, denoiser.preconditioning)


@lru_cache(maxsize=8)
@torch.no_grad()
def works(dimensions: int, dtype: torch.dtype) -> bool:
    """Say whether a small folded network gives what the network gives here, to TOLERANCE."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LeanUNet(ModelSettings(channels=[32, 64], blocks=[1, 1]), 1, 1, dimensions)
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.1)
        x = torch.randn(3, 1, *[8] * dimensions)
    try:
        found = Folded(network, dtype).group(x, torch.ones(1), torch.ones(1, 1))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    wanted = network(x, torch.ones(3), torch.ones(3, 1))
    return bool((found - wanted).abs().max() <= TOLERANCE * 10 ** (dtype == torch.bfloat16) * wanted.abs().max())


class Folded(nn.Module):
    """A lean U-Net of which the weights are folded for each noise level and condition that it meets."""

    def __init__(self, network: LeanUNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        self.fixed = {id(layer): Convolution(layer, dtype) for layer in _fixed(network)}
        self.firsts: OrderedDict[tuple[float, bytes], list[Convolution]] = OrderedDict()
        self.kept = max(1, KEPT_BYTES // sum(block.first.weight.nbytes for block in _blocks(network)))

    def forward(self, x: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        """Map x (N, C + M, …), c_noise (N,) and conditions (N, K) to the network's output (N, C, …)."""
        if torch.is_grad_enabled() or not bool((noise == noise[0]).all()):
            return self._plain(x, noise, conditions)
        if bool((conditions == conditions[0]).all()):
            return self.group(x, noise[:1], conditions[:1])
        kinds, of = torch.unique(conditions, dim=0, return_inverse=True)
        if len(kinds) * GROUP_MIN > len(x):
            return self._plain(x, noise, conditions)
        out: Tensor | None = None
        for number, kind in enumerate(kinds):
            rows = torch.nonzero(of == number)[:, 0]
            part = self.group(x[rows], noise[:1], kind[None])
            out = part.new_empty(len(x), *part.shape[1:]) if out is None else out
            out[rows] = part
        assert out is not None
        return out

    def _plain(self, x: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        out: Tensor = self.network(x, noise, conditions)
        return out

    def group(self, x: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Return the network's output for images x (N, C, …) that are all at c_noise (1,) under one condition (1, K)."""
        network, fixed, dimensions = self.network, self.fixed, x.ndim - 2
        firsts = iter(self._folded(noise, condition))

        def through(blocks: Any, x: Tensor) -> Tensor:
            for block in blocks:
                fixed[id(block.second)].add_to(x, next(firsts)(x, "swish"))
            return x

        x = fixed[id(network.stem)](layout(fold(x.to(self.dtype), network.patch), dimensions))
        skips = []
        for blocks, down in zip(network.encode, network.down, strict=True):
            skips.append(through(blocks, x))
            x = fixed[id(down)](skips[-1])
        x = through(network.middle, x)
        for blocks, up in zip(reversed(network.decode), reversed(network.up), strict=True):
            x = through(blocks, layout(unfold(fixed[id(up)](x), 2), dimensions).add_(skips.pop()))
        return unfold(fixed[id(network.head)](x), network.patch).float()

    def _folded(self, noise: Tensor, condition: Tensor) -> list[Convolution]:
        """Return the first convolution of every block, in the order in which they are passed, with a and b folded in."""
        key = float(noise), condition.numpy().tobytes()
        if key not in self.firsts:
            with torch.autocast("cpu", enabled=False):
                embedding = self.network.embed(noise, condition)
                self.firsts[key] = [_first(block, embedding, self.dtype) for block in _blocks(self.network)]
            if len(self.firsts) > self.kept:
                self.firsts.popitem(last=False)
        self.firsts.move_to_end(key)
        return self.firsts[key]


def _blocks(network: LeanUNet) -> Iterator[Block]:
    """Yield the blocks in the order in which an image passes them."""
    lists: list[Any] = [*network.encode, network.middle, *reversed(network.decode)]
    return itertools.chain.from_iterable(lists)


def _fixed(network: LeanUNet) -> Iterator[nn.Module]:
    yield from (network.stem, network.head, *network.down, *network.up)
    yield from (block.second for block in _blocks(network))


def _first(block: Block, embedding: Tensor, dtype: torch.dtype) -> Convolution:
    scale, shift = block.modulation(embedding)[0].chunk(2)
    weight, bias = block.first.weight, block.first.bias
    assert bias is not None
    return Convolution(block.first, dtype, weight * (1 + scale).reshape(-1, *[1] * (weight.ndim - 1)), bias * (1 + scale) + shift)


class Convolution:
    """A convolution by oneDNN, its weights laid out once, with what follows it done on its result."""

    def __init__(self, layer: Any, dtype: torch.dtype, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        self.weight = (layer.weight if weight is None else weight).detach().to(dtype).contiguous()
        self.bias = (layer.bias if bias is None else bias).detach().to(dtype)
        self.how = list(layer.padding), list(layer.stride), list(layer.dilation), 1
        self.packed: Tensor | None = None

    def _packed(self, x: Tensor) -> Tensor:
        if self.packed is None:
            self.packed = _operator("_reorder_convolution_weight")(self.weight, *self.how, list(x.shape))
        return self.packed

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """Return the convolution of x (N, C, …), and its SiLU where `activation` is "swish"."""
        out: Tensor = _operator("_convolution_pointwise")(x, self._packed(x), self.bias, *self.how, activation, [], "")
        return out

    def add_to(self, target: Tensor, x: Tensor) -> None:
        """Add the convolution of x to `target`, in place."""
        operator = _operator("_convolution_pointwise_").binary
        operator(target, x, self._packed(x), self.bias, *self.how, "add", 1.0, None, [], None)


def _operator(name: str) -> Any:
    return getattr(torch.ops.mkldnn, name)
