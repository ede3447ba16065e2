"""What became of each stage: one question to Slurm, and the records that the stages themselves wrote."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.pipeline import Stage, find_stage, stages
from hpcllm.launch.process import writer_lives
from hpcllm.launch.submission.chain import rest_of_chain
from hpcllm.launch.tracking.failure import first_failure
from hpcllm.launch.tracking.logs import ends_of, last_words, progress_in, tail
from hpcllm.launch.tracking.on_disk import OnDisk, submitted, unfinished_job_id
from hpcllm.launch.tracking.slurm import Answer, SlurmJob, ask, scancel
from hpcllm.launch.tracking.states import ALIVE, Program, State, advice, state_in, wait_of
from hpcllm.run_directory import Run

FORGOTTEN_AFTER_S = 60.0  # for so long after a submission squeue may not know the job yet


@dataclass(frozen=True)
class StageStatus:
    """One stage, now. Times are in seconds since 1970."""

    stage: str
    job_id: str | None
    """Slurm's id of its latest job, by whomever it was submitted."""
    state: State
    since: float | None = None
    """When that state began."""
    elapsed_s: float | None = None
    """How long it has run, or ran."""
    nodes: str = ""
    progress: str = ""
    """How far it is, while it runs: `120/1000 loss 3.21`."""
    reason: str = ""
    """Why it waits, or ended as it did."""
    advice: str = ""
    """What to do, where something is to be done."""
    after: tuple[str, ...] = ()
    """The stages that it waits for."""
    expected_start: float | None = None
    """When Slurm expects a pending job to begin, where it says so."""
    restarts: int = 0
    """How often Slurm has started its job again."""
    earlier: tuple[str, ...] = ()
    """How its attempts before this one ended, oldest first, by their logs: `preempted`, `interrupted`."""


@dataclass(frozen=True)
class RunStatus:
    """A run, now."""

    stages: tuple[StageStatus, ...]
    silence: str = ""
    """Why Slurm does not answer, in its words: then the stages are as accounting and their own records have them."""


def status(run: Run) -> list[StageStatus]:
    """Every stage in order. Raises HpcllmError for a damaged run directory."""
    return list(look(run).stages)


def look(run: Run) -> RunStatus:
    """Every stage in order, by one query of each source for all jobs, and whether Slurm answered."""
    return look_at_all([run])[0]


def look_at_all(runs: Iterable[Run]) -> list[RunStatus]:
    """The same of several runs, by one query of each source for the jobs of all of them."""
    read = [OnDisk.of(run) for run in runs]
    asked = list(dict.fromkeys(job_id for found in read for job_id in found.asked))
    answer = ask(asked) if asked else Answer({})
    return [_seen(found, answer) for found in read]


def _seen(disk: OnDisk, answer: Answer) -> RunStatus:
    found: dict[str, StageStatus] = {}
    for stage in disk.stages:
        before = [found[name] for name in stage.after if found[name].state != "done"]
        now = _status_of(disk, stage, answer, before)
        now = _out_of_date(disk, stage, now) if _is_outdated(disk, stage, now) else now
        found[stage.name] = replace(now, earlier=ends_of(disk.attempts(stage)[:-1]))
    return RunStatus(tuple(found.values()), answer.silence)


def goes_on(now: RunStatus) -> bool:
    """Whether anything is queued or running. A stage that was never submitted waits for a person, not for Slurm."""
    return any(stage.state == "running" or (stage.state in ALIVE and stage.job_id) for stage in now.stages)


def cancel(run: Run, stage_name: str | None = None) -> str:
    """Cancel what is queued or running, or tell the stage in another shell's foreground to save. Says what it did.

    All of the DAG, or one stage and what comes after it.
    """
    meant = with_all_after(run, stage_name)
    alive = [found for found in status(run) if found.state in ALIVE and found.stage in meant]
    job_ids = jobs_of(run, alive)
    if job_ids:
        scancel(job_ids)
    here = [found for found in alive if not found.job_id and found.state == "running" and _tell_to_stop(run, found)]
    names = ", ".join(found.stage for found in alive if found.job_id) or ", ".join(found.stage for found in here)
    what = f"{stage_name} and what comes after it" if stage_name else "this run"
    return f"cancelled {names}" if names else f"nothing of {what} is queued or running here"


def jobs_of(run: Run, found: Iterable[StageStatus]) -> list[str]:
    """The jobs of stages, as they are to be cancelled: a chain from its end, or the next one would begin."""
    before = submitted(run)
    chains = [rest_of_chain(stage.job_id, before.get(stage.stage, [])) for stage in found if stage.job_id]
    return list(dict.fromkeys(one for chain in chains for one in reversed(chain)))


