"""The command that starts the ranks, as tokens before the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.derive.binding import Cpus, cpu_bind, is_oversubscribed, mask, rank_cpus
from hpcllm.derive.setting import Layout

SRUN_WAIT_S = 60  # after the first rank has ended, before srun ends the others


def launcher(profile: Profile, layout: Layout) -> tuple[str, ...]:
    """srun or mpirun with the number of ranks, their binding, and what makes one rank's failure end all."""
    mpi = profile.software.mpi
    node = profile.node_type(layout.partition)
    if PurePath(mpi.launcher[0]).name == "srun":
        return (*mpi.launcher, *_srun(profile, node, layout))
    if profile.scheduler.kind == "local":
        return (*mpi.launcher, "-n", str(layout.world_size), *_UNBOUND[mpi.flavour])
    if is_oversubscribed(node, layout):
        options = tuple(word.replace("@", str(layout.ranks_per_node)) for word in _OVERSUBSCRIBED[mpi.flavour])
    else:
        options = _MPIRUN[mpi.flavour](layout, rank_cpus(profile, layout))
    return (*mpi.launcher, "-n", str(layout.world_size), *options)


def _srun(profile: Profile, node: NodeType, layout: Layout) -> tuple[str, ...]:
    """--cpus-per-task stands here again, since from Slurm 22.05 on srun does not take it over from sbatch."""
    one_gpu_each = profile.scheduler.gpu_request == "gpus-per-task" and layout.gpus_per_node
    return (
        f"--nodes={layout.nodes}",
        f"--ntasks={layout.world_size}",
        f"--ntasks-per-node={layout.ranks_per_node}",
        f"--cpus-per-task={layout.cores_per_rank * node.threads_per_core}",
        *(("--overcommit",) if is_oversubscribed(node, layout) else ()),
        *_bound(profile, layout),
        # A rank that sees one GPU only cannot reach its neighbours' memory: all stay visible, local rank chooses.
        *(("--gpu-bind=none",) if one_gpu_each else ()),
        "--kill-on-bad-exit=1",
        f"--wait={SRUN_WAIT_S}",
        # Whole lines with their rank. Not --unbuffered: it is a pseudo-terminal, on which programs draw progress bars
        # and srun tears lines (seen on 22.05); PYTHONUNBUFFERED has each line written when it is printed.
        "--label",
    )


def _bound(profile: Profile, layout: Layout) -> tuple[str, ...]:
    """Nothing beside a --hint, which binds by itself: srun drops it for --cpu-bind, and counts threads (man srun)."""
    _, queue = profile.partition(layout.partition)
    hinted = "hint" in {**profile.scheduler.directives, **(queue.directives if queue else {})}
    return () if hinted else (f"--cpu-bind={cpu_bind(profile, layout)}",)


def _hydra(layout: Layout, cpus: Cpus | None) -> tuple[str, ...]:
    listed = "user:" + ",".join("+".join(map(str, rank)) for rank in cpus) if cpus else f"core:{layout.cores_per_rank}"
    return ("-ppn", str(layout.ranks_per_node), "-bind-to", listed)


def _open_mpi(layout: Layout, cpus: Cpus | None) -> tuple[str, ...]:
    """Its mpirun takes no list of CPUs for each rank on its command line, so ranks get the cores in their order."""
    return ("--map-by", f"ppr:{layout.ranks_per_node}:node:PE={layout.cores_per_rank}", "--bind-to", "core")


def _intel(layout: Layout, cpus: Cpus | None) -> tuple[str, ...]:
    masks = ",".join(mask(rank).removeprefix("0x") for rank in cpus or ())
    domain = f"[{masks}]" if cpus else f"{layout.cores_per_rank}:compact"
    return ("-ppn", str(layout.ranks_per_node), "-genv", "I_MPI_PIN_DOMAIN", domain)


def _cray(layout: Layout, cpus: Cpus | None) -> tuple[str, ...]:
    bind = "list:" + ":".join(",".join(map(str, rank)) for rank in cpus) if cpus else "depth"
    return ("--ppn", str(layout.ranks_per_node), f"--depth={layout.cores_per_rank}", f"--cpu-bind={bind}")


_MPIRUN: dict[str, Callable[[Layout, Cpus | None], tuple[str, ...]]] = {
    "mpich": _hydra,
    "mvapich": _hydra,
    "openmpi": _open_mpi,
    "intel-mpi": _intel,
    "cray-mpich": _cray,
}

# More ranks than cores: nothing to bind to.
_OVERSUBSCRIBED: dict[str, tuple[str, ...]] = {
    "mpich": ("-ppn", "@"),
    "mvapich": ("-ppn", "@"),
    "openmpi": ("--map-by", "ppr:@:node:OVERSUBSCRIBE", "--bind-to", "none"),
    "intel-mpi": ("-ppn", "@", "-genv", "I_MPI_PIN_DOMAIN", "off"),
    "cray-mpich": ("--ppn", "@", "--cpu-bind=none"),
}

# On one's own machine no scheduler keeps two runs apart: bound, both would share the first cores while others idle.
_UNBOUND: dict[str, tuple[str, ...]] = {
    "mpich": (),
    "mvapich": (),
    "openmpi": ("--bind-to", "none", "--oversubscribe"),  # it binds by itself, and its slots are not our cores
    "intel-mpi": ("-genv", "I_MPI_PIN", "off"),
    "cray-mpich": ("--cpu-bind=none",),
}
