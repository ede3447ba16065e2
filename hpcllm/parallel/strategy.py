"""How a model is spread over the ranks: torch's process group for a World, and the four strategies.

| strategy | every rank holds | ranks exchange, in units of an all-reduce of the gradients |
|---|---|---|
| ddp   | everything | 1 |
| zero1 | weights and gradients, 1/n of the optimizer's state | 1½ |
| fsdp  | 1/n of everything, and the weights of the layers at work | ½, and 1 more for each micro-batch |
| hsdp  | as fsdp, n the ranks of a node | inside a node as fsdp, across the nodes 1/n of what ddp exchanges |

Li et al. 2020 (DDP), Rajbhandari et al. 2020 (ZeRO), Zhao et al. 2023 (FSDP and hybrid sharding).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hpcllm.errors import UserError
from hpcllm.parallel import mpi_backend
from hpcllm.parallel.pieces import Piece, pieces_of
from hpcllm.parallel.world import World
from hpcllm.parallel.zero import ShardedOptimizer
from hpcllm.plan.buckets import DEFAULT_BUCKET_BYTES

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


def data_parallel(
    model: nn.Module,
    world: World,
    strategy: str = "ddp",
    precision: str = "fp32",
    bucket_bytes: int = DEFAULT_BUCKET_BYTES,
) -> nn.Module:
    """The model, on this rank's device, with gradients averaged over all ranks in backward; one rank needs no wrapper.

    Every rank must hold the same weights: ddp and zero1 copy rank 0's, the others keep of its own what each rank has.
    ddp and zero1 send gradients by `bucket_bytes`; a first bucket of 1 MiB goes out before.
    Raises UserError for a strategy that there is not, and for nodes that hsdp cannot take.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"strategy: found {strategy!r}; expected {', '.join(STRATEGIES)}")
    if world.size == 1:
        return model.to(_device_type())
    return STRATEGIES[strategy](model, world, precision, bucket_bytes)


def _ddp(model: nn.Module, world: World, precision: str, bucket_bytes: int) -> nn.Module:
    return _quiet(DistributedDataParallel(model.to(_device_type()), **_ddp_options(bucket_bytes)))


def _zero1(model: nn.Module, world: World, precision: str, bucket_bytes: int) -> nn.Module:
    return _quiet(ShardedOptimizer(model.to(_device_type()), world.rank, world.size, **_ddp_options(bucket_bytes)))


def _ddp_options(bucket_bytes: int) -> dict[str, Any]:
    return {"bucket_cap_mb": bucket_bytes / 2**20, "gradient_as_bucket_view": True}


def _quiet(model: DistributedDataParallel) -> nn.Module:
    """A model's buffers are constants (the sinusoids of positions): equal once, they need no word before each forward.

    torch 2.13 warns of the constructor's option, for which older ones have no other name.
    """
    model.broadcast_buffers = False
    return model


def _fsdp(model: nn.Module, world: World, precision: str, bucket_bytes: int) -> nn.Module:
    return _fully_sharded(model, init_device_mesh(_device_type(), (world.size,)), precision)


def _hsdp(model: nn.Module, world: World, precision: str, bucket_bytes: int) -> nn.Module:
    mesh = DeviceMesh(_device_type(), ranks_by_part(world), mesh_dim_names=("replicate", "shard"))
    return _fully_sharded(model, mesh, precision)


STRATEGIES: dict[str, Callable[[nn.Module, World, str, int], nn.Module]] = {
    "ddp": _ddp,
    "zero1": _zero1,
    "fsdp": _fsdp,
    "hsdp": _hsdp,
}


def _fully_sharded(model: nn.Module, mesh: DeviceMesh, precision: str) -> nn.Module:
    """Each layer's weights are gathered when it computes; embedding and last norm stay from forward to backward.

    Under bf16 the layers' weights are gathered in bf16. Autocast would make the same copies of them, but hold all
    until backward, which is what sharding is to save.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # autocast does, as it does without sharding
    )
    for stack in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for layer in stack:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    return model


def ranks_by_part(world: World) -> list[list[int]]:
    """The ranks of each node, wherever the launcher put them; of a single node, of its two halves.

    Raises UserError where the nodes have unequal numbers of ranks.
    """
    node_of_rank = world.all_gather(world.node)
    parts = [[rank for rank, node in enumerate(node_of_rank) if node == part] for part in range(world.nodes)]
    if world.nodes == 1 and world.size > 2 and world.size % 2 == 0:
        return [parts[0][: world.size // 2], parts[0][world.size // 2 :]]
    if len({len(part) for part in parts}) > 1:
        found = ", ".join(f"{len(part)} on {host}" for part, host in zip(parts, world.hosts, strict=True))
        raise UserError(f"strategy hsdp: found {found}; it needs as many ranks on every node; fsdp takes any")
    return parts


def no_sync(model: nn.Module, whole_gradients: bool = True) -> AbstractContextManager[None]:
    """Backward in this block adds to this rank's gradients and sends none: all micro-batches but the last.

    FSDP then holds whole gradients. Where there is no room for them (not `whole_gradients`) it sends them to the ranks
    that own them after all, and HSDP leaves out what goes across the nodes. Weights are gathered each time either way.
    """
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return _no_sync(model, whole_gradients) if isinstance(model, FSDPModule) else contextlib.nullcontext()


@contextlib.contextmanager
def _no_sync(model: FSDPModule, whole_gradients: bool) -> Iterator[None]:
    set_sync = model.set_requires_gradient_sync if whole_gradients else model.set_requires_all_reduce
    set_sync(False)
    yield
    set_sync(True)


def updated_pieces(model: nn.Module, world: World) -> list[Piece]:
    """What this rank's optimizer updates of a model that `data_parallel` gave."""
    return model.pieces if isinstance(model, ShardedOptimizer) else pieces_of(bare(model), world)


def update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The optimizer's step, on this rank's pieces; `share_weights` comes next."""
    with model.gradients_of_pieces() if isinstance(model, ShardedOptimizer) else contextlib.nullcontext():
        optimizer.step()


def share_weights(model: nn.Module) -> None:
    """Under ZeRO-1, give every rank what the others updated. Under FSDP the next forward pass gathers it."""
    if isinstance(model, ShardedOptimizer):
        model.share_weights()


def bare(model: nn.Module) -> nn.Module:
    """The model inside the wrapper, as it was given to `data_parallel`."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(module, nn.Module)
    return module


def _device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


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