def with_all_after(run: Run, stage_name: str | None) -> Collection[str]:
    """The names of all stages, or of one and of those that need it."""
    job = frozen_any_job(run)
    meant = {find_stage(job, stage_name).name} if stage_name else {stage.name for stage in stages(job)}
    for stage in stages(job):  # in order, so that those before a stage are known when it comes
        if meant & set(stage.after):
            meant.add(stage.name)
    return meant


# ---- one stage -------------------------------------------------------------------------------------------------------


def _status_of(disk: OnDisk, stage: Stage, answer: Answer, before: list[StageStatus]) -> StageStatus:
    """`before`: the stages that it still waits for."""
    record, job_id = disk.record(stage), disk.job_ids.get(stage.name)
    job, own = (answer.jobs.get(one or "") for one in (job_id, unfinished_job_id(record)))
    if answer.silence:
        job, own = (one if one and not _is_behind(one, record) else None for one in (job, own))
    job, own = (None if one and _is_part(stage, one, record) else one for one in (job, own))
    if job and not job.forgotten and not _is_newer(record, job):
        return _by_slurm(disk, stage, job, record, before)
    if own and not own.forgotten and not _is_over_in(own, record):
        return _by_slurm(disk, stage, own, record, before)
    if record:
        return _by_record(disk, stage, job_id, record)
    if job and time.time() - disk.run.jobs_json.stat().st_mtime > FORGOTTEN_AFTER_S:
        return _advised(disk, stage, StageStatus(stage.name, job_id, job.state, reason=job.reason, after=stage.after))
    state: State = "waiting" if before or not job_id else "pending"
    return StageStatus(stage.name, job_id, state, reason="" if job_id else "not submitted", after=stage.after)


def _is_newer(record: Mapping[str, Any], job: SlurmJob) -> bool:
    """Whether the stage ran since that job ended, in the foreground or by a script submitted by hand."""
    start = record.get("last_start", record.get("start", 0))
    return bool(record and record["job_id"] != job.job_id and job.end_s is not None and start > job.end_s)


def _is_part(stage: Stage, job: SlurmJob, record: Mapping[str, Any]) -> bool:
    """Whether all that Slurm still knows of an array is done, while some element says that it is not."""
    return bool(stage.array and job.state == "done" and record and record["outcome"] != "done")


def _is_behind(job: SlurmJob, record: Mapping[str, Any]) -> bool:
    """Whether the stage knows more than accounting, which hears nothing new while no controller tells it."""
    told = record.get("job_id") == job.job_id and record["outcome"] in ("running", "done", "failed")
    return told and job.state in ALIVE


def _is_over_in(job: SlurmJob, record: Mapping[str, Any]) -> bool:
    """Whether the stage has ended since that job began: in an allocation that goes on without it."""
    begun = job.start_s is not None and job.state != "pending"
    return bool(record["end"] and begun and job.start_s <= record["end"])


def _is_outdated(disk: OnDisk, stage: Stage, now: StageStatus) -> bool:
    """Whether what is done was done for another job or by other code, or was deleted."""
    return now.state == "done" and bool(disk.record(stage)) and not disk.is_current(stage)


def _out_of_date(disk: OnDisk, stage: Stage, done: StageStatus) -> StageStatus:
    reason = "done for another job or by other code, or its files were deleted"
    return _advised(disk, stage, replace(done, state="out of date", reason=reason))


def _by_slurm(
    disk: OnDisk, stage: Stage, job: SlurmJob, record: Mapping[str, Any], before: list[StageStatus]
) -> StageStatus:
    state = _state(disk, stage, job, before)
    waits = state in ("waiting", "pending", "stuck")
    end_s = time.time() if state == "running" else job.end_s
    elapsed_s = end_s - job.start_s if end_s is not None and job.start_s is not None and not waits else None
    since = job.submit_s if waits else job.start_s if state == "running" else job.end_s
    found = StageStatus(
        stage.name,
        job.job_id,
        state,
        since,
        elapsed_s,
        job.nodes,
        _progress(disk, stage, state, job.tasks),
        _why(disk, stage, job, state, record, before),
        after=stage.after,
        expected_start=job.start_s if state == "pending" else None,
        restarts=job.restarts,
    )
    return _advised(disk, stage, found, job.reason)


def _state(disk: OnDisk, stage: Stage, job: SlurmJob, before: list[StageStatus]) -> State:
    """Ours, by Slurm's, its reason, the exit code, and what slurmstepd wrote."""
    if job.state == "pending":
        row = wait_of(job.reason)
        return "stuck" if row and not row.ends else "waiting" if before else "pending"
    if job.state == "failed" and job.exit_code == 75:
        return "interrupted"
    if job.state == "failed":
        said = state_in(tail(disk.run.slurm_log(disk.log_id(stage))) + last_words(disk.attempts(stage)))
        return "out of memory" if said == "out of memory" else "failed"
    return job.state


