"""What there should be: by an option, a run directory, or the launcher's environment. No MPI in here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hpcllm.cluster.probe.preferred import preferring_measured
from hpcllm.cluster.profile import Profile, frozen_profile
from hpcllm.job.spec import AnyJob, Job, ProbeJob, frozen_any_job
from hpcllm.parallel.launched import started_as
from hpcllm.plan.plan import read_plan
from hpcllm.run_directory import Run


@dataclass(frozen=True)
class Expected:
    """What there should be. None: nobody said."""

    ranks: int | None = None
    nodes: int | None = None
    source: str = ""
    """Who says so: an option, a file, a variable of the launcher."""
    flavour: str | None = None
    """The profile's MPI library."""
    rate_bytes_per_s: float | None = None
    """What one rail does. One pair of ranks fills one rail, whatever the node has."""
    rate_key: str = "fabric.rate"
    """Who says so: the profile, or its last probe (`measured.fabric.rate (2026-11-24)`)."""
    fabric: str = "none"
    """Its kind."""
    names: tuple[tuple[str, str], ...] = ()
    """Interfaces and adapters that the profile says there are: (key, name)."""
    gpus: int = 0
    """GPUs of a node."""
    gpus_key: str = ""
    unbound: bool = False
    """The profile binds nothing: one machine that its user shares with other work."""
    shares_cores: bool = False
    """The job was planned with more ranks than cores."""


NOTHING = Expected()


def expected_of_environment(environment: Mapping[str, str]) -> Expected:
    """What the launcher or the allocation was asked for. A step of Slurm's knows better than its allocation."""
    started = started_as(environment)
    ranks = started.size or _number(environment, "SLURM_NTASKS")
    nodes = _number(environment, "SLURM_STEP_NUM_NODES") or _number(environment, "SLURM_NNODES")
    nodes = min(nodes, ranks) if nodes and ranks else nodes
    return Expected(ranks, nodes, started.source or ("SLURM_NTASKS" if ranks else ""))


def _number(environment: Mapping[str, str], name: str) -> int | None:
    return int(environment[name]) if environment.get(name, "").isdigit() else None


def expected(ranks: int | None, nodes: int | None, run: Path | None) -> Expected:
    """What there should be: by the options, else by the run directory, else by the launcher's environment."""
    asked = expected_of_environment(os.environ)
    if run is not None:
        asked = _of_run(Run.open(run), asked)
    if ranks is not None:
        asked = replace(asked, ranks=ranks, source="--ranks")
    return replace(asked, nodes=nodes) if nodes is not None else asked


def _of_run(run: Run, asked: Expected) -> Expected:
    """A run of the pipeline has its ranks in plan.json, another one in its resources.

    What a probe measured is what later runs are held against; another probe is held against the profile's word.
    """
    profile, job = frozen_profile(run), frozen_any_job(run)
    measured: Mapping[str, str] = {}
    if not isinstance(job, ProbeJob):
        profile, measured = preferring_measured(profile)
    asked = ranks_of_run(run, job, asked)
    partition = read_plan(run).partition if isinstance(job, Job) else partition_here(profile, job)
    fabric, key = profile.fabric_of(partition)
    rate_key = f"{key}.rate"
    node, name = profile.node_type(partition), profile.node_type_name(partition)
    return replace(
        asked,
        flavour=profile.software.mpi.flavour,
        rate_bytes_per_s=fabric.rate_bytes_per_s if fabric.kind != "none" else None,
        rate_key=measured.get(rate_key, rate_key),
        fabric=fabric.kind,
        names=_names(profile, partition),
        gpus=node.gpus.count if node.gpus else 0,
        gpus_key=f"nodes.{name}.gpus.count",
        unbound=profile.scheduler.kind == "local",
        shares_cores=bool(asked.ranks) and (asked.ranks or 0) > (asked.nodes or 1) * node.cores,
    )


def partition_here(profile: Profile, job: AnyJob) -> str | None:
    """The partition that Slurm says this is; where the profile has none of that name, the one that was asked for."""
    here = os.environ.get("SLURM_JOB_PARTITION")
    return profile.partition(here if here in profile.scheduler.partitions else job.slurm.partition)[0]


def ranks_of_run(run: Run, job: AnyJob, asked: Expected = NOTHING) -> Expected:
    """The ranks and nodes that a run was rendered for; where its job leaves the ranks open, as asked."""
    if isinstance(job, Job):
        plan = read_plan(run)
        return replace(asked, ranks=plan.world_size, nodes=plan.nodes, source=str(run.plan_json))
    nodes, per_node = job.resources.nodes, job.resources.ranks_per_node
    if per_node is None:
        return replace(asked, nodes=nodes)
    return replace(asked, ranks=nodes * per_node, nodes=nodes, source=str(run.resolved_json))


def _names(profile: Profile, partition: str | None) -> tuple[tuple[str, str], ...]:
    fabric, key = profile.fabric_of(partition)
    node, at = profile.node_type(partition), f"nodes.{profile.node_type_name(partition)}"
    rows = (
        (f"{key}.interfaces", fabric.interfaces),
        (f"{key}.gpu_interfaces", fabric.gpu_interfaces),
        (f"{key}.hcas", fabric.hcas),
        (f"{at}.gpus.nics", node.gpus.nics if node.gpus else ()),
    )
    return tuple((key, name) for key, names in rows for name in dict.fromkeys(names))
