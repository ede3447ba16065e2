"""What every rank finds in its environment: threads, fabric, files; then the site's own and the job's, which win."""

from __future__ import annotations

import re

from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.derive.fabric import fabric_environment
from hpcllm.derive.setting import Layout, Setting
from hpcllm.derive.staging import staging
from hpcllm.job.spec import AnyJob, CommandJob

INHERITS_NO_CPUS = (22, 5)  # version of Slurm from which on srun does not take --cpus-per-task over from sbatch


def environment(profile: Profile, job: AnyJob, layout: Layout) -> tuple[Setting, ...]:
    """The variables in the order in which they are exported, each name once."""
    node = profile.node_type(layout.partition)
    derived = [
        *_threads(profile, layout, node),
        *(fabric_environment(profile, layout) if layout.nodes > 1 else []),
        *_mpi(profile, layout, node),
        *_files(profile, layout, node),
        *_caches(profile, layout, node),
        *staging(profile, job, layout),
        *_internet(profile),
        *_output(job),
    ]
    site = [Setting(n, v, f"environment.{n}", "as the profile says") for n, v in profile.environment.items()]
    where = f"nodes.{profile.node_type_name(layout.partition)}.environment"
    here = [Setting(n, v, f"{where}.{n}", "as the profile says of these nodes") for n, v in node.environment.items()]
    own = [Setting(n, v, f"job.environment.{n}", "the job's own") for n, v in job.environment.items()]
    return _overridden(_overridden(_overridden(derived, site), here), own)


def _threads(profile: Profile, layout: Layout, node: NodeType) -> list[Setting]:
    """A rank is bound to its cores by the launcher; its threads move freely among them.

    OMP_PROC_BIND would pin the main thread to one core, and with it every data loader and communication thread that it
    starts, since these inherit its mask. OMP_PLACES says nothing then, and is not set.
    """
    key = f"nodes.{profile.node_type_name(layout.partition)}.cores"
    settings = [
        Setting("OMP_NUM_THREADS", str(layout.cores_per_rank), key, "a thread for each core of a rank"),
        Setting("OMP_PROC_BIND", "false", key, "a pinned thread would pin its data loaders too"),
    ]
    if profile.scheduler.kind == "slurm" and _slurm_version(profile) >= INHERITS_NO_CPUS:
        cpus = str(layout.cores_per_rank * node.threads_per_core)
        settings.append(Setting("SRUN_CPUS_PER_TASK", cpus, key, "since Slurm 22.05 srun does not inherit it"))
    return settings


def _slurm_version(profile: Profile) -> tuple[int, ...]:
    """Year and month; one that nobody knows is taken for a new one."""
    version = profile.scheduler.version
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) if version else INHERITS_NO_CPUS


def _mpi(profile: Profile, layout: Layout, node: NodeType) -> list[Setting]:
    """What an MPI needs whatever the network is."""
    mpi, key = profile.software.mpi, "software.mpi.flavour"
    if mpi.flavour == "openmpi" and profile.scheduler.kind == "local":
        names = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
        return [Setting(name, "1", key, "a container's user is root, as whom it does not start") for name in names]
    if mpi.flavour != "cray-mpich":
        return []
    settings = []
    if layout.gpus_per_node and not mpi.gpu_aware:
        reason = "NCCL and RCCL carry the GPUs' data; GPU-aware MPI beside them can deadlock"
        settings.append(Setting("MPICH_GPU_SUPPORT_ENABLED", "0", "software.mpi.gpu_aware", reason))
    if layout.cores_per_rank * node.numa_domains > node.cores:
        reason = "a rank spans NUMA domains, which a site's default of NUMA refuses"
        settings.append(Setting("MPICH_OFI_NIC_POLICY", "BLOCK", key, reason))
    return settings


# ---- files -----------------------------------------------------------------------------------------------------------


def _files(profile: Profile, layout: Layout, node: NodeType) -> list[Setting]:
    settings, scratch = [], node.local_scratch
    if scratch and scratch.kind == "disk" and scratch.path != "$TMPDIR":
        key = f"nodes.{profile.node_type_name(layout.partition)}.local_scratch.path"
        settings.append(Setting("TMPDIR", scratch.path, key, "the node's own disk, if it is there", needs=scratch.path))
    if not profile.scratch().locking:
        key = f"filesystems.{profile.scratch_name()}.locking"
        settings.append(Setting("HDF5_USE_FILE_LOCKING", "FALSE", key, "file locks do not work there"))
    return settings


def _caches(profile: Profile, layout: Layout, node: NodeType) -> list[Setting]:
    """Compiled kernels of GPUs: into folders of the user's own on the node, since homes are shared and slow.

    torch.compile's own cache is below TMPDIR already.
    """
    if not layout.gpus_per_node or node.gpus is None:
        return []
    key, disk, settings = f"nodes.{profile.node_type_name(layout.partition)}", node.local_scratch, []
    if disk and disk.kind == "disk":
        at, reason = f"{key}.local_scratch.path", "compiled kernels; else in the home directory"
        settings.append(Setting("TRITON_CACHE_DIR", f"{disk.path}/triton-$UID", at, reason, needs=disk.path))
    if is_amd(node.gpus.model):
        reason = "MIOpen's locks fail on a shared filesystem"
        for name in ("MIOPEN_USER_DB_PATH", "MIOPEN_CUSTOM_CACHE_DIR"):
            settings.append(Setting(name, "/tmp/miopen-$UID", f"{key}.gpus.model", reason, needs="/tmp"))
    return settings


def is_amd(model: str) -> bool:
    """Whether a GPU is one of AMD's Instinct: MI250X."""
    return re.search(r"(?i)\bMI\d", model) is not None


# ---- the world outside, and the log ----------------------------------------------------------------------------------


def _internet(profile: Profile) -> list[Setting]:
    """The way out where there is one; where there is none, libraries are told not to try."""
    if profile.internet.proxy:
        reason = "the way out of a compute node"
        return [Setting(n, v, f"internet.proxy.{n}", reason) for n, v in profile.internet.proxy.items()]
    if profile.internet.compute is not False:
        return []
    values = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "offline"}
    return [Setting(n, v, "internet.compute", "compute nodes reach no internet") for n, v in values.items()]


def _output(job: AnyJob) -> list[Setting]:
    if not isinstance(job, CommandJob):
        return []
    return [Setting("PYTHONUNBUFFERED", "1", "job.command", "its lines are in the log as they are printed")]


# ---- precedence --------------------------------------------------------------------------------------------------


def _overridden(settings: list[Setting] | tuple[Setting, ...], later: list[Setting]) -> tuple[Setting, ...]:
    """The settings with the later ones behind them; a name stands once, and the winner says what it replaces."""
    before = {s.name: s for s in settings}
    winners = {s.name for s in later}
    return (*(s for s in settings if s.name not in winners), *(_marked(s, before.get(s.name)) for s in later))


def _marked(winner: Setting, gone: Setting | None) -> Setting:
    if gone is None or gone.value == winner.value:
        return winner
    return Setting(winner.name, winner.value, winner.key, f"{winner.reason}; replaces {gone.value!r} of {gone.key}")
