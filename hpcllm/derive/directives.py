"""What Slurm is asked for: one Setting for each sbatch option, in reading order."""

from __future__ import annotations

import math
import re

from hpcllm.cluster.known import needed
from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User
from hpcllm.derive.binding import has_whole_node, is_oversubscribed
from hpcllm.derive.setting import Layout, Setting
from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob, CommandJob
from hpcllm.plan.queue import qos_names
from hpcllm.units import format_bytes, format_seconds

MIB = 2**20
LONGEST_LEAD_S = 65535  # of sbatch --signal
# Options that say the same thing: whoever gives one of a group replaces the others.
EXCLUSIVE = (
    frozenset({"mem", "mem-per-cpu", "mem-per-gpu"}),
    frozenset({"gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"}),
    frozenset({"cpus-per-task", "cpus-per-gpu"}),
    frozenset({"exclusive", "oversubscribe"}),
    frozenset({"requeue", "no-requeue"}),
)


def directives(profile: Profile, job: AnyJob, layout: Layout, user: User) -> tuple[Setting, ...]:
    """Who and where, how much, how long, what happens at the end; then the site's own, its partition's, the job's own.

    The later ones win. Empty where there is no Slurm. Raises UserError when the site wants an account or a QOS and
    nobody gave one, and when it wants to be told how much memory and nobody knows how much there is.
    """
    if profile.scheduler.kind == "local":
        return ()
    node = profile.node_type(layout.partition)
    derived = [
        *_who_and_where(profile, job, layout, user),
        *_how_much(profile, job, layout, node),
        *_how_long(job, layout),
        *_at_the_end(profile, job, user),
    ]
    name, queue = profile.partition(layout.partition)
    found = tuple(derived)
    for values, key, reason in (
        (profile.scheduler.directives, "scheduler.directives", "the site wants it in every script"),
        (queue.directives if queue else {}, f"scheduler.partitions.{name}.directives", "this partition wants it"),
        (job.slurm.directives, "job.slurm.directives", "the job's own"),
    ):
        given = [Setting(option, value, f"{key}.{option}", reason) for option, value in values.items()]
        found = _overridden(found, given)
    return found


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
        *_account(profile, job, layout, user),
        *_partition(profile, job, layout),
        *_constraint(profile, layout),
        *_qos(profile, job, layout, user),
    ]


def _account(profile: Profile, job: AnyJob, layout: Layout, user: User) -> list[Setting]:
    found = _of_job_or_user("account", profile, job, user)
    if found is None:
        _refuse_if(profile.scheduler.account_required, profile, job, "account", "NAME")
        return []
    (account, key), (name, queue) = found, profile.partition(layout.partition)
    suffix = queue.account_suffix if queue else ""
    if not suffix or account.endswith(suffix):
        return [Setting("account", account, key, "who pays")]
    reason = f"who pays; scheduler.partitions.{name}.account_suffix: it ends in {suffix} here"
    return [Setting("account", account + suffix, key, reason)]


def _partition(profile: Profile, job: AnyJob, layout: Layout) -> list[Setting]:
    name, queue = layout.partition, profile.partition(layout.partition)[1]
    if name is None or queue is None or not queue.named:
        return []
    if job.slurm.partition:
        return [Setting("partition", name, "job.slurm.partition", "as asked")]
    most_s = profile.scheduler.limits(name, job.slurm.qos, layout.nodes).max_time_s
    limit = f"; at most {format_seconds(most_s)}" if math.isfinite(most_s) else ""
    return [Setting("partition", name, f"scheduler.partitions.{name}", f"the job fits here{limit}")]


def _constraint(profile: Profile, layout: Layout) -> list[Setting]:
    name, queue = profile.partition(layout.partition)
    if queue is None or queue.constraint is None:
        return []
    key = f"scheduler.partitions.{name}.constraint"
    return [Setting("constraint", queue.constraint, key, "what its nodes are chosen by")]


def _qos(profile: Profile, job: AnyJob, layout: Layout, user: User) -> list[Setting]:
    found, (name, queue) = _of_job_or_user("qos", profile, job, user), profile.partition(layout.partition)
    if found:
        return [Setting("qos", *found, "limits and priority")]
    if queue and queue.qos:
        return [Setting("qos", queue.qos, f"scheduler.partitions.{name}.qos", "this partition wants it")]
    known = ", ".join(qos_names(profile, name)) or "none that its profile knows"
    _refuse_if(profile.scheduler.qos_required, profile, job, "qos", f"NAME (there is {known})")
    return []


def _refuse_if(required: bool, profile: Profile, job: AnyJob, fact: str, value: str) -> None:
    """Raises UserError where sbatch would refuse the job, and it does not say the fact among its own directives."""
    if required and fact not in job.slurm.directives:
        raise UserError(
            f"{fact}: none was given, and {profile.name} refuses a job without one; give --{fact} {value}, "
            f"slurm.{fact} in the job, or {fact} in ~/.config/hpcllm/user.yaml"
        )


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
    return [
        Setting("nodes", str(layout.nodes), "job.resources.nodes", _in_all(layout.world_size)),
        _ranks(job, layout, node, node_key),
        _cpus(profile, layout, node, node_key),
        *_gpus(profile, layout, node, node_key),
        *_memory(profile, layout, node, node_key),
        *_whole_nodes(profile, layout),
    ]


