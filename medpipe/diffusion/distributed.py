"""Several processes that train one model: who a process is, and the few things that they do together.

A model is held whole by each (DDP) or in shares (FSDP2); gloo on CPUs, NCCL on GPUs. One process is a world of one, for
which all of this is nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, assert_never

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medpipe.errors import InputError

Kind = Literal["ddp", "fsdp"]
SILENT_S = 1800
"""A process that does not answer for so long is lost; the others end, and all are started again."""


@dataclass(frozen=True)
class World:
    """This process among `size` that train together."""

    rank: int = 0
    size: int = 1
    kind: Kind = "ddp"

    @property
    def first(self) -> bool:
        """Whether this process writes what all have made."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor on the CPU over all processes; the same bits in each."""
        out = tensor.clone()
        if self.size > 1:
            dist.all_reduce(out)
        return out

    def gathered(self, thing: Any) -> list[Any]:
        """Return what each process gave, in the order of ranks."""
        if self.size == 1:
            return [thing]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, thing)
        return out

    def agreed(self, thing: Any) -> Any:
        """Return what the first process gave."""
        if self.size == 1:
            return thing
        out = [thing]
        dist.broadcast_object_list(out, src=0)
        return out[0]

    def wrapped(self, objective: nn.Module, device: str) -> nn.Module:
        """Return `objective` so that its gradients are summed up over the processes; under FSDP each keeps a share of its weights."""
        if self.size == 1:
            return objective
        from torch.distributed.fsdp import fully_shard
        from torch.nn.parallel import DistributedDataParallel

        match self.kind:
            case "ddp":
                ids = [torch.cuda.current_device()] if device == "cuda" else None
                return DistributedDataParallel(objective, device_ids=ids, gradient_as_bucket_view=True)
            case "fsdp":
                lists = [part for part in objective.modules() if isinstance(part, nn.ModuleList)]
                for layer in [layer for part in lists for layer in part if not isinstance(layer, nn.ModuleList)]:
                    fully_shard(layer)
                for root in objective.children():  # not the objective: the denoiser is called by itself, too
                    fully_shard(root, reshard_after_forward=True)  # else what is measured on averages would be trained on
                return objective
            case _:
                assert_never(self.kind)

    def held_back(self, wrapped: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients of all but the `last` part of a step stay in the process."""
        if self.size == 1:
            return nullcontext()
        from torch.distributed.fsdp import FSDPModule
        from torch.nn.parallel import DistributedDataParallel

        if isinstance(wrapped, DistributedDataParallel):
            return nullcontext() if last else wrapped.no_sync()
        for root in wrapped.children():
            if isinstance(root, FSDPModule):
                root.set_requires_gradient_sync(last)
        return nullcontext()


def _shared(tensor: Tensor) -> Any:
    """Return `tensor` as the DTensor that it is, of which every process holds a share, or None."""
    return tensor if hasattr(tensor, "device_mesh") else None


def own(tensor: Tensor) -> Tensor:
    """Return the share of a weight that lies in this process: all of it, but under FSDP."""
    shared = _shared(tensor)
    return tensor if shared is None else shared.to_local()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which every process may hold a share; all call it together."""
    shared = _shared(tensor)
    return tensor if shared is None else shared.full_tensor()


def like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return the whole `tensor` in the form of `weight`: whole, or this process's share of it."""
    if (shared := _shared(weight)) is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, shared.device_mesh, shared.placements, src_data_rank=None)


def as_share(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return this process's share `tensor` of something that is laid out as `weight` is."""
    if (shared := _shared(weight)) is None:
        return tensor
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(tensor, shared.device_mesh, shared.placements, shape=weight.shape, stride=weight.stride())


@contextmanager
def joined(kind: Kind, device: str, *, one_node: bool) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end. Raises InputError for more processes than GPUs."""
    if device == "cuda":
        here = dist.get_node_local_rank(fallback_rank=0)
        if here >= torch.cuda.device_count():
            raise InputError(f"compute.processes is more than the {torch.cuda.device_count()} GPUs of this machine: lower it")
        torch.cuda.set_device(here)
    if one_node:  # gloo would ask the network for this machine's name, and hang or be refused where that leads nowhere
        os.environ.setdefault("GLOO_SOCKET_IFNAME", next(name for _, name in socket.if_nameindex() if name.startswith("lo")))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=SILENT_S))
    try:
        yield World(dist.get_rank(), dist.get_world_size(), kind)
    finally:
        dist.destroy_process_group()
