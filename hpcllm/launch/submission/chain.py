"""A long stage as several jobs one after another, where a site starts none again (`scheduler.requeue: false`).

Each job of a chain waits until all before it have ended without success. So the first that is done ends the chain:
Slurm cancels the others at once, and they cost nothing. In jobs.json a chain is one id, `101:102:103`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcllm.cluster.profile import Profile
from hpcllm.job.spec import AnyJob
from hpcllm.launch.pipeline import Stage
from hpcllm.plan.plan import Plan

CHAINED = ("train", "command")  # the stages that go on where they stopped
SPARE = 1  # more than planned: starting and saving take time of each, and one that is not needed is cancelled
MOST_JOBS = 50
SEPARATOR = ":"  # as in Slurm's own lists of jobs


@dataclass(frozen=True)
class Link:
    """One job of a chain."""

    number: int = 1
    of: int = 1
    before: tuple[str, ...] = ()
    """Ids of all jobs of the chain before it."""

    @property
    def arguments(self) -> list[str]:
        """What its script is told: which one it is, of how many."""
        return [str(self.number), str(self.of)] if self.of > 1 else []


ALONE = Link()


def can_chain(profile: Profile, stage: Stage) -> bool:
    """Whether a stage may need several jobs that stand in the queue from the beginning."""
    return stage.name in CHAINED and profile.scheduler.kind == "slurm" and not profile.scheduler.requeue


def chain_length(profile: Profile, job: AnyJob, plan: Plan | None, stage: Stage) -> int:
    """How many jobs a stage is submitted as: the job's own word, else what the plan needs and one to spare.

    Never more than `slurm.max_requeues` allows after the first, since each takes the place of a requeue.
    """
    if not can_chain(profile, stage):
        return 1
    planned = job.slurm.chained_jobs or (plan.chained_jobs if plan else None) or 1
    return max(1, min(planned + SPARE, job.slurm.max_requeues + 1, MOST_JOBS)) if planned > 1 else 1


def rest_of_chain(job_id: str, submitted: Sequence[str]) -> list[str]:
    """A job and those of its chain behind it, where it stands in one of the entries of jobs.json."""
    chain = next((ids for entry in submitted if job_id in (ids := entry.split(SEPARATOR))), [job_id])
    return chain[chain.index(job_id) :]


def dependency(after: Sequence[str], link: Link) -> str:
    """sbatch's --dependency; empty where it depends on nothing. `after`: ids of jobs or of chains that must succeed.

    Of a chain one job has to. Slurm has either `and` or `or` in one list; beside other jobs, a chain must be over, and
    the stage itself finds out whether it went well.
    """
    if link.before:
        return "afternotok:" + SEPARATOR.join(link.before)
    if len(after) == 1:
        return "?".join(f"afterok:{job_id}" for job_id in after[0].split(SEPARATOR))
    chains = [entry.split(SEPARATOR)[-1] for entry in after if SEPARATOR in entry]
    single = [entry for entry in after if SEPARATOR not in entry]
    parts = [("afterok", single), ("afterany", chains)]
    return ",".join(f"{kind}:{SEPARATOR.join(ids)}" for kind, ids in parts if ids)
