"""What a profile does not say, and what comes of that: for somebody who could find out."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpcllm.cluster.fabric import Fabric
from hpcllm.cluster.profile import Profile
from hpcllm.derive.setting import Layout


def unknown(profile: Profile, layout: Layout) -> list[tuple[str, str]]:
    """Keys without a value that matter to a job of this layout, each with what comes of it."""
    rows = [*_of_scheduler(profile, layout), *_of_nodes(profile, layout)]
    if layout.nodes > 1:
        rows += _of_fabric(*profile.fabric_of(layout.partition), set(profile.environment))
    return [(key, outcome) for key, value, outcome in [*rows, *_of_site(profile)] if value is None]


Row = tuple[str, object, str]


def _of_scheduler(profile: Profile, layout: Layout) -> Iterator[Row]:
    name, queue = profile.partition(layout.partition)
    if queue is None:
        return
    bounded = math.isfinite(profile.scheduler.limits(name or "", None, layout.nodes).max_time_s)
    said = bounded or "max_time_s" in queue.model_fields_set or None  # `unlimited` is a site's word too
    yield f"scheduler.partitions.{name}.max_time", said, "any time is let through; Slurm refuses what is too long"
    yield "scheduler.version", profile.scheduler.version, "taken for 22.05 or later"


def _of_nodes(profile: Profile, layout: Layout) -> Iterator[Row]:
    at, node = f"nodes.{profile.node_type_name(layout.partition)}", profile.node_type(layout.partition)
    yield f"{at}.count", node.count, "any number of nodes is let through"
    yield f"{at}.memory", node.memory_bytes, "no plan for ranks on cores, and no --mem"
    if node.gpus is None:
        yield f"{at}.flops", node.flops_per_s, "no plan says how fast it computes"
        return
    yield f"{at}.gpus.memory", node.gpus.memory_bytes, "no plan says what fits"
    yield f"{at}.gpus.cpus", node.gpus.cpus or None, "ranks get cores in Slurm's order, near their GPU or not"


def _of_fabric(fabric: Fabric, key: str, variables: set[str]) -> Iterator[Row]:
    yield f"{key}.rate", fabric.rate_bytes_per_s, "no plan says how long communication takes"
    if fabric.tuned_by == "site" or fabric.kind == "none":
        return
    told = fabric.interfaces or variables & {"NCCL_SOCKET_IFNAME"} or None
    yield f"{key}.interfaces", told, "NCCL and Gloo choose an interface by themselves"
    if fabric.kind in ("infiniband", "roce"):
        yield f"{key}.hcas", fabric.hcas or None, "NCCL and UCX take every adapter that they find"
    if fabric.kind in ("tcpx", "tcpxo"):
        yield f"{key}.gpu_interfaces", fabric.gpu_interfaces or None, "the plugin is not told where the GPUs' data goes"


def _of_site(profile: Profile) -> Iterator[Row]:
    at, scratch = f"filesystems.{profile.scratch_name()}", profile.scratch()
    yield f"{at}.read", scratch.read_bytes_per_s, "no plan says how long reading takes"
    yield f"{at}.write", scratch.write_bytes_per_s, "no plan says how long a checkpoint takes"
    yield "internet.compute", profile.internet.compute, "libraries may try to reach it"
    mtbf = profile.reliability and profile.reliability.node_mtbf_s
    yield "reliability.node_mtbf", mtbf, "checkpoints are written every tenth of a run"
    yield "price", profile.price or any(node.price for node in profile.nodes.values()) or None, "no plan says the cost"
