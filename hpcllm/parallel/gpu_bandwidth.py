"""All-reduce between GPUs as training does it: by NCCL or RCCL, inside each node and over all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from hpcllm.parallel.bandwidth import AllReduce
from hpcllm.parallel.strategy import torch_process_group
from hpcllm.parallel.world import World

MOST_CALLS = 100


def measure_gpu_all_reduce(
    world: World, sizes: Sequence[int], for_s: float, device: str = "cuda"
) -> tuple[list[AllReduce], list[AllReduce]]:
    """Times by size, inside the slowest node and over all ranks; none where there is nobody to talk to."""
    with torch_process_group(world):
        if world.size == 1:
            return [], []
        nodes = world.all_gather(world.node)
        groups = [[rank for rank, at in enumerate(nodes) if at == node] for node in range(world.nodes)]
        own = [dist.new_group(ranks) for ranks in groups][world.node]  # every rank takes part in making each group
        inside = _times(world, own, sizes, for_s, device) if world.local_size > 1 else []
        return inside, _times(world, None, sizes, for_s, device) if world.nodes > 1 else inside


def _times(
    world: World, group: dist.ProcessGroup | None, sizes: Sequence[int], for_s: float, device: str
) -> list[AllReduce]:
    """Every rank makes the same number of calls, or those left over would wait for ever."""
    times = []
    for num_bytes in sizes:
        tensor = torch.zeros(max(1, num_bytes // 4), device=device)
        _call_s(tensor, group, 1)  # makes the connections
        once = max(world.all_gather(_call_s(tensor, group, 1)))
        calls = max(1, min(MOST_CALLS, int(for_s / len(sizes) / once)))
        times.append(AllReduce(num_bytes, max(world.all_gather(_call_s(tensor, group, calls)))))
    return times


def _call_s(tensor: torch.Tensor, group: dist.ProcessGroup | None, calls: int) -> float:
    """Time of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(tensor, group=group)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls
