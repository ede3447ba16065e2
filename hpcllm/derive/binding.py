"""Which CPUs each rank of a node runs on.

A rank drives the GPU of its own number on its node, so it belongs on the CPUs next to that GPU. Slurm's own division
(`--cpu-bind=cores`) hands out the cores in their order, which is not the GPUs' order on many nodes: LUMI's first cores
are next to its GPU 4, Perlmutter's next to its last. Where the profile says which CPUs are next to which GPU, and the
job has the whole node, each rank gets a mask of its own.

A job with some of the GPUs of a node cannot name CPUs: which of the GPUs and of the cores are its own is Slurm's choice
when it starts, and a mask outside of them stops it. It gets `--cpu-bind=cores`.
"""

from __future__ import annotations

from hpcllm.cluster.nodes import NodeType, core_numbers
from hpcllm.cluster.profile import Profile
from hpcllm.derive.setting import Layout

Cpus = tuple[tuple[int, ...], ...]  # of each local rank, or of each GPU


def is_oversubscribed(node: NodeType, layout: Layout) -> bool:
    """Whether ranks outnumber cores, so that they cannot be bound."""
    return layout.ranks_per_node > node.cores


def first_threads(cpus: tuple[int, ...], cores: int) -> tuple[int, ...]:
    """CPUs without their sibling threads, which Linux numbers at least a node's cores further on: one for each core."""
    return tuple(cpu for cpu in cpus if cpu - min(cpus) < cores)


def cpus_next_to_gpus(node: NodeType) -> Cpus:
    """The CPUs of each GPU as Slurm counts CPUs: sibling threads are among them only where it counts threads."""
    listed = [tuple(sorted(core_numbers(ranges))) for ranges in (node.gpus.cpus if node.gpus else ())]
    return tuple(cpus if node.threads_per_core > 1 else first_threads(cpus, node.cores) for cpus in listed)


def cores_next_to_a_gpu(node: NodeType) -> int | None:
    """Cores that every GPU has beside it; None where the profile does not say."""
    listed = cpus_next_to_gpus(node)
    return min((len(first_threads(cpus, node.cores)) for cpus in listed), default=None)


def has_whole_node(node: NodeType, ranks: int, gpus: int, exclusive: bool) -> bool:
    """Whether a rank drives each GPU of a node and the job has all of its cores, so that it may name CPUs."""
    cores = cores_next_to_a_gpu(node)
    if node.gpus is None or cores is None or not ranks == gpus == node.gpus.count:
        return False
    return exclusive or ranks * cores >= node.cores


def rank_cpus(profile: Profile, layout: Layout) -> Cpus | None:
    """The CPUs of each local rank, those next to its GPU; None where the launcher's own even division has to do."""
    node, (exclusive, _) = profile.node_type(layout.partition), profile.exclusive_in(layout.partition)
    whole = has_whole_node(node, layout.ranks_per_node, layout.gpus_per_node, exclusive)
    return cpus_next_to_gpus(node) if whole else None


def mask(cpus: tuple[int, ...]) -> str:
    """CPUs as a hexadecimal mask: (0, 1, 4) -> `0x13`."""
    return hex(sum(1 << cpu for cpu in cpus))


def cpu_bind(profile: Profile, layout: Layout) -> str:
    """The value of srun's --cpu-bind."""
    if is_oversubscribed(profile.node_type(layout.partition), layout):
        return "none"
    cpus = rank_cpus(profile, layout)
    return "mask_cpu:" + ",".join(map(mask, cpus)) if cpus else "cores"
