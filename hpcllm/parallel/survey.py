"""All nodes measured at once, beside what preflight measures: what their ranks compute and copy, their all-reduce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from hpcllm.cluster.probe.found import ProbedNode
from hpcllm.parallel import bandwidth
from hpcllm.parallel.bandwidth import AllReduce
from hpcllm.parallel.gpu_bandwidth import measure_gpu_all_reduce
from hpcllm.parallel.links import best_rates
from hpcllm.parallel.preflight_report import Report
from hpcllm.parallel.speed import best_matmul, copy_bytes_per_s
from hpcllm.parallel.world import World

SMALLEST_BYTES = 8
STEP = 16  # from one size of message to the next


@dataclass(frozen=True)
class Compute:
    """What one rank reached while all the others were at it too."""

    node: int
    cpu_flops_per_s: float | None
    gpu_flops_per_s: float | None
    gpu_memory_bytes_per_s: float | None
    memory_bytes_per_s: float
    gpus: int
    """That it sees."""


@dataclass
class Network:
    """All-reduce by size, and the latency between nodes."""

    inside: list[list[AllReduce]] = field(default_factory=list)
    """Of each node."""
    across: list[AllReduce] = field(default_factory=list)
    """One rank a node."""
    latency_s: float | None = None
    gpus_inside: list[AllReduce] = field(default_factory=list)
    gpus: list[AllReduce] = field(default_factory=list)
    gpu_error: str = ""

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """By where; inside the nodes the slowest one's."""
        slowest = [max(times, key=lambda one: one.seconds) for times in zip(*self.inside, strict=True)]
        rows = {"inside": slowest, "across": self.across, "gpus_inside": self.gpus_inside, "gpus": self.gpus}
        return {name: [asdict(one) for one in times] for name, times in rows.items()}


def message_sizes(largest_bytes: int) -> list[int]:
    """8 B, 128 B, 2 KiB and so on, and the largest."""
    sizes = [SMALLEST_BYTES]
    while sizes[-1] * STEP < largest_bytes:
        sizes.append(sizes[-1] * STEP)
    return [*sizes, largest_bytes]


def measure_compute(world: World, on_gpus: bool, for_s: float) -> list[Compute]:
    """Matmul and memory of every rank, all at the same time as in training."""
    device = "cuda" if on_gpus and _all_see_gpus(world) else "cpu"
    gpus = torch.cuda.device_count() if on_gpus else 0
    if device == "cuda":
        torch.cuda.set_device(world.local_rank % gpus)
    world.barrier()
    flops, _ = best_matmul(device, for_s)
    world.barrier()
    memory = copy_bytes_per_s("cpu", for_s / 2)
    gpu_memory = copy_bytes_per_s("cuda", for_s / 2) if device == "cuda" else None
    cpu, gpu = (None, flops) if device == "cuda" else (flops, None)
    return world.all_gather(Compute(world.node, cpu, gpu, gpu_memory, memory, gpus))


def measure_network(world: World, on_gpus: bool, largest_bytes: int, for_s: float) -> Network:
    """All-reduce inside the nodes, all of them at once; then between one rank of each; then of the GPUs."""
    found, sizes = Network(), message_sizes(largest_bytes)
    if world.comm is None:
        return found
    assert world.inside is not None
    times = bandwidth.measure_all_reduce(world.inside, sizes)[0] if world.local_size > 1 else []
    found.inside = [times for times, local_rank in world.all_gather((times, world.local_rank)) if local_rank == 0]
    if world.leaders is not None and world.nodes > 1:
        found.across, _ = bandwidth.measure_all_reduce(world.leaders, sizes)
        found.latency_s = bandwidth.measure_latency(world.leaders)
    bandwidth.wait_quietly(world.comm)
    if on_gpus and _all_see_gpus(world):
        try:
            found.gpus_inside, found.gpus = measure_gpu_all_reduce(world, sizes, for_s)
        except RuntimeError as error:  # NCCL finds no network: a finding, and no reason to lose the other figures
            found.gpu_error = str(error).splitlines()[0]
    return found


def _all_see_gpus(world: World) -> bool:
    """Asked of all, since one that goes its own way would leave the others waiting."""
    return all(world.all_gather(torch.cuda.is_available()))


def gpus_seen(world: World, compute: Sequence[Compute]) -> list[tuple[str, int]]:
    """Each host, and how many GPUs its ranks see at least."""
    counts = [min(rank.gpus for rank in compute if rank.node == node) for node in range(world.nodes)]
    return list(zip(world.hosts, counts, strict=True))


def nodes_of(world: World, report: Report, compute: Sequence[Compute], network: Network) -> tuple[ProbedNode, ...]:
    """Each node by itself."""
    rates = best_rates(report.links)
    offsets = report.clock_offsets_s or [0.0] * world.nodes
    nodes = []
    for node, host in enumerate(world.hosts):
        ranks = [rank for rank in compute if rank.node == node]
        times = network.inside[node] if network.inside else []
        nodes.append(
            ProbedNode(
                host,
                flops_per_s=_over(sum, [rank.cpu_flops_per_s for rank in ranks]),
                gpu_flops_per_s=_over(min, [rank.gpu_flops_per_s for rank in ranks]),
                gpu_memory_rate_bytes_per_s=_over(min, [rank.gpu_memory_bytes_per_s for rank in ranks]),
                memory_rate_bytes_per_s=sum(rank.memory_bytes_per_s for rank in ranks),
                all_reduce_bytes_per_s=times[-1].bus_bytes_per_s(len(ranks)) if times else None,
                link_bytes_per_s=rates.get(node),
                clock_offset_s=offsets[node],
            )
        )
    return tuple(nodes)


def _over(of: Any, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(of(known)) if known else None
