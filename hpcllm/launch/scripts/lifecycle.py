"""What a script tells `lifecycle.bash`, the bash that all scripts of a run source from `RUN/env`."""

from __future__ import annotations

import shlex
from pathlib import Path

from hpcllm.cluster.profile import Profile
from hpcllm.derive.setting import Layout
from hpcllm.job.spec import AnyJob, CommandJob
from hpcllm.launch.array import array_size
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.shell import quoted, wrapped

LIFECYCLE = Path(__file__).with_name("lifecycle.bash")
AS_RANK = '"$AS_RANK"'  # of it: a rank learns its place (RANK, LOCAL_RANK …), and becomes its arguments


def begin(profile: Profile, job: AnyJob, stage: Stage, layout: Layout, key: str | None) -> str:
    """The call of `begin`, which says what differs from its defaults. `key`: of what is done but once."""
    told: dict[str, object] = {
        "stage": stage.id,
        "ranks": layout.world_size,
        "ranks_per_node": layout.ranks_per_node,
        **_end_of(profile, job, stage),
    }
    if profile.software.mpi.flavour != "openmpi":
        told["mpirun_signal"] = "TERM"
    if isinstance(job, CommandJob):
        told |= {"record": stage.name}
        told |= {"key": key} if key else {}
        told |= {"tf_config": 1} if job.tf_config else {}
    size = array_size(profile, job, stage)
    told |= {"array": size} if size > 1 else {}
    words = [quoted(f"{name}={value}") for name, value in told.items()]
    words += ['"part=${1:-}"'] if size > 1 else []
    return " \\\n  ".join(wrapped(["begin", *words]))


def as_ranks(command: tuple[str, ...]) -> str:
    """A program of the user's, as the launcher starts it."""
    if ":" in command:  # srun and Hydra take such a word for the beginning of another program
        return f"bash -c {shlex.quote(f'set -- {shlex.join(command)}; ')}{AS_RANK}"
    return f"bash -c {AS_RANK} rank {shlex.join(command)}"


def _end_of(profile: Profile, job: AnyJob, stage: Stage) -> dict[str, object]:
    """What becomes of it when it is interrupted.

    A program of the user's that may be started again may end in any way once it was warned. Our training exits with 75
    when it has saved; killed, it was warned before its ranks could hear it. Other stages begin again from nothing: one
    that its time limit ends would only meet it again.
    """
    own = isinstance(job, CommandJob) and job.slurm.max_requeues > 0
    above = 0 if own else 128 if stage.name == "train" else None
    interrupted = {} if above is None else {"interrupted_above": above}
    if profile.scheduler.kind != "slurm":
        return {**interrupted, "scheduler": "none"}
    return {**interrupted, "max_requeues": job.slurm.max_requeues if profile.scheduler.requeue else 0}
