"""Lint's doubts about what a site decides: queues, filesystems, software, the environment, what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise

from hpcllm.cluster.lint.doubt import Doubt, error, note, warning
from hpcllm.cluster.probe.preferred import key_of, pairs, value_at
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.scheduler import Partition
from hpcllm.cluster.software import Mpi
from hpcllm.cluster.storage import Filesystem
from hpcllm.source import FieldPath
from hpcllm.units import format_bytes_per_s, format_seconds, yaml_key

MOST_SOCKETS = 64  # NCCL_SOCKET_NTHREADS × NCCL_NSOCKS_PERTHREAD, by NCCL's documentation
FACTOR = 2.0  # by which a measured figure may differ from the stated one

# Options of sbatch that every script derives by itself.
_DERIVED = ("account", "job-name", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "output", "qos", "time")

# Kinds of PMI that an MPI library is hardly ever built for.
_STRANGE_PMI = {
    "openmpi": (("pmi2", "cray_shasta"), "Open MPI 5 speaks PMIx alone, and 4 as a rule"),
    "mpich": (("pmix",), "MPICH speaks PMI-1 and PMI-2 unless it was built with PMIx"),
    "mvapich": (("pmix",), "MVAPICH speaks PMI-1 and PMI-2 unless it was built with PMIx"),
    "cray-mpich": (("pmix",), "Cray MPICH wants cray_shasta (the default) or pmi2"),
    "intel-mpi": (("pmix",), "Intel MPI wants pmi2, with I_MPI_PMI_LIBRARY"),
}


def doubts(profile: Profile) -> Iterator[Doubt]:
    """Of the scheduler, the filesystems, the software and the environment."""
    yield from _scheduler(profile)
    for name, queue in profile.scheduler.partitions.items():
        yield from _partition(("scheduler", "partitions", name), queue, profile)
    for name, filesystem in profile.filesystems.items():
        yield from _filesystem(("filesystems", name), filesystem)
    first = next(iter(profile.filesystems), None)  # none where another mistake stands in their place
    if first and all(filesystem.purpose != "scratch" for filesystem in profile.filesystems.values()):
        yield warning(("filesystems",), f"none is `purpose: scratch`; runs are written to {first}, the first")
    yield from _mpi(("software", "mpi"), profile.software.mpi)
    yield from _environment(profile)
    yield from _measured(profile)


# ---- queues ----------------------------------------------------------------------------------------------------------


def _scheduler(profile: Profile) -> Iterator[Doubt]:
    scheduler, here = profile.scheduler, ("scheduler",)
    defaults = [name for name, queue in scheduler.partitions.items() if queue.default]
    if len(defaults) > 1:
        yield error(
            (*here, "partitions", defaults[1], "default"), f"{defaults[0]} is the default already; there is one"
        )
    used = {queue.node_type for queue in scheduler.partitions.values()}
    for name in profile.nodes if scheduler.partitions else ():
        if name not in used:
            yield warning(("nodes", name), "no partition has these nodes")
    for name, qos in scheduler.qos.items():
        if qos.min_nodes and qos.max_nodes and qos.min_nodes > qos.max_nodes:
            yield error((*here, "qos", name, "min_nodes"), f"found {qos.min_nodes}, above max_nodes: {qos.max_nodes}")
    for option in scheduler.directives:
        if option in _DERIVED:
            yield warning(
                (*here, "directives", option), "every script derives it; a job's own goes into slurm.directives"
            )
    yield from _gpus(profile)


def _gpus(profile: Profile) -> Iterator[Doubt]:
    scheduler, here = profile.scheduler, ("scheduler", "gpu_request")
    typed = [name for name, node in profile.nodes.items() if node.gpus and node.gpus.gres_type]
    if typed and scheduler.gpu_request == "gpus":
        yield note(("nodes", typed[0], "gpus", "gres_type"), "as --gpus=TYPE:N")
    if scheduler.kind != "slurm" or scheduler.gpu_request != "none":
        return
    for name, queue in scheduler.partitions.items():
        nodes = profile.nodes.get(queue.node_type)
        if nodes and nodes.gpus and not profile.exclusive_in(name)[0]:
            what = f"jobs in {name} ask neither for GPUs nor for whole nodes; right where it gives whole ones unasked"
            yield note(here, what)
            return


def _partition(here: FieldPath, queue: Partition, profile: Profile) -> Iterator[Doubt]:
    nodes = profile.nodes.get(queue.node_type)
    if nodes and nodes.count and (queue.max_nodes or 0) > nodes.count:
        there = f"nodes.{queue.node_type}.count: {nodes.count}"
        yield warning((*here, "max_nodes"), f"found {queue.max_nodes}, above {there}")
    for least, most in (("min_nodes", "max_nodes"), ("min_gpus", "max_gpus")):
        low, high = getattr(queue, least), getattr(queue, most)
        if low and high and low > high:
            yield error((*here, least), f"found {low}, above {most}: {high}")
    if queue.exclusive is False and profile.scheduler.gpu_request == "none" and nodes and nodes.gpus:
        yield warning((*here, "exclusive"), "nodes are shared, but gpu_request: none asks for no GPU")
    yield from _times((*here, "max_time_from_nodes"), queue)


def _times(here: FieldPath, queue: Partition) -> Iterator[Doubt]:
    """A table by size is read from small to large."""
    sizes = list(queue.max_time_from_nodes)
    if sizes != sorted(sizes):
        yield warning(here, f"found the sizes {', '.join(map(str, sizes))}; write them from small to large")
    if sizes and queue.max_nodes and max(sizes) > queue.max_nodes:
        yield warning((*here, str(max(sizes))), f"of {max(sizes)} nodes, above max_nodes: {queue.max_nodes}")
    longest = max(queue.max_time_from_nodes.values(), default=0.0)
    if not math.isinf(queue.max_time_s) and longest > queue.max_time_s:
        yield warning(here, f"found {format_seconds(longest)}, above max_time: {format_seconds(queue.max_time_s)}")


# ---- filesystems -----------------------------------------------------------------------------------------------------


def _filesystem(here: FieldPath, filesystem: Filesystem) -> Iterator[Doubt]:
    if filesystem.kind != "lustre":
        for key in ("stripes", "pool"):
            if getattr(filesystem, key):
                yield error((*here, key), f"Lustre has them, and this is {filesystem.kind}")
        if filesystem.striping != "none":
            yield error((*here, "striping"), f"Lustre has it, and this is {filesystem.kind}")
    for i, (smaller, larger) in enumerate(pairwise(filesystem.stripes), 1):
        if larger.from_bytes <= smaller.from_bytes or larger.count < smaller.count:
            yield warning((*here, "stripes", i), "sizes and counts rise from row to row")
    for way in ("write", "read"):
        one, total = (getattr(filesystem, f"{of}{way}_bytes_per_s") for of in ("", "total_"))
        if one and total and one > total:
            yield error(
                (*here, way), f"found {format_bytes_per_s(one)} for one job; all have {format_bytes_per_s(total)}"
            )
    if not filesystem.path.startswith(("/", "$", "~")):
        yield warning(
            (*here, "path"), f"found {filesystem.path!r}; expected a path from / on, or one that begins with a variable"
        )


# ---- software and environment ----------------------------------------------------------------------------------------


def _mpi(here: FieldPath, mpi: Mpi) -> Iterator[Doubt]:
    pmi = next((word.removeprefix("--mpi=") for word in mpi.launcher if word.startswith("--mpi=")), None)
    program = mpi.launcher[0].rpartition("/")[2] if mpi.launcher else ""
    if not mpi.launcher:
        yield error((*here, "launcher"), "found an empty list; expected [srun] or [mpirun]")
    elif pmi and program != "srun":
        yield error((*here, "launcher"), f"--mpi is an option of srun, and {program} has none such")
    elif pmi:
        strange, why = _STRANGE_PMI[mpi.flavour]
        if pmi.partition("_v")[0] in strange:
            yield warning(
                (*here, "launcher"),
                f"found --mpi={pmi} for {mpi.flavour}; {why}; `srun --mpi=list` shows what there is",
            )


def _environment(profile: Profile) -> Iterator[Doubt]:
    variables, here = profile.environment, ("environment",)
    sockets = [variables.get(name, "1") for name in ("NCCL_SOCKET_NTHREADS", "NCCL_NSOCKS_PERTHREAD")]
    if all(text.isdecimal() for text in sockets) and int(sockets[0]) * int(sockets[1]) > MOST_SOCKETS:
        what = f"{sockets[0]} threads × {sockets[1]} sockets; NCCL takes {MOST_SOCKETS} together"
        yield error((*here, "NCCL_SOCKET_NTHREADS"), what)
    for section, found in ((here, variables), (("internet", "proxy"), profile.internet.proxy)):
        for name, value in found.items():
            if _secret(name, value):
                what = "a password or key; profiles are read by all, and copied into every run: leave it out"
                yield error((*section, name), what)


def _secret(name: str, value: str) -> bool:
    return bool(
        re.search(r"://[^/\s:@]+:[^/\s@]+@", value)
        or (
            re.search(r"(?i)(password|passwd|secret|api_?key|(?<![a-z])token)$", name)
            and re.fullmatch(r"[\w+/=.-]{8,}", value)
        )
    )


# ---- measured --------------------------------------------------------------------------------------------------------


def _measured(profile: Profile) -> Iterator[Doubt]:
    """A probe that finds less than half of what is stated, or twice as much, has met another system, or a sick one."""
    for stated, measured in pairs(profile) if profile.measured else ():
        said, found = value_at(profile, stated), value_at(profile.measured, measured)
        if said and found and not 1 / FACTOR <= found / said <= FACTOR:
            times = f"{found / said:.2g} times {key_of(stated)}"
            path = ("measured", *measured[:-1], yaml_key(measured[-1]))
            yield warning(path, f"{times}; correct what is stated, or look for what is wrong with the system")
