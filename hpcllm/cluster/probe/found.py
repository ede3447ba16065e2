"""What a probe found, as its stage leaves it in results/probe.json: every node, every pair, every size."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Any

from hpcllm.errors import HpcllmError
from hpcllm.run_directory import Run, read_json

SLOW_SHARE = 0.5  # of the median of the other nodes, below which a node is slow
BROKEN_SHARE = 0.1
CLOCK_SKEW_S = 0.5  # from which on two nodes' clocks are wrong
TCP_FABRICS = ("ethernet", "none")  # that have no faster protocol to lose


@dataclass(frozen=True)
class ProbedNode:
    """One node. None: not measured, as GPUs where there are none."""

    host: str
    flops_per_s: float | None = None
    """Of all its ranks together, on their cores."""
    gpu_flops_per_s: float | None = None
    """Of its slowest GPU."""
    gpu_memory_rate_bytes_per_s: float | None = None
    """Of its slowest GPU."""
    memory_rate_bytes_per_s: float | None = None
    """Of all its ranks together."""
    all_reduce_bytes_per_s: float | None = None
    """Bus bandwidth between its ranks."""
    link_bytes_per_s: float | None = None
    """With its best partner."""
    clock_offset_s: float = 0.0
    """Against the first node."""


@dataclass(frozen=True)
class Probed:
    """One probe."""

    date: str
    commit: str
    partition: str | None
    node_type: str
    filesystem: str | None
    """Name in the profile of the one that the run lies on; None: the profile has none there."""
    world_size: int
    library: str
    nodes: tuple[ProbedNode, ...]
    binding: tuple[tuple[str, str], ...] = ()
    """Of each rank its host, and the hardware threads on which the kernel lets it run: 0-7."""
    links: tuple[tuple[str, str, float], ...] = ()
    """Pairs of hosts, and bytes a second each way, both ways at once."""
    latency_s: float | None = None
    all_reduce_bytes_per_s: float | None = None
    """Bus bandwidth over all nodes, one rank a node."""
    gpu_all_reduce_inside_bytes_per_s: float | None = None
    gpu_all_reduce_bytes_per_s: float | None = None
    files: Mapping[str, float | None] = field(default_factory=dict)
    """write_bytes_per_s, read_bytes_per_s, and the same of HDF5."""
    all_reduce: Mapping[str, list[dict[str, float]]] = field(default_factory=dict)
    """By where (inside, across, gpus inside, gpus): {bytes, seconds} of each size."""
    findings: tuple[Mapping[str, str], ...] = ()
    """What preflight found wrong: severity, check, what, cause, action."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """In the order of the ranks."""
        return tuple(node.host for node in self.nodes)

    @property
    def clock_skew_s(self) -> float:
        """Between the two clocks that differ most."""
        offsets = [node.clock_offset_s for node in self.nodes]
        return max(offsets) - min(offsets)

    def rate_bytes_per_s(self) -> float | None:
        """Between two nodes: the median over the pairs in which no node is slow."""
        slow = self.slow_hosts("link_bytes_per_s")
        rates = [rate for one, other, rate in self.links if not {one, other} & set(slow)]
        return median(rates) if rates else None

    def slow_hosts(self, figure: str) -> tuple[str, ...]:
        """Nodes below half of what the others reach (their median)."""
        values = {node.host: getattr(node, figure) for node in self.nodes if getattr(node, figure) is not None}
        return tuple(host for host in values if values[host] < SLOW_SHARE * others(values, host))

    @property
    def slow(self) -> bool:
        """Whether some node is slow in something."""
        return any(self.slow_hosts(one.name) for one in fields(ProbedNode) if one.name.endswith("_per_s"))

    def lowest(self, figure: str) -> float | None:
        """The slowest node's that is not slow."""
        slow = self.slow_hosts(figure)
        values = [getattr(node, figure) for node in self.nodes if node.host not in slow]
        known = [value for value in values if value is not None]
        return min(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """As in results/probe.json."""
        return asdict(self)


def others(values: Mapping[str, float], host: str) -> float:
    """The median of the other nodes; 0 where there are none."""
    rest: Collection[float] = [value for other, value in values.items() if other != host]
    return median(rest) if rest else 0.0


def read_probed(run: Run) -> Probed:
    """What the probe of a run directory found. Raises HpcllmError when it has not finished, or is damaged."""
    data = read_json(run.probe_json)
    try:
        return Probed(
            **{
                **data,
                "nodes": tuple(ProbedNode(**node) for node in data["nodes"]),
                "binding": tuple((host, cpus) for host, cpus in data["binding"]),
                "links": tuple((one, other, rate) for one, other, rate in data["links"]),
                "findings": tuple(data["findings"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        again = "delete it and hpcllm submit the run again"
        raise HpcllmError(f"{run.probe_json}: damaged, or of another hpcllm ({error}); {again}") from None
