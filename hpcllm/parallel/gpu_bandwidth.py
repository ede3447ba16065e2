"""All-reduce between GPUs as training does it: by NCCL or RCCL, inside each node and over all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from hpcllm.parallel.bandwidth import AllReduce
from hpcllm.parallel.strategy import torch_process_group
from hpcllm.parallel.world import World


def measure_gpu_all_reduce(world: World, sizes: Sequence[int], for_s: float) -> tuple[list[AllReduce], list[AllReduce]]:
    """Times by size, inside the slowest node and over all ranks; none where there is nobody to talk to."""
    with torch_process_group(world):
        if world.size == 1:
            return [], []
        nodes = world.all_gather(world.node)
        groups = [[rank for rank, at in enumerate(nodes) if at == node] for node in range(world.nodes)]
        own = [dist.new_group(ranks) for ranks in groups][world.node]  # every rank takes part in making each group
        inside = _times(world, own, sizes, for_s) if world.local_size > 1 else []
        return inside, _times(world, None, sizes, for_s) if world.nodes > 1 else inside


def _times(world: World, group: dist.ProcessGroup | None, sizes: Sequence[int], for_s: float) -> list[AllReduce]:
    """Every rank makes the same number of calls, or those left over would wait for ever."""
    times = []
    for num_bytes in sizes:
        once = max(world.all_gather(_call_s(group, num_bytes, 1)))
        calls = max(1, min(100, int(for_s / len(sizes) / once)))
        times.append(AllReduce(num_bytes, max(world.all_gather(_call_s(group, num_bytes, calls)))))
    return times


def _call_s(group: dist.ProcessGroup | None, num_bytes: int, calls: int) -> float:
    """Time of one call; a first, which makes connections, is not counted."""
    tensor = torch.zeros(max(1, num_bytes // 4), device="cuda")
    dist.all_reduce(tensor, group=group)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(tensor, group=group)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls
