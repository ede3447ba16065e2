"""The job of `hpcllm profile probe`: a few nodes, all of each, for some minutes; and what it left, or why not."""

from __future__ import annotations

from hpcllm.cluster.probe.found import Probed, read_probed
from hpcllm.cluster.profile import Profile
from hpcllm.cluster.user import User
from hpcllm.derive.layout import choose_partition
from hpcllm.errors import HpcllmError
from hpcllm.job.spec import Probe, ProbeJob, Resources, SlurmSpec
from hpcllm.launch.tracking.logs import logs
from hpcllm.launch.tracking.track import status
from hpcllm.plan.queue import limits_of, partition_of, under_qos
from hpcllm.run_directory import Run

NODES = 2
TIME_S = 600.0
LAST_LINES = 15


def probe_job(profile: Profile, slurm: SlurmSpec, user: User, nodes: int | None, time_s: float | None) -> ProbeJob:
    """As many nodes and minutes as asked, else two and ten, or what there is.

    A rank a GPU; on cores one a NUMA domain, and at least two, that they have somebody to talk to.
    Raises what `choose_partition` does.
    """
    job = ProbeJob(name=profile.name, slurm=slurm, probe=Probe())
    asked = under_qos(profile, job, user)
    partition = partition_of(profile, asked)
    limits, node = limits_of(profile, asked, partition), profile.node_type(partition)
    usual = max(limits.min_nodes, min(NODES, node.count or NODES, limits.max_nodes or NODES))
    resources = Resources.model_construct(nodes=nodes or usual, time_s=time_s or min(TIME_S, limits.max_time_s))
    job = job.model_copy(update={"resources": resources})
    chosen = profile.node_type(choose_partition(profile, under_qos(profile, job, user), None))
    ranks = chosen.gpus.count if chosen.gpus else min(chosen.cores, max(2, chosen.numa_domains))
    return job.model_copy(update={"resources": resources.model_copy(update={"ranks_per_node": ranks})})


def result_of(run: Run) -> Probed:
    """What a probe that is over found. Raises HpcllmError with the end of its log where it failed."""
    (found,) = status(run)
    if found.state == "done":
        return read_probed(run)
    try:
        said = "\n".join(f"  {line}" for line in logs(run).splitlines()[-LAST_LINES:])
    except HpcllmError:
        said = "  it wrote no log"
    why = f" ({found.reason})" if found.reason else ""
    raise HpcllmError(f"{run.root}: the probe is {found.state}{why}; {found.advice}; the end of its log:\n{said}")