def _cpus(profile: Profile, layout: Layout, node: NodeType, node_key: str) -> Setting:
    cpus = str(layout.cores_per_rank * node.threads_per_core)
    threads = f" of {node.threads_per_core} threads" if node.threads_per_core > 1 else ""
    exclusive, _ = profile.exclusive_in(layout.partition)
    if has_whole_node(node, layout.ranks_per_node, layout.gpus_per_node, exclusive):
        reason = f"{layout.cores_per_rank} cores{threads} next to each GPU"
        return Setting("cpus-per-task", cpus, f"{node_key}.gpus.cpus", reason)
    return Setting("cpus-per-task", cpus, f"{node_key}.cores", f"{layout.cores_per_rank} cores{threads} a rank")


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
    count, dialect = layout.gpus_per_node, profile.scheduler.gpu_request
    if count == 0 or dialect == "none":
        return []
    kind = f"{node.gpus.gres_type}:" if node.gpus and node.gpus.gres_type else ""
    value, reason = {
        "gres": (f"gpu:{kind}{count}", "GPUs of each node"),
        "gpus-per-node": (f"{kind}{count}", "GPUs of each node"),
        "gpus-per-task": (f"{kind}{max(1, count // layout.ranks_per_node)}", "GPUs of a rank"),
        "gpus": (f"{kind}{count * layout.nodes}", f"GPUs in all, {count} a node"),
    }[dialect]
    return [Setting(dialect, value, f"{node_key}.gpus.count", reason)]


def _memory(profile: Profile, layout: Layout, node: NodeType, node_key: str) -> list[Setting]:
    """In the site's dialect, in MiB, which Slurm writes as M. A job without GPUs cannot ask for memory by GPU."""
    own = profile.scheduler.partitions[layout.partition].memory_request if layout.partition else None
    key, dialect, gpus = f"{node_key}.memory", own or profile.scheduler.memory_request, layout.gpus_per_node
    if dialect == "none":
        return []
    if dialect == "all":
        return [Setting("mem", "0", "scheduler.memory_request", "all of a node")]
    if dialect == "cpu":
        each = needed(node.memory_bytes, key, "--mem-per-cpu") // (node.cores * node.threads_per_core * MIB)
        return [Setting("mem-per-cpu", f"{each}M", key, "an equal share of a node's memory")]
    if dialect == "gpu" and node.gpus and gpus:
        each = needed(node.memory_bytes, key, "--mem-per-gpu") // (node.gpus.count * MIB)
        return [Setting("mem-per-gpu", f"{each}M", key, f"a share of {node.gpus.count} of a node's memory")]
    return [_memory_of_node(profile, layout, node, key)]


def _memory_of_node(profile: Profile, layout: Layout, node: NodeType, key: str) -> Setting:
    """All where the job has whole nodes, else the share that goes with its cores."""
    exclusive, _ = profile.exclusive_in(layout.partition)
    cores = node.cores if exclusive else min(node.cores, layout.ranks_per_node * layout.cores_per_rank)
    mebibytes = needed(node.memory_bytes, key, "--mem") * cores // (node.cores * MIB)
    whose = "all of a node" if cores == node.cores else f"share of {cores} of {node.cores} cores"
    return Setting("mem", f"{mebibytes}M", key, f"{whose}: {format_bytes(mebibytes * MIB)}")


def _whole_nodes(profile: Profile, layout: Layout) -> list[Setting]:
    exclusive, key = profile.exclusive_in(layout.partition)
    return [Setting("exclusive", "", key, "whole nodes, shared with nobody")] if exclusive else []


# ---- how long, and the end -------------------------------------------------------------------------------------------


def _how_long(job: AnyJob, layout: Layout) -> list[Setting]:
    """A program of the user's that is started once has its whole time: a warning would only end it before."""
    time = Setting("time", slurm_time(layout.time_s), "job.resources.time", "wall-clock limit")
    if isinstance(job, CommandJob) and job.slurm.max_requeues == 0:
        return [time]
    lead = min(math.ceil(layout.warning_s), LONGEST_LEAD_S)
    reason = f"the script hears of it {format_seconds(lead)} before the limit, to save"
    return [time, Setting("signal", f"B:USR2@{lead}", "job.resources.time", reason)]


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
    ours = "" if "requeue" in profile.scheduler.model_fields_set else "; ours, where the profile is silent"
    return Setting("requeue", "", "scheduler.requeue", f"starts again after preemption or a lost node{ours}")


def _mail(profile: Profile, job: AnyJob, user: User) -> list[Setting]:
    found = _of_job_or_user("mail", profile, job, user)
    if found is None:
        return []
    return [Setting("mail-user", *found, "whom to tell"), Setting("mail-type", "END,FAIL", found[1], "when")]


# ---- precedence ------------------------------------------------------------------------------------------------------


def _overridden(settings: tuple[Setting, ...], later: list[Setting]) -> tuple[Setting, ...]:
    """The settings with the later ones behind them; what says the same thing is gone, and the reason says so."""
    kept = [s for s in settings if not any(_same(s.name, winner.name) for winner in later)]
    return (*kept, *(_marked(winner, settings) for winner in later))


def _marked(winner: Setting, settings: tuple[Setting, ...]) -> Setting:
    gone = [f"--{s.name}" + (f"={s.value}" if s.value else "") for s in settings if _same(s.name, winner.name)]
    replaces = f"; replaces {', '.join(gone)}" if gone else ""
    return Setting(winner.name, winner.value, winner.key, winner.reason + replaces)


def _same(one: str, other: str) -> bool:
    return one == other or any({one, other} <= group for group in EXCLUSIVE)
