"""The scheduler of a cluster: its partitions, its limits, and the dialect in which it is asked for things."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from hpcllm.names import Directives
from hpcllm.source import Record
from hpcllm.units import Seconds

Positive = Annotated[int, Field(ge=1)]


class Partition(Record):
    """One queue."""

    node_type: str
    """Its nodes, by their name under `nodes:`."""
    max_time_s: Seconds
    """Longest wall-clock time of a job."""
    max_nodes: Positive | None = None
    """Most nodes of one job."""
    default: bool = False
    """The one used when the job names none."""
    preemptible: bool = False
    """Jobs here can be stopped for others, and are put back into the queue."""
    qos: str | None = None
    """QOS that this partition wants."""


class Scheduler(Record):
    """Slurm, or nothing at all (`kind: local`)."""

    kind: Literal["slurm", "local"]
    cluster_name: str | None = None
    """Slurm's own ClusterName, by which this profile is found on its login nodes."""
    version: str | None = None
    """Slurm's version, such as 23.11."""
    partitions: dict[str, Partition] = {}
    account_required: bool = False
    """Whether sbatch refuses a job without --account."""
    gpu_request: Literal["gres", "gpus-per-node", "gpus-per-task", "none"] = "gpus-per-node"
    """How GPUs are asked for: --gres=gpu:TYPE:N, --gpus-per-node=N, --gpus-per-task=1, or not at all (whole nodes)."""
    gres_type: str | None = None
    """TYPE in --gres=gpu:TYPE:N, where the site wants one."""
    memory_request: Literal["node", "cpu", "none"] = "none"
    """How memory is asked for: --mem, --mem-per-cpu, or not at all."""
    exclusive: bool = False
    """Whether jobs ask for whole nodes by --exclusive."""
    requeue: bool = True
    """Whether a job may put itself back into the queue (scontrol requeue)."""
    directives: Directives = {}
    """Further sbatch options that this site wants in every script."""

    @field_validator("partitions")
    @classmethod
    def _partition_names(cls, value: dict[str, Partition]) -> dict[str, Partition]:
        for name in value:
            if not re.fullmatch(r"[^\s,]+", name):
                raise ValueError(f"found {name!r}; expected the name of one partition")
        return value
