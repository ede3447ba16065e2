"""How a model is spread over the ranks: torch's process group for a World, and the model's wrapper."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from hpcllm.errors import UserError
from hpcllm.parallel import mpi_backend
from hpcllm.parallel.world import World

BUCKET_MB = 25.0  # DDP's own default; a first bucket of 1 MiB goes out before it
RENDEZVOUS_S = 120.0


@contextlib.contextmanager
def torch_process_group(world: World) -> Iterator[None]:
    """torch.distributed over the ranks of `world`, inside the block: NCCL between GPUs, MPI between CPUs.

    One rank needs none and gets none. After an error the group is left as it is, for other ranks may be waiting in it.
    """
    if world.size == 1:
        yield
        return
    init_torch(world)
    yield
    dist.destroy_process_group()


def init_torch(world: World) -> None:
    """Make torch's default process group. NCCL takes the GPU of the local rank.

    A process group written in Python takes the place of the whole group (torch 2.13), so one group cannot be
    `cpu:mpi4py,cuda:nccl`. Beside NCCL, `dist.new_group(backend="mpi4py")` makes one for CPU tensors.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
    backend = "nccl" if torch.cuda.is_available() else mpi_backend.NAME
    dist.init_process_group(backend, store=_rendezvous(world), rank=world.rank, world_size=world.size)


def data_parallel(model: nn.Module, world: World, strategy: str = "ddp") -> nn.Module:
    """The model with gradients averaged over all ranks in backward; one rank gets the model itself.

    Every rank must hold the same weights, or rank 0's are copied. Raises UserError for a strategy that there is not.
    """
    if strategy != "ddp":
        raise UserError(f"strategy: found {strategy!r}; ddp is what this version trains with")
    if world.size == 1:
        return model
    return DistributedDataParallel(model, bucket_cap_mb=BUCKET_MB, gradient_as_bucket_view=True)


def no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Backward in this block adds to this rank's gradients and talks to nobody: all micro-batches but the last."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def bare(model: nn.Module) -> nn.Module:
    """The model inside the wrapper, as it was given to `data_parallel`."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(module, nn.Module)
    return module


def _rendezvous(world: World) -> Store:
    """A store that all ranks reach: rank 0 takes whatever port is free, and MPI tells the others which."""
    timeout = timedelta(seconds=RENDEZVOUS_S)
    if world.rank == 0:
        host = "127.0.0.1" if world.nodes == 1 else socket.gethostname()
        store = TCPStore(host, 0, world.size, is_master=True, timeout=timeout, wait_for_workers=False)
        world.broadcast((host, store.port))
        return store
    host, port = world.broadcast(("", 0))
    return TCPStore(host, port, world.size, is_master=False, timeout=timeout)
