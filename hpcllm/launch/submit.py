"""The DAG to Slurm: every script is tried first, then all are submitted or none; a second time only what is missing."""

from __future__ import annotations

import fcntl
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import submitit

from hpcllm.cluster.profile import frozen_profile
from hpcllm.errors import UserError
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.dag_scripts import sbatch_tokens
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.slurm import slurm
from hpcllm.launch.states import ALIVE
from hpcllm.launch.submitit_plugin import ScriptExecutor, ScriptJob, StageScript
from hpcllm.launch.track import StageStatus, look, status, submitted
from hpcllm.run_directory import Run, write_json

# What sbatch says, and what to do about it. The words are Slurm's (slurm_errno.c).
_REMEDIES = {
    "configuration source": "this machine belongs to no Slurm cluster; go to a login node, or set SLURM_CONF",
    "account": "give another one: --account NAME (sacctmgr show associations user=$USER lists yours)",
    "qos": "give another one: --qos NAME (sacctmgr show associations user=$USER format=account,qos lists yours)",
    "time limit": "ask for less: --time, or another --partition (sinfo -o '%P %l' shows the limits)",
    "partition": "give another one: --partition NAME (sinfo -s lists them)",
    "node configuration": "ask for less on each node, or correct the profile (sinfo -N -l shows the nodes)",
    "node count": "ask for fewer --nodes (sinfo -o '%P %D' shows how many there are)",
    "memory": "ask for less memory, or correct nodes.*.memory in the profile",
    "limit": "ask for fewer nodes or less time, or another --qos",
}


def submit(run: Run, dry_run: bool = False) -> dict[str, str]:
    """Submit what is neither done nor queued: stage -> job id (`dry_run`: the command, and nothing is submitted).

    Raises UserError on a machine without Slurm, and with Slurm's own words when it refuses a script: then nothing of
    this call stays in the queue.
    """
    _check_cluster(run)
    rows = stages(frozen_any_job(run))
    if dry_run:
        return _commands(run, rows)
    with _alone(run):
        now = _now(run)
        missing = _missing(rows, now)
        for stage in missing:
            _try(run, stage)
        return {stage: job.job_id for stage, job in _submit_all(run, missing, now).items()}


def jobs(run: Run) -> dict[str, submitit.Job[dict[str, object]]]:
    """submitit's handle of each submitted stage's latest job."""
    ids = submitted(run)
    rows = [stage for stage in stages(frozen_any_job(run)) if ids.get(stage.name)]
    return {stage.name: ScriptJob(run.logs, ids[stage.name][-1], StageScript(run, stage)) for stage in rows}


def _check_cluster(run: Run) -> None:
    profile = frozen_profile(run)
    if profile.scheduler.kind != "slurm":
        raise UserError(
            f"{run.root}: rendered for {profile.name}, which has no Slurm; run it here: hpcllm run {run.root}"
        )


def _commands(run: Run, rows: tuple[Stage, ...]) -> dict[str, str]:
    """What would be submitted now."""
    now = {found.stage: found for found in status(run)}
    missing = _missing(rows, now)
    after = {stage.name: [f"JOB_OF_{name}" for name in stage.after if now[name].state != "done"] for stage in missing}
    return {stage.name: shlex.join(sbatch_tokens(run, stage, after[stage.name])) for stage in missing}


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """No other submit of this run at the same time, or both would submit the same stages. Raises UserError."""
    with run.jobs_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run.jobs_lock}: another submit of this run is at it; try again when it is over"
            ) from None
        except OSError:
            pass  # a file system without locks, as Lustre mounted without -o flock
        yield


def _now(run: Run) -> dict[str, StageStatus]:
    """Every stage. Raises UserError where Slurm does not say what became of a job: it must not be submitted twice."""
    found = look(run)
    if found.silence:
        raise UserError(f"{run.root}: Slurm does not answer ({found.silence}); nothing was submitted; try again later")
    return {stage.stage: stage for stage in found.stages}


def _missing(rows: tuple[Stage, ...], now: dict[str, StageStatus]) -> list[Stage]:
    """What was never submitted or has ended without success. A fresh run's stages are `waiting` without a job."""
    busy = {name for name, found in now.items() if found.state == "running" or (found.state in ALIVE and found.job_id)}
    kept = {name for name, found in now.items() if found.state == "done"} | busy
    return [stage for stage in rows if stage.name not in kept]


def _try(run: Run, stage: Stage) -> None:
    """Ask Slurm whether it would take the script, before anything is in the queue."""
    done = slurm(sbatch_tokens(run, stage, test_only=True))
    if done.returncode == 0:
        return
    said = " ".join(line.split("error:")[-1].strip() for line in done.stderr.splitlines()).strip()
    remedy = next((remedy for word, remedy in _REMEDIES.items() if word in said.lower()), "correct it and render again")
    raise UserError(f"{run.script(stage.id)}: Slurm refuses it: {said}; {remedy}")


def _submit_all(
    run: Run, missing: list[Stage], now: dict[str, StageStatus]
) -> dict[str, submitit.Job[dict[str, object]]]:
    """All or nothing; jobs.json says it at the end."""
    run.logs.mkdir(exist_ok=True)
    executor = ScriptExecutor(run.logs)
    made: dict[str, submitit.Job[dict[str, object]]] = {}
    alive = {name: found.job_id for name, found in now.items() if found.state in ALIVE and found.job_id}
    try:
        for stage in missing:
            ids = {**alive, **{name: job.job_id for name, job in made.items()}}
            after = tuple(ids[name] for name in stage.after if name in ids)
            made[stage.name] = executor.submit(StageScript(run, stage, after))
        before = submitted(run)
        write_json(
            run.jobs_json, {**before, **{name: [*before.get(name, []), job.job_id] for name, job in made.items()}}
        )
    except BaseException:
        for job in made.values():
            job.cancel(check=False)
        raise
    return made
