"""The nodes that Slurm has given to the shell we are in (`salloc`), as the place for a run in the foreground."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from hpcllm.cluster.nodes import Gpus
from hpcllm.cluster.profile import Profile
from hpcllm.errors import UserError
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.pipeline import stages
from hpcllm.launch.submission.ahead import options_in, said_of
from hpcllm.launch.submission.site_rules import slurm_seconds
from hpcllm.plan.queue import qos_names
from hpcllm.run_directory import Run
from hpcllm.units import counted

MIB = 2**20
SPECIAL_STEPS = 0xFFFFFFF0  # from here on a step is no srun of somebody's: 0xfffffffa is salloc's own shell (slurm.h)
_RANK_OF_SOMETHING = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


@dataclass(frozen=True)
class Allocation:
    """What the environment says of it; numbers are of the node that has least."""

    job_id: str
    nodes: int
    cpus_per_node: int
    ranks: int | None = None
    """By salloc -n, or --ntasks-per-node on every node."""
    gpus_per_node: int = 0
    memory_bytes: int | None = None
    """Of a node; None for all of it."""
    partition: str = ""
    account: str = ""
    qos: str = ""


def allocation() -> Allocation | None:
    """The one that this shell is in; None outside of any, and for a process that is itself one of many ranks."""
    env = os.environ
    step = env.get("SLURM_STEP_ID", "")
    is_rank = step.isdecimal() and int(step) < SPECIAL_STEPS
    if "SLURM_JOB_ID" not in env or is_rank or any(name in env for name in _RANK_OF_SOMETHING):
        return None
    nodes = int(env.get("SLURM_JOB_NUM_NODES", "1"))
    per_node = env.get("SLURM_NTASKS_PER_NODE", "")
    ranks = env.get("SLURM_NTASKS") or (str(nodes * int(per_node)) if per_node.isdecimal() else "")
    memory = env.get("SLURM_MEM_PER_NODE", "")
    return Allocation(
        env["SLURM_JOB_ID"],
        nodes,
        _least(env.get("SLURM_JOB_CPUS_PER_NODE", "")) or os.cpu_count() or 1,
        int(ranks) if ranks.isdecimal() else None,
        _least(env.get("SLURM_GPUS_ON_NODE", "")),
        int(memory) * MIB if memory.isdecimal() and int(memory) else None,
        env.get("SLURM_JOB_PARTITION", ""),
        env.get("SLURM_JOB_ACCOUNT", ""),
        env.get("SLURM_JOB_QOS", ""),
    )


def time_left_s(found: Allocation) -> float | None:
    """Until Slurm takes the nodes back; None without a limit, and where squeue does not say."""
    done = said_of(["squeue", "--noheader", f"--jobs={found.job_id}", "--Format=TimeLeft"])
    left_s = slurm_seconds(done.stdout) if done and done.returncode == 0 else math.inf
    return left_s if math.isfinite(left_s) else None


def resources(found: Allocation, profile: Profile, ranks: int | None, oversubscribe: bool) -> dict[str, object]:
    """The command line's words for a job that takes the allocation, by their names in the parsed arguments.

    Raises UserError for ranks that do not lie evenly on its nodes, or that are more than its cores.
    """
    partition = found.partition if found.partition in profile.scheduler.partitions else None
    node = profile.node_type(partition)
    wanted = ranks or found.ranks
    nodes = min(found.nodes, wanted or found.nodes)
    if wanted and wanted % nodes:
        near = f"{wanted // nodes * nodes} or {math.ceil(wanted / nodes) * nodes}"
        raise UserError(f"--ranks: found {wanted}; {_nodes(found)}, each for as many of them; ask for {near}")
    cores = max(1, found.cpus_per_node // node.threads_per_core)
    if wanted and wanted // nodes > cores and not oversubscribe:
        raise UserError(
            f"--ranks: found {wanted}; {_nodes(found)} with {counted(cores, 'core')} each for it; "
            f"ask for at most {cores * nodes}, salloc more (-n {wanted}), or give --oversubscribe"
        )
    left_s = time_left_s(found)
    known_qos = found.qos in qos_names(profile, partition)
    return {
        "nodes": nodes,
        "ranks_per_node": wanted // nodes if wanted else None,
        "time": None if left_s is None else f"{max(60, round(left_s))}s",
        "partition": partition,
        "account": found.account or None,
        "qos": found.qos if known_qos or profile.scheduler.qos_required else None,
    }


def narrowed(profile: Profile, found: Allocation) -> Profile:
    """The profile as if its nodes had no more than the allocation has of each of them."""
    partition = found.partition if found.partition in profile.scheduler.partitions else None
    name = profile.node_type_name(partition)
    node = profile.nodes[name]
    cores = min(node.cores, max(1, found.cpus_per_node // node.threads_per_core))
    update: dict[str, object] = {"cores": cores, "numa_domains": min(node.numa_domains, cores)}
    if found.memory_bytes and (node.memory_bytes is None or found.memory_bytes < node.memory_bytes):
        update["memory_bytes"] = found.memory_bytes
    if node.gpus:
        whole = profile.scheduler.gpu_request == "none"  # Slurm counts no GPUs there
        update["gpus"] = _gpus(node.gpus, node.gpus.count if whole else found.gpus_per_node, cores == node.cores)
    return profile.model_copy(update={"nodes": {**profile.nodes, name: node.model_copy(update=update)}})


def check_large_enough(found: Allocation, run: Run) -> None:
    """Raises UserError for a run that was rendered for more nodes than there are here."""
    paths = [run.script(stage.id) for stage in stages(frozen_any_job(run))]
    wanted = max((int(options_in(path).get("nodes", "1")) for path in paths if path.exists()), default=1)
    if wanted > found.nodes:
        raise UserError(f"{run.root}: was rendered for {wanted} nodes; {_nodes(found)}: salloc -N{wanted}")


def _gpus(gpus: Gpus, count: int, has_all_cores: bool) -> Gpus | None:
    """So many of a node's GPUs. Which of them they are, and which cores lie next to them, only Slurm knows."""
    if count >= gpus.count and has_all_cores:
        return gpus
    return (
        gpus.model_copy(update={"count": min(count, gpus.count), "cpus": (), "numa": (), "nics": ()}) if count else None
    )


def _nodes(found: Allocation) -> str:
    return f"allocation {found.job_id} has {counted(found.nodes, 'node')}"


def _least(counts: str) -> int:
    """`4(x2),2` is 4, 4 and 2, of which this is 2; 0 where nothing is said."""
    numbers = [int(one) for one in re.findall(r"(?:^|,)(\d+)", counts)]
    return min(numbers, default=0)
