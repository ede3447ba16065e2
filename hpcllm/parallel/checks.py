"""The contract: what preflight holds against what was asked. Pure functions from facts to findings, no MPI in here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from statistics import median_low

from hpcllm.cluster.probe.found import CLOCK_SKEW_S
from hpcllm.parallel.expected import Expected
from hpcllm.parallel.facts import RankFacts
from hpcllm.parallel.finding import Finding, error, listed, warning
from hpcllm.parallel.launched import Library, Started, singletons
from hpcllm.units import as_ranges, counted, format_seconds

CLOCK_ERROR_S = 60.0  # from which on what hpcllm and Slurm tell by times (who lives, whose credential is old) is wrong


def check_counts(size: int, nodes: int, started: Started, asked: Expected, library: Library) -> list[Finding]:
    """As many ranks as asked, on as many nodes, in one world."""
    if size == 1 and (started.size or 1) > 1:
        return [singletons(started, library)]
    if asked.ranks not in (None, size):
        alone = size == 1 and started.size is None
        cause = "started without srun or mpirun" if alone else "the launcher was asked for another number"
        action = f"start {asked.ranks} ranks: srun -n {asked.ranks} …, or mpirun -n {asked.ranks} …"
        return [error("ranks", f"found {size}; {asked.source} says {asked.ranks}", cause, action)]
    if asked.nodes not in (None, nodes):
        cause = "the launcher put the ranks elsewhere than on all nodes of the allocation"
        action = "give the launcher the nodes: srun --nodes and --ntasks-per-node, mpirun -ppn or --map-by ppr:…:node"
        return [error("nodes", f"the ranks are on {nodes}; {asked.nodes} were asked for", cause, action)]
    return []


def check_binding(facts: Sequence[RankFacts], asked: Expected) -> list[Finding]:
    """No two ranks on the same cores, node by node; equal findings of several nodes are one."""
    return _worst([finding for ranks in by_node(facts) if (finding := _binding_of_node(ranks, asked))])


def by_node(facts: Sequence[RankFacts]) -> list[list[RankFacts]]:
    """The ranks of each node."""
    ranks: dict[int, list[RankFacts]] = defaultdict(list)
    for rank in facts:
        ranks[rank.node].append(rank)
    return list(ranks.values())


def _worst(found: Sequence[Finding]) -> list[Finding]:
    """One for the like of several nodes."""
    worst = sorted(found, key=lambda finding: finding.severity)[:1]  # "error" before "warning"
    more = f" (and the like on {len(found) - 1} more nodes)" if len(found) > 1 else ""
    return [replace(finding, what=finding.what + more) for finding in worst]


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
            return warning("binding", what, "the job was planned with more ranks than cores", "nothing")
        cause = f"{len(ranks)} ranks share {len(every)} core" + ("s" if len(every) > 1 else "")
        return error("binding", what, cause, f"start fewer ranks on a node, or {bind}")
    allotted = ranks[0].allotted
    if all(rank.cpus == every for rank in ranks) and not (allotted and len(every) < allotted):
        cause = "the launcher binds nothing, so ranks wander and disturb each other"
        return None if asked.unbound else warning("binding", what, cause, bind)
    if not any(a.cpus & b.cpus for a, b in shared):
        return warning("binding", what, "hardware threads of one core went to two ranks", bind)
    return error("binding", what, "two ranks were bound to the same cores", bind)


def check_clocks(hosts: Sequence[str], offsets_s: Sequence[float]) -> list[Finding]:
    """Times of different nodes can be compared. Offsets are against node 0; what is right is the median clock."""
    right, others = (median_low(offsets_s), "the others") if len(hosts) > 2 else (0.0, hosts[0])
    wrong = {host: t - right for host, t in zip(hosts, offsets_s, strict=True) if abs(t - right) > CLOCK_SKEW_S}
    if not wrong:
        return []
    what = [
        f"{host} is {format_seconds(abs(t))} {'ahead of' if t > 0 else 'behind'} {others}" for host, t in wrong.items()
    ]
    cause = "time is not synchronized (chronyd or ntpd is not running there)"
    action = "tell the admins; times in logs of these nodes are off"
    if max(map(abs, wrong.values())) < CLOCK_ERROR_S:
        return [warning("clock", listed(what), cause, action)]
    blamed = tuple(wrong) if len(wrong) < len(hosts) / 2 else ()
    return [error("clock", listed(what), cause, f"leave these nodes out, and {action}", blamed)]


def check_versions(facts: Sequence[RankFacts]) -> list[Finding]:
    """The same software on every rank. Where most nodes agree, the others are to blame."""
    return [finding for name, _ in facts[0].versions if (finding := _check_version(name, facts))]


def _check_version(name: str, facts: Sequence[RankFacts]) -> Finding | None:
    found = {rank.host: dict(rank.versions)[name] for rank in facts}
    counts = Counter(found.values())
    if len(counts) == 1:
        return None
    (usual, most), *_ = counts.most_common()
    others = {host: version for host, version in found.items() if version != usual}
    first = next(host for host, version in found.items() if version == usual)
    where = first if most == 1 else f"{most} nodes"
    return error(
        "software",
        f"{name} {usual} on {where}, but {listed([f'{version} on {host}' for host, version in others.items()])}",
        "the nodes have different installations, or PATH or modules differ between them",
        "use an environment on a filesystem that all nodes share",
        tuple(others) if most > len(found) / 2 else (),
    )


def check_library(library: Library, asked: Expected) -> list[Finding]:
    """The MPI library that was loaded is the one that the profile names."""
    if asked.flavour in (None, library.flavour):
        return []
    shadows = f"the wheel in this Python shadows the site's library ({library.path})"
    return [
        error(
            "MPI library",
            f"mpi4py loaded {library.text}; the profile says software.mpi.flavour: {asked.flavour}",
            shadows if library.is_wheel else "a module is not loaded, or another one is",
            "load the site's MPI module before Python starts, uninstall the wheel, or set MPI4PY_LIBMPI to the library",
        )
    ]


def check_one_gpu_each(facts: Sequence[RankFacts], asked: Expected) -> list[Finding]:
    """No two ranks of a node compute on the same GPU; equal findings of several nodes are one.

    More ranks than GPUs that nobody planned for GPUs may be a program for CPUs: a warning.
    """
    found = [finding for ranks in by_node(facts) if (finding := _gpus_of_node(ranks, asked))]
    return _worst(found)


def _gpus_of_node(ranks: Sequence[RankFacts], asked: Expected) -> Finding | None:
    users: dict[str, list[RankFacts]] = defaultdict(list)
    for rank in ranks:
        if rank.gpu:
            users[rank.gpu].append(rank)
    shared = {gpu: those for gpu, those in users.items() if len(those) > 1}
    if not shared:
        return None
    there = {gpu for rank in ranks for gpu in rank.gpus}
    what = f"{ranks[0].host}: " + listed(
        [f"ranks {as_ranges(rank.rank for rank in those)} on {gpu}" for gpu, those in shared.items()]
    )
    between = f"{counted(len(ranks), 'rank')} see {counted(len(there), 'GPU')} between them"
    same = (
        f"every rank was given the same GPU: {between}, by CUDA_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES or the launcher"
    )
    few = f"{between}: more ranks on a node than GPUs, or fewer GPUs asked for than ranks"
    action = (
        "give each rank a GPU of its own: as many ranks on a node as GPUs, srun --gpus-per-node=N --gpu-bind=none, and "
        "CUDA_VISIBLE_DEVICES set by Slurm alone"
    )
    crowded = len(ranks) > len(there)
    planned = not asked.gpus or (asked.ranks or 0) > (asked.nodes or 1) * asked.gpus
    say = warning if crowded and planned else error
    return say("GPU of a rank", what, few if len(there) > 1 else same, action)


def check_gpus(seen: Sequence[tuple[str, int]], asked: Expected) -> list[Finding]:
    """Every node shows as many GPUs as the profile says; `seen` are (host, GPUs)."""
    lacking = [f"{count} on {host}" for host, count in seen if count < asked.gpus]
    if not lacking:
        return []
    return [
        error(
            "GPUs",
            f"torch sees {listed(lacking)}; {asked.gpus_key} says {asked.gpus}",
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
    return [error("NCCL", said, cause, "run the probe with NCCL_DEBUG=INFO under environment in the profile")]


def check_hdf5(said: str, filesystem: str | None) -> list[Finding]:
    """HDF5 can write here with file locks as they are set; `said` is its error where not."""
    if not said:
        return []
    where = f"filesystems.{filesystem}" if filesystem else "this filesystem"
    action = f"say locking: false under {where} (scripts then export HDF5_USE_FILE_LOCKING=FALSE)"
    return [error("HDF5", said, "file locks do not work there, or it is full", action)]


def check_all_reduce(wrong: Sequence[int], hosts: Sequence[str]) -> list[Finding]:
    """The sums were right on every rank."""
    if not wrong:
        return []
    what = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in wrong[:8])
    cause = "broken memory, a broken adapter, or an MPI library that does not fit the network"
    nodes = tuple(dict.fromkeys(hosts[rank] for rank in wrong))
    return [error("all-reduce", f"wrong sums on {what}", cause, "leave these nodes out and tell the admins", nodes)]
