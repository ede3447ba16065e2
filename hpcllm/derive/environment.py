"""What every rank finds in its environment: threads, fabric, files; then the site's own and the job's, which win."""

from __future__ import annotations

from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.derive.fabric import fabric_environment
from hpcllm.derive.setting import Layout, Setting
from hpcllm.job.spec import AnyJob, CommandJob


def environment(profile: Profile, job: AnyJob, layout: Layout) -> tuple[Setting, ...]:
    """The variables in the order in which they are exported, each name once."""
    node = profile.node_type(layout.partition)
    derived = [
        *_threads(profile, layout, node),
        *(fabric_environment(profile, layout) if layout.nodes > 1 else []),
        *_launcher(profile),
        *_files(profile, layout, node),
        *_offline(profile),
        *_output(job),
    ]
    site = [Setting(n, v, f"environment.{n}", "the site's own") for n, v in profile.environment.items()]
    own = [Setting(n, v, f"job.environment.{n}", "the job's own") for n, v in job.environment.items()]
    return _overridden(_overridden(derived, site), own)


def _threads(profile: Profile, layout: Layout, node: NodeType) -> list[Setting]:
    """A rank is bound to its cores by the launcher; its threads move freely among them.

    OMP_PROC_BIND would pin the main thread to one core, and with it every data loader and communication thread that it
    starts, since these inherit its mask.
    """
    key = f"nodes.{profile.node_type_name(layout.partition)}.cores"
    settings = [
        Setting("OMP_NUM_THREADS", str(layout.cores_per_rank), key, "a thread for each core of a rank"),
        Setting("OMP_PROC_BIND", "false", key, "a pinned thread would pin its data loaders too"),
    ]
    if profile.scheduler.kind == "slurm":
        cpus = str(layout.cores_per_rank * node.threads_per_core)
        settings.append(Setting("SRUN_CPUS_PER_TASK", cpus, key, "since Slurm 22.05 srun does not inherit it"))
    return settings


def _files(profile: Profile, layout: Layout, node: NodeType) -> list[Setting]:
    settings, scratch = [], node.local_scratch
    if scratch and scratch.kind == "disk" and "$" not in scratch.path:  # a path with a variable: the site sets it
        key = f"nodes.{profile.node_type_name(layout.partition)}.local_scratch.path"
        settings.append(Setting("TMPDIR", scratch.path, key, "the node's own disk"))
    if not profile.scratch().locking:
        key = f"filesystems.{profile.scratch_name()}.locking"
        settings.append(Setting("HDF5_USE_FILE_LOCKING", "FALSE", key, "file locks do not work there"))
    return settings


def _launcher(profile: Profile) -> list[Setting]:
    """Open MPI refuses to start as root, which is who one is in a container on one's own machine."""
    if profile.scheduler.kind != "local" or profile.software.mpi.flavour != "openmpi":
        return []
    names = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
    return [Setting(name, "1", "software.mpi.flavour", "a container's user is root") for name in names]


def _offline(profile: Profile) -> list[Setting]:
    if profile.internet.compute is not False:
        return []
    proxy = profile.internet.proxy
    if proxy:
        return [
            Setting(name, value, "internet.proxy", "the way out of a compute node") for name, value in proxy.items()
        ]
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
    if gone is None:
        return winner
    return Setting(winner.name, winner.value, winner.key, f"{winner.reason}; replaces {gone.value!r} of {gone.key}")
