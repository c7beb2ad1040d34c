"""Which device, precision and compilation a run gets: fixed rules, so that an interrupted run goes on the same way."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from medpipe.errors import InputError


def device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """Return "cuda" where there is one and it is not ruled out, else "cpu"."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device is 'cuda' and this machine has no CUDA device: use 'auto' or 'cpu'")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def precision(wanted: Literal["auto", "fp32", "bf16"], on: str, shape: Sequence[int] = (), side: int = 1) -> torch.dtype:
    """Return the dtype of the network's products: bf16 only where the hardware multiplies it.

    `shape` (C, …) is that of what is trained on, of which the network sees every halving down to 1 / `side`. Raises InputError where bf16
    is asked for and cannot be trusted: kernels of 3 over volumes that are two slices deep get random gradients from torch 2.13 on CPUs.
    """
    depths = {shape[1] >> level for level in range(side.bit_length())} if len(shape) == 4 and on == "cpu" else set()
    if wanted == "bf16" and 2 in depths:
        raise InputError(
            f"train.precision is 'bf16' and volumes of {tuple(shape[1:])} are two slices deep inside of this network, where torch on CPUs "
            "gives wrong gradients: use 'auto' or 'fp32'"
        )
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bf16" else torch.float32
    if on == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = cast(dict[str, Any], torch.cpu.get_capabilities())
    multiplies = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if multiplies and 2 not in depths else torch.float32


COMPILE_PAYS_IMAGES = 200_000
"""Fewer training images than this end before a compilation (20 to 200 s) has paid for itself."""


def may_compile(wanted: Literal["auto", "on", "off"], on: str, dtype: torch.dtype, images: int) -> bool:
    """Say whether compilation may pay: by measurement in bf16 and on GPUs, not in fp32 on a CPU nor in a short training."""
    if wanted != "auto":
        return wanted == "on"
    return images >= COMPILE_PAYS_IMAGES and dtype == torch.bfloat16 and (on == "cuda" or shutil.which("g++") is not None)


def layout(tensor: Tensor, dimensions: int) -> Tensor:
    """Return a convolution's `tensor` with channels last, where products are fastest on CPUs and GPUs, others as they are."""
    if tensor.ndim != dimensions + 2:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last if dimensions == 2 else torch.channels_last_3d)


def arrange(module: nn.Module, on: str, dimensions: int) -> None:
    """Move `module` to its device and lay out its weights."""
    module.to(on)
    for weight in module.parameters():
        weight.data = layout(weight.data, dimensions)
