"""The scheduler of a cluster: its partitions, its limits, and the dialect in which it is asked for things."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hpcllm.cluster.known import Known
from hpcllm.names import Directives, Word
from hpcllm.units import Positive, Seconds, TimeLimit


def _one_name(name: str) -> str:
    if not re.fullmatch(r"[^\s,]+", name):
        raise ValueError(f"found {name!r}; expected one name, without white space and commas")
    return name


Name = Annotated[str, AfterValidator(_one_name)]
MemoryRequest = Literal["node", "cpu", "gpu", "all", "none"]


class Qos(Known):
    """A quality of service: limits and a priority that a job asks for by --qos."""

    max_time_s: TimeLimit | None = None
    """Longest wall-clock time of a job."""
    max_nodes: Positive | None = None
    """Most nodes of one job."""
    overrides_partition: bool = False
    """Whether its limits stand in place of the partition's (Slurm's flags PartitionTimeLimit and PartitionMaxNodes);
    otherwise the tighter of both holds."""
    min_nodes: Positive | None = None
    """Fewest nodes of one job."""
    max_gpus: Positive | None = None
    """Most GPUs that one user holds at a time."""
    max_jobs: Positive | None = None
    """Most jobs of one user that run at a time."""
    max_submitted: Positive | None = None
    """Most jobs of one user that wait or run."""
    preemptible: bool = False
    """Jobs under it can be stopped for others, and are put back into the queue."""
    description: str = ""
    """What it is for, and who may use it."""


class Partition(Known):
    """One queue."""

    node_type: str
    """Its nodes, by their name under `nodes:`."""
    max_time_s: TimeLimit = math.inf
    """Longest wall-clock time of a job; `unlimited`, or left out, where no limit is known."""
    max_time_from_nodes: dict[Positive, Seconds] = {}
    """Longest time by size, where it depends on that: {1: 2h, 92: 6h} is 2 h below 92 nodes, and 6 h from there on."""
    max_nodes: Positive | None = None
    """Most nodes of one job."""
    min_nodes: Positive | None = None
    """Fewest nodes of one job."""
    max_gpus: Positive | None = None
    """Most GPUs of one job, over all of its nodes."""
    min_gpus: Positive | None = None
    """Fewest GPUs of one job, over all of its nodes."""
    max_jobs: Positive | None = None
    """Most jobs of one user that run at a time."""
    max_submitted: Positive | None = None
    """Most jobs of one user that wait or run."""
    default: bool = False
    """The one used when the job names none."""
    by_request: bool = False
    """Whether only some people or projects may use it: it is taken only where the job names it."""
    named: bool = True
    """Whether --partition names it; false where a constraint, a QOS or the scheduler itself chooses the nodes."""
    constraint: str | None = None
    """--constraint by which its nodes are chosen, such as `gpu&hbm80g`."""
    preemptible: bool = False
    """Jobs here can be stopped for others, and are put back into the queue."""
    exclusive: bool | None = None
    """Whether jobs ask for whole nodes here, where it differs from scheduler.exclusive."""
    gpu_required: bool = False
    """Whether a job that asks for no GPU is refused here; stages without any use for one then ask for one."""
    memory_request: MemoryRequest | None = None
    """How memory is asked for here, where it differs from scheduler.memory_request."""
    qos: Word | None = None
    """QOS that is asked for when the job names none."""
    allow_qos: tuple[Word, ...] | None = None
    """QOS that may be used here, by their names under `qos:`; left out, all; [] for none."""
    account_suffix: str = ""
    """What an account ends in here, such as `@h100`; put behind one that does not."""
    directives: Directives = {}
    """Further sbatch options that this partition wants."""
    description: str = ""
    """What it is for, and who may use it."""


@dataclass(frozen=True)
class Limits:
    """What one job may ask for in a partition under a QOS."""

    max_time_s: float
    max_nodes: int | None
    min_nodes: int
    max_gpus: int | None = None
    """In all."""
    min_gpus: int = 0
    """In all."""


class Scheduler(Known):
    """Slurm, or nothing at all (`kind: local`)."""

    kind: Literal["slurm", "local"]
    """slurm, or local: one machine without a queue, where mpirun starts the ranks."""
    cluster_name: str | None = None
    """Slurm's own ClusterName, by which this profile is found on its login nodes."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+")] | None = None
    """Slurm's version, such as 23.11; in quotes."""
    partitions: dict[Name, Partition] = {}
    """Its queues. Where a site has none to choose from, one entry with `named: false` describes what a job gets."""
    qos: dict[Name, Qos] = {}
    """Its QOS, where the site documents any."""
    account_required: bool = False
    """Whether sbatch refuses a job without --account."""
    qos_required: bool = False
    """Whether sbatch refuses a job without --qos."""
    gpu_request: Literal["gres", "gpus-per-node", "gpus-per-task", "gpus", "none"] = "gpus-per-node"
    """How GPUs are asked for: --gres=gpu:TYPE:N, --gpus-per-node=TYPE:N, --gpus-per-task=N, --gpus=N in all, or not at
    all (whole nodes)."""
    memory_request: MemoryRequest = "none"
    """How memory is asked for: --mem, --mem-per-cpu, --mem-per-gpu, --mem=0 (all of a node), or not at all."""
    exclusive: bool = False
    """Whether jobs ask for whole nodes by --exclusive."""
    requeue: bool = True
    """Whether a job may put itself back into the queue (scontrol requeue)."""
    max_submitted: Positive | None = None
    """Most jobs of one user that wait or run, over all partitions."""
    max_array_size: Positive | None = None
    """MaxArraySize: an array's highest index is one less."""
    poll_s: Seconds | None = None
    """Shortest time between two questions to the scheduler that the site allows."""
    directives: Directives = {}
    """Further sbatch options that this site wants in every script."""

    def limits(self, partition: str, qos: str | None, nodes: int) -> Limits:
        """What a job on that many nodes may ask for, under the QOS given, else the partition's own."""
        queue, rules = self.partitions[partition], self.qos.get(qos or self.partitions[partition].qos or "", Qos())
        by_size = [limit for least, limit in sorted(queue.max_time_from_nodes.items()) if least <= nodes]
        time_s = by_size[-1] if by_size else queue.max_time_s
        if rules.overrides_partition:
            times, most = [rules.max_time_s or time_s], [rules.max_nodes or queue.max_nodes]
        else:
            times, most = [time_s, rules.max_time_s or time_s], [rules.max_nodes, queue.max_nodes]
        return Limits(
            min(times),
            min((n for n in most if n), default=None),
            max(rules.min_nodes or 1, queue.min_nodes or 1),
            min((n for n in (rules.max_gpus, queue.max_gpus) if n), default=None),
            queue.min_gpus or int(queue.gpu_required),
        )
