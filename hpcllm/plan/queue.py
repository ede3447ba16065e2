"""The queue that a job goes to: its partition, its QOS, and what both allow."""

from __future__ import annotations

import difflib
import math
from typing import TypeVar

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.scheduler import Limits
from hpcllm.cluster.user import User
from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob
from hpcllm.units import format_seconds

NO_LIMITS = Limits(math.inf, None, 1)
MOST_HINTS = 3

AnyJobT = TypeVar("AnyJobT", bound=AnyJob)


def under_qos(profile: Profile, job: AnyJobT, user: User) -> AnyJobT:
    """The job with the QOS and account that it is submitted under, where somebody names them: its own, else theirs."""
    found = {name: getattr(job.slurm, name) or user.fact(name, profile.name)[0] for name in ("qos", "account")}
    return job.model_copy(update={"slurm": job.slurm.model_copy(update=found)})


def partition_of(profile: Profile, job: AnyJob) -> str | None:
    """The partition that a job names, else the first that takes its QOS and account, the default one before the others.

    Where that one cannot run it, another of the same nodes that can. None where there is no scheduler. Raises UserError
    for a partition that the cluster does not have.
    """
    partitions, named = profile.scheduler.partitions, job.slurm.partition
    if named is None:
        order, slurm = in_order(profile), job.slurm
        everybody = [n for n in order if not partitions[n].by_request]
        taking = [n for n in everybody if takes_qos(profile, n, slurm.qos) and takes_account(profile, n, slurm.account)]
        first = next(iter([*taking, *order]), None)
        alike = [n for n in taking if profile.node_type_name(n) == profile.node_type_name(first)]
        return next((n for n in alike if _is_within(profile, job, n, limits_of(profile, job, n))), first)
    if named in partitions:
        return named
    near = difflib.get_close_matches(named, partitions, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    names = ", ".join(partitions) or "none (this cluster has no scheduler)"
    raise UserError(f"slurm.partition: found {named!r}; {profile.name} has {names}{hint}")


def in_order(profile: Profile) -> list[str]:
    """The partitions, the default one first."""
    partitions = profile.scheduler.partitions
    return sorted(partitions, key=lambda name: not partitions[name].default)


def takes_qos(profile: Profile, partition: str, qos: str | None) -> bool:
    """Whether a job may ask for that QOS there."""
    allowed = profile.scheduler.partitions[partition].allow_qos
    return qos is None or allowed is None or qos in allowed


def takes_account(profile: Profile, partition: str, account: str | None) -> bool:
    """Whether an account pays there: one with the suffix of other partitions (`abc@h100`) does not."""
    partitions = profile.scheduler.partitions
    suffixes = {queue.account_suffix for queue in partitions.values() if queue.account_suffix}
    its_own = {suffix for suffix in suffixes if account and account.endswith(suffix)}
    return not its_own or partitions[partition].account_suffix in its_own


def limits_of(profile: Profile, job: AnyJob, partition: str | None) -> Limits:
    """What bounds the job there, under its QOS."""
    if partition is None:
        return NO_LIMITS
    return profile.scheduler.limits(partition, job.slurm.qos, job.resources.nodes)


def queue_name(profile: Profile, job: AnyJob, partition: str | None) -> str:
    """As a message calls it: `partition gpu`, and its QOS where that has limits of its own."""
    if partition is None:
        return profile.name
    qos = job.slurm.qos or profile.scheduler.partitions[partition].qos
    return f"partition {partition}" + (f" with QOS {qos}" if qos in profile.scheduler.qos else "")


def qos_names(profile: Profile, partition: str | None) -> tuple[str, ...]:
    """The QOS that the profile knows of for a partition."""
    allowed = profile.scheduler.partitions[partition].allow_qos if partition else None
    return tuple(profile.scheduler.qos) if allowed is None else allowed


def other_qos(profile: Profile, job: AnyJob, partition: str | None) -> str:
    """`; --qos long allows 4 d on up to 8 nodes`: the QOS under which the job would fit there; empty where none is."""
    if partition is None:
        return ""
    found = []
    for name in qos_names(profile, partition):
        limits = profile.scheduler.limits(partition, name, job.resources.nodes)
        if name in profile.scheduler.qos and _is_within(profile, job, partition, limits):
            found.append(f"--qos {name} allows {_allowance(limits)}")
    return f"; {', '.join(found[:MOST_HINTS])}" if found else ""


def _is_within(profile: Profile, job: AnyJob, partition: str, limits: Limits) -> bool:
    """Whether its nodes, GPUs and time are what one job may have there."""
    asked, node = job.resources, profile.node_type(partition)
    most = min(limits.max_nodes or asked.nodes, node.count or asked.nodes)
    each = node.gpus.count if node.gpus else 0
    gpus = asked.nodes * (each if asked.gpus_per_node is None else asked.gpus_per_node)
    return (
        limits.min_nodes <= asked.nodes <= most
        and limits.min_gpus <= gpus <= (limits.max_gpus or gpus)
        and asked.time_s <= limits.max_time_s
    )


def _allowance(limits: Limits) -> str:
    time = format_seconds(limits.max_time_s) if math.isfinite(limits.max_time_s) else "any time"
    return time + (f" on up to {limits.max_nodes} nodes" if limits.max_nodes else "")
