"""What keeps a job from running on a cluster, and the nearest job that would."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import Job
from hpcllm.plan import memory, strategy
from hpcllm.plan.queue import limits_of, other_qos, qos_names, queue_name, takes_qos
from hpcllm.plan.ranks import Ranks, place
from hpcllm.units import format_bytes, format_seconds

MOST_REPAIRS = 12
SHORT_CONTEXT = 64  # tokens; shorter than that, a smaller model is the better advice

RecordT = TypeVar("RecordT", bound=BaseModel)


@dataclass(frozen=True)
class Misfit:
    """One thing in the way, and what to change in the job to have it out of the way."""

    reason: str
    """Key, what was found, what is allowed."""
    changes: dict[str, Any]
    """By the path of the field in the job (`train.micro_batch`); empty where nothing near helps."""


def misfits(profile: Profile, job: Job, oversubscribe: bool = False) -> list[Misfit]:
    """Everything that is in the way."""
    ranks = place(profile, job)
    found = [
        _too_many_gpus(job, ranks),
        None if oversubscribe and not ranks.on_gpus else _too_many_ranks(job, ranks),
        _qos_is_not_taken(profile, job, ranks),
        _too_few_nodes(profile, job, ranks),
        _too_many_nodes(profile, job, ranks),
        _too_many_gpus_in_all(profile, job, ranks),
        _too_long(profile, job, ranks),
        _batch_does_not_divide(job, ranks),
        _nothing_to_shard(job, ranks),
        _memory_is_short(profile, job, ranks),
    ]
    return [misfit for misfit in found if misfit]


def nearest(profile: Profile, job: Job, oversubscribe: bool = False) -> dict[str, Any] | None:
    """Changes after which the job fits, found by taking one obstacle after another out of the way; None if none do."""
    changes: dict[str, Any] = {}
    for _ in range(MOST_REPAIRS):
        found = misfits(profile, changed(job, changes), oversubscribe)
        if not found:
            return changes
        if not found[0].changes:
            return None
        changes |= found[0].changes
    return None


def changed(record: RecordT, changes: dict[str, Any]) -> RecordT:
    """The record with some fields replaced, each named by its dotted path."""
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        inner = changed(getattr(record, head), {rest: value}) if rest else value
        record = record.model_copy(update={head: inner})
    return record


# ---- nodes, ranks, time ----------------------------------------------------------------------------------------------


def _too_many_gpus(job: Job, ranks: Ranks) -> Misfit | None:
    asked, gpus = job.resources.gpus_per_node, ranks.node.gpus
    has = gpus.count if gpus else 0
    if asked is None or asked <= has:
        return None
    return Misfit(
        f"resources.gpus_per_node: {asked} asked; a node has {has} ({ranks.key('gpus')})",
        {"resources.gpus_per_node": has},
    )


def _too_many_ranks(job: Job, ranks: Ranks) -> Misfit | None:
    if ranks.on_gpus and ranks.node.gpus:
        most, what, hint = job.resources.gpus_per_node or ranks.node.gpus.count, "GPUs", "one rank a GPU"
    else:
        most, what, hint = ranks.node.cores, "cores", "--oversubscribe takes them all the same, slowly"
    if ranks.per_node <= most:
        return None
    reason = f"resources.ranks_per_node: {ranks.per_node} ranks on a node with {most} {what} ({hint})"
    return Misfit(reason, {"resources.ranks_per_node": most})


def _qos_is_not_taken(profile: Profile, job: Job, ranks: Ranks) -> Misfit | None:
    if ranks.partition is None or takes_qos(profile, ranks.partition, job.slurm.qos):
        return None
    allowed = qos_names(profile, ranks.partition)
    reason = f"slurm.qos: {job.slurm.qos} asked, partition {ranks.partition} takes {', '.join(allowed)}"
    return Misfit(reason, {"slurm.qos": allowed[0]})


def _too_few_nodes(profile: Profile, job: Job, ranks: Ranks) -> Misfit | None:
    least = ranks.limits.min_nodes if ranks.limits else 1
    if ranks.nodes >= least:
        return None
    where, hint = queue_name(profile, job, ranks.partition), other_qos(profile, job, ranks.partition)
    return Misfit(f"resources.nodes: {ranks.nodes} asked, {where} begins at {least}{hint}", {"resources.nodes": least})


def _too_many_nodes(profile: Profile, job: Job, ranks: Ranks) -> Misfit | None:
    most = _most_nodes(ranks)
    if ranks.nodes <= most:
        return None
    others = [
        name
        for name in profile.scheduler.partitions
        if _most_nodes(place(profile, changed(job, {"slurm.partition": name}))) >= ranks.nodes
    ]
    where = f"; partition {' or '.join(others)} allows them" if others else other_qos(profile, job, ranks.partition)
    dividing = [n for n in range(most, 0, -1) if job.train.global_batch % (n * ranks.per_node) == 0]
    of = queue_name(profile, job, ranks.partition)
    reason = f"resources.nodes: {ranks.nodes} nodes asked, {of} has {most} for a job{where}"
    return Misfit(reason, {"resources.nodes": dividing[0] if dividing else most})


def _too_many_gpus_in_all(profile: Profile, job: Job, ranks: Ranks) -> Misfit | None:
    if ranks.limits is None or not ranks.on_gpus or ranks.node.gpus is None:
        return None
    each = job.resources.gpus_per_node or ranks.node.gpus.count
    least, most = ranks.limits.min_gpus, ranks.limits.max_gpus or math.inf
    if least <= ranks.nodes * each <= most:
        return None
    bound = f"at least {least}" if ranks.nodes * each < least else f"at most {most}"
    reason = (
        f"resources.nodes: {ranks.nodes * each} GPUs in all, {queue_name(profile, job, ranks.partition)} gives {bound}"
    )
    nodes = math.ceil(least / each) if ranks.nodes * each < least else max(1, int(most) // each)
    return Misfit(
        reason, {"resources.nodes": nodes} if nodes != ranks.nodes else {"resources.gpus_per_node": int(most)}
    )


def _most_nodes(ranks: Ranks) -> int:
    known = (ranks.node.count, ranks.limits and ranks.limits.max_nodes)
    return min((most for most in known if most), default=ranks.nodes)


def _too_long(profile: Profile, job: Job, ranks: Ranks) -> Misfit | None:
    if ranks.limits is None or job.resources.time_s <= ranks.limits.max_time_s:
        return None
    limits = {name: limits_of(profile, job, name) for name in profile.scheduler.partitions}
    others = [name for name, limit in limits.items() if limit.max_time_s >= job.resources.time_s]
    where = f"; partition {' or '.join(others)} allows it" if others else other_qos(profile, job, ranks.partition)
    reason = (
        f"resources.time: {format_seconds(job.resources.time_s)} asked, {queue_name(profile, job, ranks.partition)} "
        f"ends a job after {format_seconds(ranks.limits.max_time_s)}{where}"
    )
    return Misfit(reason, {"resources.time_s": ranks.limits.max_time_s})


# ---- batch -----------------------------------------------------------------------------------------------------------


def _batch_does_not_divide(job: Job, ranks: Ranks) -> Misfit | None:
    batch, micro_batch = job.train.global_batch, job.train.micro_batch or 1
    unit = ranks.world_size * micro_batch
    if batch % unit == 0:
        return None
    if batch % ranks.world_size == 0:
        share = batch // ranks.world_size
        best = max(b for b in range(1, micro_batch + 1) if share % b == 0)
        reason = f"train.micro_batch: {micro_batch} does not divide a rank's share of the global batch, {share}"
        return Misfit(reason, {"train.micro_batch": best})
    below, above = batch // unit * unit, (batch // unit + 1) * unit
    nodes = [n for n in range(1, _most_nodes(ranks) + 1) if batch % (n * ranks.per_node * micro_batch) == 0]
    near = sorted(sorted(nodes, key=lambda n: abs(n - ranks.nodes))[:2])
    ways = f"{above}" if below == 0 else f"{below} and {above}"
    also = f"; {batch} does on {' or '.join(map(str, near))} nodes" if near else ""
    reason = (
        f"train.global_batch: {batch} does not divide by {ranks.world_size} ranks"
        + (f" × micro-batch {micro_batch}" if micro_batch > 1 else "")
        + f"; {ways} would{also}"
    )
    return Misfit(reason, {"train.global_batch": below if below and batch - below <= above - batch else above})


def _nothing_to_shard(job: Job, ranks: Ranks) -> Misfit | None:
    if job.train.strategy != "hsdp" or ranks.nodes == 1 or ranks.per_node > 1:
        return None
    reason = "train.strategy: hsdp shards inside a node, where a single rank runs; fsdp shards over all nodes"
    return Misfit(reason, {"train.strategy": "auto"})


# ---- memory ----------------------------------------------------------------------------------------------------------


def _memory_is_short(profile: Profile, job: Job, ranks: Ranks) -> Misfit | None:
    spread = strategy.choose(job, ranks)
    needs = memory.of(job, ranks, spread)
    if needs.total <= memory.USABLE_SHARE * needs.capacity:
        return None
    whose = "GPU" if ranks.on_gpus else "rank"
    by = "" if spread.strategy == "ddp" else f" by {spread.strategy}"
    reason = (
        f"memory: {format_bytes(needs.total)} a {whose}{by} at micro-batch {spread.micro_batch}, "
        f"{needs.total / needs.capacity:.0%} of {format_bytes(needs.capacity)} (80% can be used)"
    )
    return Misfit(reason, _less_memory(profile, job, ranks))


def _less_memory(profile: Profile, job: Job, ranks: Ranks) -> dict[str, Any]:
    """The mildest change that fits: strategy, micro-batch, ranks of a node (on CPUs), partition, context, layers.

    Where none does alone, the milder ones are taken as far as they go, and the next beside them.
    """
    taken: dict[str, Any] = {}
    if job.train.strategy != "auto":
        taken, job = {"train.strategy": "auto"}, changed(job, {"train.strategy": "auto"})
        if strategy.fits(job, ranks, job.train.micro_batch or 1):
            return taken
    if job.train.micro_batch is not None:
        for micro_batch in strategy.micro_batches(job, ranks):
            if micro_batch < job.train.micro_batch and strategy.fits(job, ranks, micro_batch):
                return {**taken, "train.micro_batch": micro_batch}
        taken["train.micro_batch"] = 1

    def fits_with(path: str, value: Any) -> bool:
        smaller = changed(job, {**taken, path: value})
        return strategy.fits(smaller, place(profile, smaller), 1)

    fewer_ranks = [n for n in range(ranks.per_node - 1, 0, -1) if ranks.per_node % n == 0 and not ranks.on_gpus]
    if best := next((n for n in fewer_ranks if fits_with("resources.ranks_per_node", n)), None):
        return {**taken, "resources.ranks_per_node": best}
    for name in profile.scheduler.partitions:
        if fits_with("slurm.partition", name):
            return {**taken, "slurm.partition": name}
    taken |= {"resources.ranks_per_node": 1} if fewer_ranks else {}
    if context := _largest(job.model.context, lambda tokens: fits_with("model.context", tokens)):
        return {**taken, "model.context": context // 64 * 64 or context}
    for shorter in ({}, {"model.context": min(job.model.context, SHORT_CONTEXT)}):
        taken |= shorter
        if layers := _largest(job.model.layers, lambda layers: fits_with("model.layers", layers)):
            return {**taken, "model.layers": layers}
    return {}


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
