"""What Slurm is asked for: one Setting for each sbatch option, in reading order."""

from __future__ import annotations

import math
import re

from hpcllm.cluster.known import needed
from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User
from hpcllm.derive.binding import is_oversubscribed
from hpcllm.derive.setting import Layout, Setting
from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob, CommandJob
from hpcllm.units import format_bytes, format_seconds

MIB = 2**20
LONGEST_LEAD_S = 65535  # of sbatch --signal
# Options that say the same thing: whoever gives one of a group replaces the others.
EXCLUSIVE = (
    frozenset({"mem", "mem-per-cpu", "mem-per-gpu"}),
    frozenset({"gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"}),
    frozenset({"requeue", "no-requeue"}),
)


def directives(profile: Profile, job: AnyJob, layout: Layout, user: User) -> tuple[Setting, ...]:
    """Who and where, how much, how long, what happens at the end; then the site's own, then the job's own, which win.

    Empty where there is no Slurm. Raises UserError when the site wants an account and nobody gave one.
    """
    if profile.scheduler.kind == "local":
        return ()
    node = profile.node_type(layout.partition)
    derived = [
        *_who_and_where(profile, job, layout, user),
        *_how_much(profile, job, layout, node),
        *_how_long(layout),
        *_at_the_end(profile, job, user),
    ]
    site = [
        Setting(name, value, f"scheduler.directives.{name}", "the site wants it in every script")
        for name, value in profile.scheduler.directives.items()
    ]
    own = [
        Setting(name, value, f"job.slurm.directives.{name}", "the job's own")
        for name, value in job.slurm.directives.items()
    ]
    return _overridden(_overridden(derived, site), own)


def slurm_time(seconds: float) -> str:
    """As Slurm writes times: 5400 -> `01:30:00`, 90000 -> `1-01:00:00`."""
    whole = math.ceil(seconds)
    clock = f"{whole % 86400 // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 86400}-{clock}" if whole >= 86400 else clock


# ---- who and where ---------------------------------------------------------------------------------------------------


def _who_and_where(profile: Profile, job: AnyJob, layout: Layout, user: User) -> list[Setting]:
    name = job.name if isinstance(job, CommandJob) else f"{job.name}-{layout.stage}"
    return [
        Setting("job-name", re.sub(r"[^\w.+-]+", "-", name), "job.name", "shown by squeue"),
        *_account(profile, job, user),
        *_partition(profile, job, layout),
        *_qos(profile, job, layout, user),
    ]


def _account(profile: Profile, job: AnyJob, user: User) -> list[Setting]:
    found = _of_job_or_user("account", profile, job, user)
    if found is None and profile.scheduler.account_required:
        raise UserError(
            f"account: none was given, and {profile.name} refuses a job without one; give --account NAME, "
            "slurm.account in the job, or account in ~/.config/hpcllm/user.yaml"
        )
    return [Setting("account", *found, "who pays")] if found else []


def _partition(profile: Profile, job: AnyJob, layout: Layout) -> list[Setting]:
    if layout.partition is None:
        return []
    if job.slurm.partition:
        return [Setting("partition", layout.partition, "job.slurm.partition", "as asked")]
    limit = format_seconds(profile.scheduler.partitions[layout.partition].max_time_s)
    reason = f"the job fits here; at most {limit}"
    return [Setting("partition", layout.partition, f"scheduler.partitions.{layout.partition}", reason)]


def _qos(profile: Profile, job: AnyJob, layout: Layout, user: User) -> list[Setting]:
    found = _of_job_or_user("qos", profile, job, user)
    if found:
        return [Setting("qos", *found, "limits and priority")]
    partition = profile.scheduler.partitions[layout.partition] if layout.partition else None
    if partition is None or partition.qos is None:
        return []
    return [Setting("qos", partition.qos, f"scheduler.partitions.{layout.partition}.qos", "this partition wants it")]


def _of_job_or_user(name: str, profile: Profile, job: AnyJob, user: User) -> tuple[str, str] | None:
    """A fact and its key: the job's, else the person's on this cluster."""
    own = getattr(job.slurm, name)
    if own:
        return own, f"job.slurm.{name}"
    fact, key = user.fact(name, profile.name)
    return (fact, key) if fact else None


# ---- how much --------------------------------------------------------------------------------------------------------


def _how_much(profile: Profile, job: AnyJob, layout: Layout, node: NodeType) -> list[Setting]:
    node_key = f"nodes.{profile.node_type_name(layout.partition)}"
    cpus = layout.cores_per_rank * node.threads_per_core
    threads = f" of {node.threads_per_core} threads" if node.threads_per_core > 1 else ""
    return [
        Setting("nodes", str(layout.nodes), "job.resources.nodes", _in_all(layout.world_size)),
        _ranks(job, layout, node, node_key),
        Setting("cpus-per-task", str(cpus), f"{node_key}.cores", f"{layout.cores_per_rank} cores{threads} a rank"),
        *_gpus(profile, layout, node, node_key),
        *_memory(profile, layout, node, node_key),
        *_whole_nodes(profile),
    ]


def _in_all(ranks: int) -> str:
    return "one rank in all" if ranks == 1 else f"{ranks} ranks in all"


