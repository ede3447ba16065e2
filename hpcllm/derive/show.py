"""What a profile leads to, as text: every derived line with the key it comes from and the reason."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Setting, Settings
from hpcllm.derive.settings import settings
from hpcllm.job.spec import AnyJob, CommandJob, Job, Resources
from hpcllm.plan.plan import Plan
from hpcllm.plan.queue import NO_LIMITS

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
    asked = job or example_job(profile)
    stage = _Every("train" if isinstance(asked, Job) else "command")
    shape = layout(profile, asked, plan, stage)
    return "\n".join(_lines(profile, asked, settings(profile, asked, shape, user or _somebody(profile))))


def example_job(profile: Profile) -> CommandJob:
    """A program on two nodes for an hour, or as much of that as the cluster allows."""
    name, _ = profile.partition(None)
    limits = profile.scheduler.limits(name, None, EXAMPLE_NODES) if name else NO_LIMITS
    nodes = min(EXAMPLE_NODES, profile.node_type(name).count or EXAMPLE_NODES, limits.max_nodes or EXAMPLE_NODES)
    time_s = min(EXAMPLE_TIME_S, limits.max_time_s)
    resources = Resources.model_validate({"nodes": max(nodes, limits.min_nodes), "time": f"{time_s}s"})
    return CommandJob(name="example", command=("python", "train.py"), resources=resources)


def _somebody(profile: Profile) -> User:
    scheduler = profile.scheduler
    return User(
        account="YOUR_ACCOUNT" if scheduler.account_required else None,
        qos="YOUR_QOS" if scheduler.qos_required else None,
    )


def _lines(profile: Profile, job: AnyJob, derived: Settings) -> Iterator[str]:
    shape = derived.layout
    ranks = f"{shape.nodes} nodes × {shape.ranks_per_node} ranks × {shape.cores_per_rank} cores"
    yield f"# {profile.name}: {job.name} on {ranks}"
    yield from _section("directives", [(f"#SBATCH {_option(s)}", s) for s in derived.directives])
    if derived.software:
        yield from ("", "software", *(f"  {line}" for line in derived.software))
    yield from _section("environment", [(_export(s), s) for s in derived.environment])
    yield from _section("once, in a new run directory", [(s.value, s) for s in derived.prepare])
    yield from ("", "launcher", f"  {shlex.join(derived.launcher)} {shlex.quote(derived.python)} …")


def _section(title: str, rows: Sequence[tuple[str, Setting]]) -> Iterator[str]:
    if rows:
        yield from ("", title)
    for line, setting in rows:
        yield f"  {line:<{COMMENT_COLUMN}}  # {setting.key}: {setting.reason}"


def _export(setting: Setting) -> str:
    value = setting.value if setting.needs else shlex.quote(setting.value)
    return f"export {setting.name}={value}"


def _option(setting: Setting) -> str:
    return f"--{setting.name}" + (f"={shlex.quote(setting.value)}" if setting.value else "")
