"""What became of a sweep: one question to Slurm for the jobs of all its runs."""

from __future__ import annotations

from dataclasses import dataclass

from hpcllm.launch.sweep import Sweep
from hpcllm.launch.tracking.slurm import scancel
from hpcllm.launch.tracking.states import ALIVE
from hpcllm.launch.tracking.track import RunStatus, StageStatus, jobs_of, look_at_all, with_all_after


@dataclass(frozen=True)
class SweepStatus:
    """All runs, now."""

    runs: tuple[RunStatus, ...]
    silence: str = ""
    """Why Slurm does not answer, in its words."""


def look_at(sweep: Sweep) -> SweepStatus:
    """Every run in order, by one query of each source for all jobs."""
    found = look_at_all(sweep.runs)
    return SweepStatus(tuple(found), found[0].silence)


def where_it_is(run: RunStatus) -> StageStatus:
    """The stage that tells how a run is: the first that went wrong, else that runs, else that waits, else the last."""
    wrong = [stage for stage in run.stages if stage.state not in (*ALIVE, "done")]
    running = [stage for stage in run.stages if stage.state == "running"]
    waiting = [stage for stage in run.stages if stage.state in ALIVE]
    return (wrong + running + waiting + [run.stages[-1]])[0]


def cancel_all(sweep: Sweep, stage_name: str | None = None) -> str:
    """Cancel what is queued or running of all runs, or of one stage and what comes after it. Says what it did."""
    job_ids: dict[str, None] = {}
    for run, now in zip(sweep.runs, look_at(sweep).runs, strict=True):
        meant = with_all_after(run, stage_name)
        alive = [found for found in now.stages if found.state in ALIVE and found.stage in meant]
        job_ids |= dict.fromkeys(jobs_of(run, alive))
    if not job_ids:
        return "nothing of this sweep is queued or running"
    scancel(list(job_ids))
    return f"cancelled {len(job_ids)} jobs"
