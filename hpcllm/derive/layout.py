"""How one stage lies on the cluster: partition, nodes, ranks, cores, GPUs, and its time."""

from __future__ import annotations

from typing import Literal, Protocol

from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.scheduler import Limits
from hpcllm.cluster.user import NOBODY, User
from hpcllm.derive.binding import cores_next_to_a_gpu, has_whole_node
from hpcllm.derive.setting import Layout
from hpcllm.errors import DoesNotFit, UserError
from hpcllm.job.spec import AnyJob
from hpcllm.plan.plan import Plan
from hpcllm.plan.queue import (
    in_order,
    limits_of,
    other_qos,
    partition_of,
    qos_names,
    queue_name,
    takes_account,
    takes_qos,
    under_qos,
)
from hpcllm.units import format_seconds

SHORTEST_WARNING_S = 30.0
UNKNOWN_WARNING_S = 120.0  # where nobody can say how long saving takes
LARGEST_SHARE_OF_TIME = 0.25  # of a short job's time that the warning may take, unless saving needs more


class AnyStage(Protocol):
    """What a layout reads of a stage of the pipeline (`launch/` stands below `derive/`, so not its record)."""

    @property
    def name(self) -> str:
        """Its name in the queue."""

    @property
    def ranks(self) -> Literal["one", "all"]:
        """One rank on one node, or every rank of the job."""


def layout(
    profile: Profile,
    job: AnyJob,
    plan: Plan | None,
    stage: AnyStage,
    user: User = NOBODY,
    *,
    oversubscribe: bool = False,
) -> Layout:
    """The layout of one stage. `plan` is None for somebody's own command, whose resources are as the job says.

    Raises DoesNotFit when the cluster cannot run it, naming the limit and the nearest that fits; UserError for an
    unknown partition, and for more ranks than cores without `oversubscribe`.
    """
    if plan is not None and not plan.fits:
        raise DoesNotFit("; ".join(plan.limits))
    partition = choose_partition(profile, under_qos(profile, job, user), plan)
    node, (exclusive, _) = profile.node_type(partition), profile.exclusive_in(partition)
    one = stage.ranks == "one"
    gpus = _gpus_of_one(profile, partition) if one else gpus_per_node(node, job)
    ranks = 1 if one else _ranks_per_node(node, job, plan, gpus)
    _check_ranks(profile, node, ranks, oversubscribe)
    return Layout(
        partition=partition,
        nodes=1 if one else plan.nodes if plan else job.resources.nodes,
        ranks_per_node=ranks,
        cores_per_rank=_cores_per_rank(node, ranks, gpus, exclusive),
        gpus_per_node=gpus,
        time_s=job.resources.time_s,
        warning_s=warning_s(job.resources.time_s, plan),
        stage=stage.name,
    )


# ---- partition -------------------------------------------------------------------------------------------------------


def choose_partition(profile: Profile, job: AnyJob, plan: Plan | None) -> str | None:
    """The plan's, else that of `partition_of`; None where there is no scheduler.

    Raises UserError for an unknown one, DoesNotFit when it cannot run the job, with those that can.
    """
    if not profile.scheduler.partitions:
        _raise_if_any(_limits(profile, job, None), "")
        return None
    able = [name for name in in_order(profile) if not _limits(profile, job, name)]
    chosen = plan.partition if plan and not job.slurm.partition else partition_of(profile, job)
    hint = f"; {', '.join(able)} can run it: --partition {able[0]}" if able else other_qos(profile, job, chosen)
    _raise_if_any(_limits(profile, job, chosen), hint)
    return chosen


def _limits(profile: Profile, job: AnyJob, name: str | None) -> list[str]:
    """What stands in the way of a job in a partition, each with the nearest that fits."""
    asked, node, limits = job.resources, profile.node_type(name), limits_of(profile, job, name)
    where = queue_name(profile, job, name)
    return [
        *_qos_limit(profile, job, name),
        *_account_limit(profile, job, name),
        *_node_limit(asked.nodes, node, limits, where),
        *_time_limit(asked.time_s, limits, where),
        *_gpu_limit(asked.gpus_per_node, node, where),
        *_all_gpus_limit(asked.nodes * gpus_per_node(node, job), limits, where),
    ]


def _qos_limit(profile: Profile, job: AnyJob, name: str | None) -> list[str]:
    if name is None or takes_qos(profile, name, job.slurm.qos):
        return []
    return [f"slurm.qos: found {job.slurm.qos}; partition {name} takes {', '.join(qos_names(profile, name))}"]


def _account_limit(profile: Profile, job: AnyJob, name: str | None) -> list[str]:
    if name is None or takes_account(profile, name, job.slurm.account):
        return []
    suffix = profile.scheduler.partitions[name].account_suffix or "none of these endings"
    return [f"slurm.account: found {job.slurm.account}; accounts of partition {name} end in {suffix}"]