def _ranks(job: AnyJob, layout: Layout, node: NodeType, node_key: str) -> Setting:
    name, count = "ntasks-per-node", str(layout.ranks_per_node)
    if is_oversubscribed(node, layout):  # Slurm grants no more tasks than CPUs; srun --overcommit starts them all
        reason = f"each core; the launcher starts {count} ranks on them"
        return Setting(name, str(node.cores), f"{node_key}.cores", reason)
    if layout.ranks_per_node == job.resources.ranks_per_node:
        return Setting(name, count, "job.resources.ranks_per_node", "ranks on each node, as asked")
    if layout.ranks_per_node == layout.gpus_per_node:
        return Setting(name, count, f"{node_key}.gpus.count", "one rank drives each GPU")
    if layout.world_size == 1:
        return Setting(name, count, "job.resources.nodes", "one rank does this stage")
    return Setting(name, count, f"{node_key}.numa_domains", "one rank for each NUMA domain")


def _gpus(profile: Profile, layout: Layout, node: NodeType, node_key: str) -> list[Setting]:
    """In the site's dialect. All GPUs of a node stay visible to all its ranks, whatever the dialect."""
    scheduler, count = profile.scheduler, layout.gpus_per_node
    if count == 0 or scheduler.gpu_request == "none":
        return []
    key = f"{node_key}.gpus.count"
    gres_type = node.gpus.gres_type if node.gpus else None
    kind = f"{gres_type}:" if gres_type else ""
    return {
        "gres": [Setting("gres", f"gpu:{kind}{count}", key, "GPUs of each node")],
        "gpus-per-node": [Setting("gpus-per-node", f"{kind}{count}", key, "GPUs of each node")],
        "gpus-per-task": [Setting("gpus-per-task", str(max(1, count // layout.ranks_per_node)), key, "GPUs of a rank")],
    }[scheduler.gpu_request]


def _memory(profile: Profile, layout: Layout, node: NodeType, node_key: str) -> list[Setting]:
    """The share of a node's memory that goes with its cores, rounded down to MiB, which Slurm writes as M."""
    key = f"{node_key}.memory"
    if profile.scheduler.memory_request == "cpu":
        mebibytes = needed(node.memory_bytes, key, "--mem-per-cpu") // (node.cores * node.threads_per_core * MIB)
        return [Setting("mem-per-cpu", f"{mebibytes}M", key, "an equal share of a node's memory")]
    if profile.scheduler.memory_request == "none":
        return []
    cores = min(node.cores, layout.ranks_per_node * layout.cores_per_rank)
    share = 1.0 if profile.scheduler.exclusive else cores / node.cores
    mebibytes = int(needed(node.memory_bytes, key, "--mem") * share) // MIB
    whose = "all of a node" if share == 1 else f"share of {cores} of {node.cores} cores"
    return [Setting("mem", f"{mebibytes}M", key, f"{whose}: {format_bytes(mebibytes * MIB)}")]


def _whole_nodes(profile: Profile) -> list[Setting]:
    if not profile.scheduler.exclusive:
        return []
    return [Setting("exclusive", "", "scheduler.exclusive", "whole nodes, shared with nobody")]


# ---- how long, and the end -------------------------------------------------------------------------------------------


def _how_long(layout: Layout) -> list[Setting]:
    lead = min(math.ceil(layout.warning_s), LONGEST_LEAD_S)
    reason = f"the script hears of it {format_seconds(lead)} before the limit, to save"
    return [
        Setting("time", slurm_time(layout.time_s), "job.resources.time", "wall-clock limit"),
        Setting("signal", f"B:USR2@{lead}", "job.resources.time", reason),
    ]


def _at_the_end(profile: Profile, job: AnyJob, user: User) -> list[Setting]:
    return [
        _requeue(profile, job),
        Setting("open-mode", "append", "scheduler.requeue", "a job that starts again keeps its log"),
        *_mail(profile, job, user),
    ]


def _requeue(profile: Profile, job: AnyJob) -> Setting:
    if not profile.scheduler.requeue:
        return Setting("no-requeue", "", "scheduler.requeue", "this site does not start a job again")
    if job.slurm.max_requeues == 0:
        return Setting("no-requeue", "", "job.slurm.max_requeues", "0: never again by itself")
    return Setting("requeue", "", "scheduler.requeue", "starts again after preemption or a lost node")


def _mail(profile: Profile, job: AnyJob, user: User) -> list[Setting]:
    found = _of_job_or_user("mail", profile, job, user)
    if found is None:
        return []
    return [Setting("mail-user", *found, "whom to tell"), Setting("mail-type", "END,FAIL", found[1], "when")]


# ---- precedence ------------------------------------------------------------------------------------------------------


def _overridden(settings: list[Setting] | tuple[Setting, ...], later: list[Setting]) -> tuple[Setting, ...]:
    """The settings with the later ones behind them; what says the same thing is gone, and the reason says so."""
    kept = [s for s in settings if not any(_same(s.name, winner.name) for winner in later)]
    return (*kept, *(_marked(winner, settings) for winner in later))


def _marked(winner: Setting, settings: list[Setting] | tuple[Setting, ...]) -> Setting:
    gone = [f"--{s.name}" + (f"={s.value}" if s.value else "") for s in settings if _same(s.name, winner.name)]
    replaces = f"; replaces {', '.join(gone)}" if gone else ""
    return Setting(winner.name, winner.value, winner.key, winner.reason + replaces)


def _same(one: str, other: str) -> bool:
    return one == other or any({one, other} <= group for group in EXCLUSIVE)
