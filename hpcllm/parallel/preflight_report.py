"""What preflight found, as rank 0 holds it: for the log, for --json, and for results/preflight.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from hpcllm.parallel import links as network
from hpcllm.parallel.expected import Expected
from hpcllm.parallel.facts import RankFacts
from hpcllm.parallel.finding import Finding, to_json
from hpcllm.parallel.launched import Library
from hpcllm.parallel.links import Link
from hpcllm.parallel.world import World
from hpcllm.report.link_matrix import link_matrix
from hpcllm.units import as_ranges, counted, format_bytes, format_bytes_per_s, format_seconds

if TYPE_CHECKING:
    from hpcllm.parallel.bandwidth import AllReduce

SHOWN_NODES = 16


@dataclass
class Report:
    """What was found, on rank 0."""

    world: World
    asked: Expected
    library: Library
    findings: list[Finding] = field(default_factory=list)
    facts: list[RankFacts] = field(default_factory=list)
    all_reduce: list[AllReduce] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    inside_bytes_per_s: list[float | None] = field(default_factory=list)
    """Of each node, between its first two ranks; None where it has one."""
    carriers: list[str] = field(default_factory=list)
    """Of each node the IP interface that carried MPI's messages; empty where none did."""
    clock_offsets_s: list[float] = field(default_factory=list)
    contract_s: float = 0.0
    """What the contract check took, without imports and without the start of MPI."""
    sweep_s: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the job must not start."""
        return bool(self.errors)

    @property
    def errors(self) -> list[Finding]:
        """Those findings for which it must not."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def nodes_are_to_blame(self) -> bool:
        """Whether the job may start without the nodes that the errors name."""
        return self.failed and all(finding.nodes for finding in self.errors)

    @property
    def rates(self) -> dict[tuple[str, str], float]:
        """Bytes a second between hosts."""
        hosts = self.world.hosts
        return {(hosts[link.nodes[0]], hosts[link.nodes[1]]): link.bytes_per_s for link in self.links}


# ---- for people ------------------------------------------------------------------------------------------------------


def table(report: Report, took_s: float) -> str:
    """The log's lines."""
    world = report.world
    asked = f" ({report.asked.source} says {report.asked.ranks})" if report.asked.ranks else ""
    head = f"preflight: {counted(world.size, 'rank')} on {counted(world.nodes, 'node')}{asked}; {report.library.text}"
    verdict = "not fit to start" if report.failed else "fit to start"
    took = f"checked in {format_seconds(took_s)} (contract {format_seconds(report.contract_s)}"
    took += f", sweep {format_seconds(report.sweep_s)})" if report.sweep_s else ")"
    return "\n".join(
        [
            head,
            *_node_lines(report),
            *_all_reduce_lines(report),
            *_link_lines(report),
            *map(str, report.findings),
            f"preflight: {verdict}, {took}",
        ]
    )


def _node_lines(report: Report) -> list[str]:
    rates, inside = network.best_rates(report.links), report.inside_bytes_per_s
    lines = []
    for node, host in enumerate(report.world.hosts[:SHOWN_NODES]):
        ranks = [rank for rank in report.facts if rank.node == node]
        cores = " | ".join(dict.fromkeys(as_ranges(rank.cpus) for rank in ranks))
        own = f"  inside {format_bytes_per_s(rate)}" if inside and (rate := inside[node]) else ""
        link = f"  best link {format_bytes_per_s(rates[node])}" if node in rates else ""
        numbers = as_ranges(rank.rank for rank in ranks)
        lines.append(f"  {host:<16} ranks {numbers:<8} cores {cores}{own}{link}")
    hidden = len(report.world.hosts) - SHOWN_NODES
    return [*lines, f"  … and {hidden} more nodes"] if hidden > 0 else lines


def _all_reduce_lines(report: Report) -> list[str]:
    ranks = report.world.size
    return [
        f"  all-reduce of {format_bytes(one.bytes):>7}: {format_seconds(one.seconds)}, "
        f"{format_bytes_per_s(one.bus_bytes_per_s(ranks))} a rank"
        for one in report.all_reduce
    ]


def _link_lines(report: Report) -> list[str]:
    matrix = link_matrix(report.rates)
    if matrix is None:
        return []
    head = "  between nodes, each way, both ways at once:"
    return [head, *(f"    {line}" for line in matrix.lines()), f"  {_held(report)}"]


def _held(report: Report) -> str:
    """Found against expected, where there are links."""
    if not report.links:
        return ""
    found, stated = median(report.rates.values()), report.asked.rate_bytes_per_s
    latencies = [link.latency_s for link in report.links if link.latency_s is not None]
    latency = f", {format_seconds(median(latencies))} for a small message" if latencies else ""
    over = "/".join(sorted(set(filter(None, report.carriers))))
    tcp = f", over TCP ({over})" if over else ""
    share = f"; {report.asked.rate_key} says {format_bytes_per_s(stated)}: {found / stated:.0%}" if stated else ""
    return f"found {format_bytes_per_s(found)} (median){latency}{tcp}{share}"


# ---- for programs ----------------------------------------------------------------------------------------------------


def document(report: Report) -> dict[str, Any]:
    """Everything, in plain types."""
    asked, hosts = report.asked, report.world.hosts
    return {
        "fit": not report.failed,
        "ranks": report.world.size,
        "nodes": report.world.nodes,
        "hosts": list(hosts),
        "asked": {"ranks": asked.ranks, "nodes": asked.nodes, "source": asked.source},
        "mpi_library": report.library.text,
        "mpi_library_file": report.library.path,
        "software": dict(report.facts[0].versions) if report.facts else {},
        "binding": [_placed(rank) for rank in report.facts],
        "all_reduce": [dict(vars(one)) for one in report.all_reduce],
        "links": [_link(link, hosts) for link in report.links],
        "expected": {"bytes_per_s": asked.rate_bytes_per_s, "source": asked.rate_key, "fabric": asked.fabric},
        "held": _held(report),
        "inside_bytes_per_s": report.inside_bytes_per_s,
        "carriers": report.carriers,
        "clock_offsets_s": report.clock_offsets_s,
        "contract_s": report.contract_s,
        "sweep_s": report.sweep_s,
        "findings": to_json(report.findings),
    }


def _placed(rank: RankFacts) -> dict[str, Any]:
    return {"rank": rank.rank, "host": rank.host, "cpus": sorted(rank.cpus), "gpu": rank.gpu}


def _link(link: Link, hosts: Sequence[str]) -> dict[str, Any]:
    pair = [hosts[node] for node in link.nodes]
    return {"hosts": pair, "bytes_per_s": link.bytes_per_s, "latency_s": link.latency_s}