def _node_limit(asked: int, node: NodeType, limits: Limits, where: str) -> list[str]:
    most = min(limits.max_nodes or asked, node.count or asked)
    if asked < limits.min_nodes:
        least = limits.min_nodes
        return [f"resources.nodes: found {asked}; {where} gives at least {least} to one job; ask for {least}"]
    if asked <= most:
        return []
    return [f"resources.nodes: found {asked}; {where} gives at most {most} to one job; ask for {most}"]


def _time_limit(asked_s: float, limits: Limits, where: str) -> list[str]:
    if asked_s <= limits.max_time_s:
        return []
    longest = format_seconds(limits.max_time_s)
    return [
        f"resources.time: found {format_seconds(asked_s)}; {where} allows at most {longest}; ask for {longest} "
        "(a training that is not done by then puts itself back into the queue)"
    ]


def _gpu_limit(asked: int | None, node: NodeType, where: str) -> list[str]:
    there = node.gpus.count if node.gpus else 0
    if asked is None or asked <= there:
        return []
    return [f"resources.gpus_per_node: found {asked}; a node of {where} has {there}; ask for {there}"]


def _all_gpus_limit(asked: int, limits: Limits, where: str) -> list[str]:
    if asked < limits.min_gpus:
        return [f"resources.nodes: found {asked} GPUs in all; {where} gives at least {limits.min_gpus} to one job"]
    if limits.max_gpus is None or asked <= limits.max_gpus:
        return []
    return [f"resources.nodes: found {asked} GPUs in all; {where} gives at most {limits.max_gpus}"]


def _raise_if_any(limits: list[str], hint: str) -> None:
    if limits:
        raise DoesNotFit("; ".join(limits) + hint)


# ---- ranks and cores -------------------------------------------------------------------------------------------------


def gpus_per_node(node: NodeType, job: AnyJob) -> int:
    """GPUs that the job takes of each node: as asked, else all."""
    asked = job.resources.gpus_per_node
    return asked if asked is not None else node.gpus.count if node.gpus else 0


def _gpus_of_one(profile: Profile, partition: str | None) -> int:
    """GPUs of a stage of one rank, which has no use for any: as few as the partition gives to a job."""
    _, queue = profile.partition(partition)
    return (queue.min_gpus or int(queue.gpu_required)) if queue else 0


def _ranks_per_node(node: NodeType, job: AnyJob, plan: Plan | None, gpus: int) -> int:
    """The plan's; for a command as asked, else one a GPU, else one a NUMA domain."""
    if plan is not None:
        return plan.world_size // plan.nodes
    return job.resources.ranks_per_node or gpus or min(node.numa_domains, node.cores)


def _check_ranks(profile: Profile, node: NodeType, ranks: int, oversubscribe: bool) -> None:
    if ranks > node.cores and not oversubscribe:
        raise UserError(
            f"resources.ranks_per_node: found {ranks} ranks; a node of {profile.name} has {node.cores} cores; "
            f"ask for at most {node.cores}, or give --oversubscribe (ranks then take turns)"
        )


def _cores_per_rank(node: NodeType, ranks: int, gpus: int, exclusive: bool) -> int:
    """The cores next to its GPU; else an equal share of the node, or of what goes with the job's GPUs on a shared one.

    On a shared node with GPUs even a job without any takes no more cores than go with one GPU.
    """
    if has_whole_node(node, ranks, gpus, exclusive):
        return cores_next_to_a_gpu(node) or 1
    if node.gpus and not exclusive:
        return max(1, node.cores * max(gpus, 1) // (node.gpus.count * ranks))
    return max(1, node.cores // ranks)


# ---- time ------------------------------------------------------------------------------------------------------------


def warning_s(time_s: float, plan: Plan | None) -> float:
    """How long before the limit to warn: at least two checkpoint writes and one step; 30 s unless the job is short.

    Raises DoesNotFit when that leaves less than half of the time for the work.
    """
    needed = _saving_s(plan)
    if needed is not None and needed > time_s / 2:
        raise DoesNotFit(
            f"resources.time: found {format_seconds(time_s)}; two checkpoint writes and a step alone take "
            f"{format_seconds(needed)}; ask for at least {format_seconds(2 * needed)}"
        )
    wanted = UNKNOWN_WARNING_S if needed is None else max(needed, SHORTEST_WARNING_S)
    return max(min(wanted, LARGEST_SHARE_OF_TIME * time_s), needed or 0.0)


def _saving_s(plan: Plan | None) -> float | None:
    if plan is None or plan.checkpoint.write_s is None or plan.step.total_s is None:
        return None
    return 2 * plan.checkpoint.write_s + plan.step.total_s