def _why(
    disk: OnDisk, stage: Stage, job: SlurmJob, state: State, record: Mapping[str, Any], before: list[StageStatus]
) -> str:
    """Why it waits, in Slurm's words and ours, or why it ended, in the stage's own or those of the rank that failed."""
    if state in ("pending", "stuck"):
        row = wait_of(job.reason)
        return f"{job.reason}: {row.means}" if row else job.reason
    if state in (*ALIVE, "done"):
        return ""
    if state == "cancelled":
        return _why_cancelled(job, before)
    said = str(record["message"]) if record.get("job_id") == job.job_id else ""
    if stage.array and said:
        return said  # it names the element
    words = said or _failed_rank(disk, stage, job.start_s) or _exit_words(job.exit_code)
    return f"{job.reason}: {words}" if job.tasks else words


def _why_cancelled(job: SlurmJob, before: list[StageStatus]) -> str:
    """Slurm cancels a job, in root's name, whose dependency can no longer come true."""
    bad = [found.stage for found in before if found.state not in ALIVE]
    if bad and job.start_s is None:
        return f"{' and '.join(bad)} did not end well"
    return f"by {job.cancelled_by}" if job.cancelled_by else ""


def _failed_rank(disk: OnDisk, stage: Stage, since: float | None) -> str:
    """The first rank that failed, of an attempt that wrote its log since then."""
    logs = [path for path in disk.attempts(stage) if path.stat().st_mtime >= (since or 0) - 1]
    failure = first_failure(tail(logs[-1])) if logs else None
    return str(failure) if failure else ""


def _exit_words(code: int | None) -> str:
    if not code:
        return ""
    return f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"


def _by_record(disk: OnDisk, stage: Stage, job_id: str | None, record: Mapping[str, Any]) -> StageStatus:
    state: State = record["outcome"]
    reason = record["message"]
    path = disk.run.state_json(record.get("id", stage.id))
    if state == "running" and not writer_lives(path, record):
        state, reason = _killed(disk, stage, record)
    if state == "failed" and not reason:
        reason = _failed_rank(disk, stage, record["start"]) or _exit_words(record["exit_code"])
    end_s = record["end"] or (time.time() if state == "running" else path.stat().st_mtime)
    since = record["start"] if state == "running" else end_s
    progress = _progress(disk, stage, state)
    return _advised(
        disk,
        stage,
        StageStatus(
            stage.name,
            record["job_id"] or job_id,
            state,
            since,
            end_s - record["start"],
            ",".join(record["hosts"]),
            progress,
            reason,
            after=stage.after,
            restarts=record.get("restarts", 0),
        ),
    )


def _killed(disk: OnDisk, stage: Stage, record: Mapping[str, Any]) -> tuple[State, str]:
    """What became of a stage that had no time to say so: slurmstepd may have written it into the job's log."""
    path = disk.run.slurm_log(disk.log_id(stage))
    spoken = path.exists() and path.stat().st_mtime >= record["start"]
    state = state_in(tail(path)) if spoken else None
    return (state, "by the job's log") if state else ("failed", f"killed on {record['host']} without a word")


def _advised(disk: OnDisk, stage: Stage, found: StageStatus, reason: str = "") -> StageStatus:
    """With what to do; a run that was rendered for this machine goes on by `hpcllm run`."""
    words = {"RUN": shlex.quote(str(disk.run.root)), "STAGE": found.stage, "JOB": found.job_id or "JOB"}
    text = advice(found.state, reason, _program(disk, stage))
    if disk.resolved["profile"]["scheduler"]["kind"] == "local":
        text = text.replace("hpcllm submit", "hpcllm run")
    return replace(found, advice=re.sub(r"\b(RUN|STAGE|JOB)\b", lambda word: words[word[0]], text))


def _program(disk: OnDisk, stage: Stage) -> Program:
    return "" if stage.program else "frozen" if disk.run.command.exists() else "own"


def _tell_to_stop(run: Run, found: StageStatus) -> bool:
    record = OnDisk.of(run).record(find_stage(frozen_any_job(run), found.stage))
    if record["host"] != socket.gethostname():
        return False
    try:
        os.kill(record["pid"], signal.SIGTERM)
    except (ProcessLookupError, PermissionError):  # over by now, or another user's
        return False
    return True


def _progress(disk: OnDisk, stage: Stage, state: State, tasks: str = "") -> str:
    """Of an array how many of its elements are done, in whichever jobs; `tasks`: of a sweep's by Slurm's word."""
    if stage.array:
        return str(disk.record(stage).get("done", f"0/{len(stage.array)} done"))
    return tasks or (progress_in(last_words(disk.attempts(stage))) if state == "running" else "")
