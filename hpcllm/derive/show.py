"""What a profile leads to, as text: every derived line with the key it comes from and the reason."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.scheduler import Limits
from hpcllm.cluster.user import User
from hpcllm.derive.binding import is_oversubscribed, rank_cpus
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Layout, Setting, Settings
from hpcllm.derive.settings import settings
from hpcllm.derive.striping import GB, STRIPES
from hpcllm.derive.unknown import unknown
from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob, CommandJob, Job, Resources
from hpcllm.plan.plan import Plan
from hpcllm.plan.queue import NO_LIMITS, qos_names
from hpcllm.units import as_ranges, counted, format_bits_per_s, format_seconds

EXAMPLE_NODES = 2
EXAMPLE_TIME_S = 3600.0
COMMENT_COLUMN = 56


@dataclass(frozen=True)
class _Every:
    """A stage on every rank."""

    name: str
    ranks: Literal["all"] = "all"


def derived_text(
    profile: Profile, job: AnyJob | None = None, plan: Plan | None = None, user: User | None = None
) -> str:
    """Every setting of a stage on all ranks; of an example on two nodes where no job is given.

    A Job comes with its Plan; somebody's command (and the example) has none. Raises as `layout` and `settings` do.
    """
    asked, person = job or example_job(profile), user or _somebody(profile)
    stage = _Every("train" if isinstance(asked, Job) else "command")
    shape = layout(profile, asked, plan, stage)
    try:
        derived, refused = settings(profile, asked, shape, person), []
    except UserError as error:  # what a script cannot do without keeps nobody from looking at the rest
        derived, refused = settings(_without_memory(profile), asked, shape, person), ["", f"no script: {error}"]
    counts = ((shape.nodes, "node"), (shape.ranks_per_node, "rank"), (shape.cores_per_rank, "core"))
    ranks = " × ".join(counted(number, noun) for number, noun in counts)
    head = [f"# {profile.name}: {asked.name} on {ranks}", *_about(profile, shape)]
    return "\n".join([*head, *refused, *_sections(profile, derived)])


def _about(profile: Profile, shape: Layout) -> Iterator[str]:
    """Whom to ask, whose word it is, and what connects the nodes."""
    contact, (fabric, key) = profile.contact, profile.fabric_of(shape.partition)
    if contact and (contact.documentation or contact.support):
        yield f"# {' · '.join(filter(None, (contact.documentation, contact.support)))}"
    by = {who: sum(source.by == who for source in profile.sources.values()) for who in ("site", "vendor", "user")}
    if profile.sources:
        whose = {"site": "the site", "vendor": "its vendor", "user": "users"}
        yield "# sources: " + ", ".join(f"{count} by {whose[who]}" for who, count in by.items() if count)
    each = fabric.rate_bytes_per_s
    rate = f"{fabric.rails} × {format_bits_per_s(each)}" if each else "rate unknown"
    groups = f"groups of {fabric.group_nodes} nodes" if fabric.group_nodes else ""
    domain = f"NVLink over {fabric.nvlink_nodes} nodes" if fabric.nvlink_nodes else ""
    words = (fabric.kind, rate, fabric.topology, groups, domain)
    yield f"# {key}: {', '.join(word for word in words if word)}"


def _without_memory(profile: Profile) -> Profile:
    queues = profile.scheduler.partitions.items()
    partitions = {name: queue.model_copy(update={"memory_request": "none"}) for name, queue in queues}
    return profile.model_copy(update={"scheduler": profile.scheduler.model_copy(update={"partitions": partitions})})


def example_job(profile: Profile) -> CommandJob:
    """A program on two nodes for an hour, or as much of that as the cluster allows."""
    name, _ = profile.partition(None)
    limits = profile.scheduler.limits(name, None, EXAMPLE_NODES) if name else NO_LIMITS
    node = profile.node_type(name)
    by_gpus = limits.max_gpus // node.gpus.count if limits.max_gpus and node.gpus else EXAMPLE_NODES
    nodes = min(EXAMPLE_NODES, node.count or EXAMPLE_NODES, limits.max_nodes or EXAMPLE_NODES, max(1, by_gpus))
    time_s = min(EXAMPLE_TIME_S, limits.max_time_s)
    resources = Resources.model_validate({"nodes": max(nodes, limits.min_nodes), "time": f"{time_s}s"})
    return CommandJob(name="example", command=("python", "train.py"), resources=resources)


def _somebody(profile: Profile) -> User:
    scheduler = profile.scheduler
    return User(
        account="YOUR_ACCOUNT" if scheduler.account_required else None,
        qos="YOUR_QOS" if scheduler.qos_required else None,
    )


def _sections(profile: Profile, derived: Settings) -> Iterator[str]:
    yield from _section("limits", _limits(profile, derived.layout))
    yield from _section("directives", [(f"#SBATCH {_option(s)}", s) for s in derived.directives])
    yield from _section("software", [(s.value, s) for s in derived.software])
    yield from _section("environment", [(_export(s), s) for s in derived.environment if not _is_way_out(s)])
    yield from _section("internet", [(_export(s), s) for s in derived.environment if _is_way_out(s)])
    yield from ("", "binding", *(f"  {line}" for line in _binding(profile, derived.layout)))
    yield from ("", "launcher", f"  {shlex.join(derived.launcher)} {shlex.quote(derived.python)} …")
    yield "  # software.mpi.launcher with the layout and the binding; software.python"
    yield from _section("striping, by the size of a file", _stripes(profile))
    yield from _section("staging", _staging(profile, derived.layout))
    yield from _section("once, in a new run directory", [(s.value, s) for s in derived.prepare])
    missing = unknown(profile, derived.layout)
    if missing:
        yield from ("", "unknown, and it matters", *(f"  {key:<{COMMENT_COLUMN}}  # {what}" for key, what in missing))


def _is_way_out(setting: Setting) -> bool:
    return setting.key.startswith("internet.")


def _section(title: str, rows: Sequence[tuple[str, Setting]]) -> Iterator[str]:
    if rows:
        yield from ("", title)
    for line, setting in rows:
        reason = f": {setting.reason}" if setting.reason else ""
        yield f"  {line:<{COMMENT_COLUMN}}  # {setting.key}{reason}"


def _row(line: str, key: str, reason: str = "") -> tuple[str, Setting]:
    return line, Setting("", line, key, reason)


# ---- sections --------------------------------------------------------------------------------------------------------


def _limits(profile: Profile, shape: Layout) -> list[tuple[str, Setting]]:
    """Of the queue, then of each QOS that it takes."""
    scheduler, (name, queue) = profile.scheduler, profile.partition(shape.partition)
    if name is None or queue is None:
        return []
    at, limits = f"scheduler.partitions.{name}", scheduler.limits(name, None, shape.nodes)
    by_size = f"the time of a job on {counted(shape.nodes, 'node')}" if queue.max_time_from_nodes else ""
    about = "; ".join(filter(None, (by_size, queue.description)))
    rows = [_row(f"partition {name}: {_allowed(limits)}", at, about)]
    if queue.max_jobs or queue.max_submitted:
        counts = ((queue.max_jobs, "run"), (queue.max_submitted, "wait or run"))
        rows.append(_row("a user's jobs: " + ", ".join(f"{n} {what}" for n, what in counts if n), at))
    for qos in qos_names(profile, name):
        if qos in scheduler.qos:
            limits, about = scheduler.limits(name, qos, shape.nodes), scheduler.qos[qos].description
            rows.append(_row(f"--qos {qos}: {_allowed(limits)}", f"scheduler.qos.{qos}", about))
    return rows


def _allowed(limits: Limits) -> str:
    """`at most 1 d, 65 to 256 nodes`."""
    time = f"at most {format_seconds(limits.max_time_s)}" if math.isfinite(limits.max_time_s) else "any time"
    most = "any number of nodes" if limits.max_nodes is None else counted(limits.max_nodes, "node")
    nodes = most if limits.min_nodes in (1, limits.max_nodes) else f"{limits.min_nodes} to {most}"
    gpus = f", at most {limits.max_gpus} GPUs" if limits.max_gpus else ""
    return f"{time}, {nodes}{gpus}"


def _binding(profile: Profile, shape: Layout) -> Iterator[str]:
    """A line for each rank of a node, where each has CPUs of its own; else who divides them."""
    name, node = profile.node_type_name(shape.partition), profile.node_type(shape.partition)
    cpus, gpus = rank_cpus(profile, shape), node.gpus
    if is_oversubscribed(node, shape):
        yield f"none: {shape.ranks_per_node} ranks on {node.cores} cores"
    elif profile.scheduler.kind == "local":
        yield "none: no scheduler keeps two runs on this machine apart"
    elif cpus is None or gpus is None:
        yield f"{shape.cores_per_rank} cores a rank, in the launcher's own order"
    else:
        rows = [(str(i), str(i), as_ranges(cpus[i]), _nth(gpus.numa, i), _nth(gpus.nics, i)) for i in range(gpus.count)]
        width = max(len(row[2]) for row in rows)
        for rank, gpu, listed, numa, nic in [("rank", "GPU", "CPUs", "NUMA", "NIC"), *rows]:
            yield f"{rank:<4}  {gpu:<3}  {listed:<{width}}  {numa:<4}  {nic}".rstrip()
        yield f"# nodes.{name}.gpus.cpus, numa, nics: rank r drives GPU r, and runs on the CPUs next to it"


def _nth(values: Sequence[object], index: int) -> str:
    return str(values[index]) if values else "?"


def _stripes(profile: Profile) -> list[tuple[str, Setting]]:
    """The rule by which run directories are laid out, whatever the job is."""
    scratch, at = profile.scratch(), f"filesystems.{profile.scratch_name()}"
    if scratch.kind != "lustre" or not (scratch.striping == "manual" or scratch.stripes):
        return []
    key, reason = (f"{at}.stripes", "the site's rule") if scratch.stripes else (f"{at}.striping", "our rule")
    rule = [(row.from_bytes, row.count) for row in scratch.stripes] or STRIPES
    return [_row(f"from {size / GB:g} GB on: {counted(count, 'storage target')}", key, reason) for size, count in rule]


def _staging(profile: Profile, shape: Layout) -> list[tuple[str, Setting]]:
    disk = profile.node_type(shape.partition).local_scratch
    if disk is None:
        return []
    key = f"nodes.{profile.node_type_name(shape.partition)}.local_scratch.stage"
    if disk.stage and disk.kind == "disk":
        return [_row(f"training copies its shards to {disk.path}, once a node", key, "where they fit")]
    return [_row("training reads its shards where they lie", key, f"{disk.kind} at {disk.path}")]


def _export(setting: Setting) -> str:
    value = setting.value if setting.needs else shlex.quote(setting.value)
    return f"export {setting.name}={value}"


def _option(setting: Setting) -> str:
    return f"--{setting.name}" + (f"={shlex.quote(setting.value)}" if setting.value else "")
