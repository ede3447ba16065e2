"""Which cores each rank of a node runs on."""

from __future__ import annotations

from hpcllm.cluster.nodes import NodeType, core_numbers
from hpcllm.derive.setting import Layout


def is_oversubscribed(node: NodeType, layout: Layout) -> bool:
    """Whether ranks outnumber cores, so that they cannot be bound."""
    return layout.ranks_per_node > node.cores


def rank_cores(node: NodeType, layout: Layout) -> tuple[tuple[int, ...], ...] | None:
    """The CPUs of each local rank, when the profile says which cores are next to each GPU and a rank drives each GPU.

    None: nothing is known that the launcher's own even division does not know. Rank r drives GPU r, so it gets the
    cores next to GPU r. Only a job that takes all GPUs of a node may name cores, since the others are not its own.
    """
    if node.gpus is None or not node.gpus.cpus or not layout.gpus_per_node == layout.ranks_per_node == node.gpus.count:
        return None
    return tuple(core_numbers(ranges) for ranges in node.gpus.cpus)


def mask(cores: tuple[int, ...]) -> str:
    """Cores as a hexadecimal mask: (0, 1, 4) -> `0x13`."""
    return hex(sum(1 << core for core in cores))


def cpu_bind(node: NodeType, layout: Layout) -> str:
    """The value of srun's --cpu-bind."""
    if is_oversubscribed(node, layout):
        return "none"
    cores = rank_cores(node, layout)
    return "mask_cpu:" + ",".join(map(mask, cores)) if cores else "cores"
