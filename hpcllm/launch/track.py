"""What became of each stage: one question to Slurm, and the records that the stages themselves wrote."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcllm.errors import HpcllmError
from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.key import is_current
from hpcllm.launch.pipeline import Stage, find_stage, stages
from hpcllm.launch.process import writer_lives
from hpcllm.launch.slurm import SlurmJob, State, query, slurm
from hpcllm.progress import Progress
from hpcllm.run_directory import Run, read_json

FORGOTTEN_AFTER_S = 60.0  # for so long after a submission squeue may not know the job yet
TAIL_BYTES = 16_384

ALIVE: tuple[State, ...] = ("waiting", "pending", "running")

_ADVICE: dict[State, str] = {
    "failed": "read hpcllm logs RUN STAGE, mend it, then hpcllm submit RUN",
    "interrupted": "hpcllm submit RUN goes on where it stopped",
    "cancelled": "hpcllm submit RUN goes on where it stopped",
    "preempted": "hpcllm submit RUN goes on where it stopped",
    "out of date": "hpcllm submit RUN does it again",
    "timeout": "it had no time to save: render with a longer resources.time, or save more often",
    "out of memory": "render with a smaller train.micro_batch, or on more nodes",
    "node failure": "hpcllm submit RUN goes on; slurm.directives: {exclude: NODE} leaves a bad node out",
}
_MEMORY_WORDS = re.compile(r"oom[-_ ]kill|out of memory|exceeded .*memory limit", re.IGNORECASE)


@dataclass(frozen=True)
class StageStatus:
    """One stage, now."""

    stage: str
    job_id: str | None
    """Slurm's id of its latest job, by whomever it was submitted."""
    state: State
    since: float | None
    """When that state began, in seconds since 1970."""
    elapsed_s: float | None
    """How long it has run, or ran."""
    nodes: str
    progress: str
    """How far it is, while it runs: `120/1000 loss 3.21`."""
    reason: str
    advice: str
    """What to do, where something is to be done."""


def status(run: Run) -> list[StageStatus]:
    """Every stage in order, by one batched query of the scheduler. Raises HpcllmError for a damaged run directory."""
    rows = stages(frozen_any_job(run))
    job_ids = {name: ids[-1] for name, ids in submitted(run).items() if ids}
    by_hand = [own for stage in rows if (own := _unfinished_job_id(_record(run, stage)))]
    asked = list(dict.fromkeys([*job_ids.values(), *by_hand]))
    known = query(asked) if asked else {}
    found: dict[str, StageStatus] = {}
    for stage in rows:
        blocked = any(found[name].state != "done" for name in stage.after)
        now = _status_of(run, stage, job_ids.get(stage.name), known, blocked)
        found[stage.name] = _out_of_date(run, stage, now) if _is_outdated(run, stage, now) else now
    return list(found.values())


def submitted(run: Run) -> dict[str, list[str]]:
    """The Slurm job ids of each stage, oldest first (jobs.json)."""
    jobs: dict[str, list[str]] = read_json(run.jobs_json) if run.jobs_json.exists() else {}
    return jobs


def cancel(run: Run) -> str:
    """Cancel what is queued or running, or tell the stage in another shell's foreground to save. Says what it did."""
    alive = [found for found in status(run) if found.state in ALIVE]
    job_ids = [found.job_id for found in alive if found.job_id]
    if job_ids:
        done = slurm(["scancel", *job_ids])
        if done.returncode:
            raise HpcllmError(f"scancel: {done.stderr.strip()}")
    here = [found for found in alive if not found.job_id and found.state == "running" and _tell_to_stop(run, found)]
    names = ", ".join(found.stage for found in alive if found.job_id) or ", ".join(found.stage for found in here)
    return f"cancelled {names}" if names else "nothing of this run is queued or running here"


def logs(run: Run, stage_name: str | None = None) -> str:
    """The latest log of a stage; left out, of the one that said something last. What Slurm said stands behind it."""
    job = frozen_any_job(run)
    stage_ids = [find_stage(job, stage_name).id] if stage_name else [stage.id for stage in stages(job)]
    found = [path for stage_id in stage_ids for path in log_files(run, stage_id)[-1:]]
    spoken = [path for path in map(run.slurm_log, stage_ids) if path.exists() and path.stat().st_size]
    if not found and not spoken:
        raise HpcllmError(f"{run.logs}: no log of {stage_name or 'any stage'} yet; hpcllm status {run.root} says why")
    latest = max(found or spoken, key=lambda path: path.stat().st_mtime)
    slurm_said = run.slurm_log(latest.name.split(".")[0])
    paths = [latest, *([slurm_said] if slurm_said in spoken and slurm_said != latest else [])]
    return "".join(f"==> {path}\n{path.read_text(encoding='utf-8', errors='replace')}" for path in paths)


def log_files(run: Run, stage_id: str) -> list[Path]:
    """The logs of a stage's attempts, oldest first."""
    found = [path for path in run.logs.glob(f"{stage_id}.*.log") if path.name.split(".")[-2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.split(".")[-2]))


# ---- one stage -------------------------------------------------------------------------------------------------------


def _status_of(run: Run, stage: Stage, job_id: str | None, known: dict[str, SlurmJob], blocked: bool) -> StageStatus:
    record = _record(run, stage)
    job, own = known.get(job_id or ""), known.get(_unfinished_job_id(record) or "")
    if job and not job.forgotten and not _is_newer(record, job):
        return _by_slurm(run, stage, job, record, blocked)
    if own and not own.forgotten and not _is_over_in(own, record):
        return _by_slurm(run, stage, own, record, blocked)
    if record:
        return _by_record(run, stage, job_id, record)
    if job and time.time() - run.jobs_json.stat().st_mtime > FORGOTTEN_AFTER_S:
        return _filled(run, stage, job_id, job.state, None, None, "", job.reason)
    state: State = "waiting" if blocked or not job_id else "pending"
    return StageStatus(stage.name, job_id, state, None, None, "", "", "" if job_id else "not submitted", "")


def _is_newer(record: dict[str, Any], job: SlurmJob) -> bool:
    """Whether the stage ran since that job ended, in the foreground or by a script submitted by hand."""
    return bool(record and record["job_id"] != job.job_id and job.end_s is not None and record["start"] > job.end_s)


def _unfinished_job_id(record: dict[str, Any]) -> str | None:
    """The job that wrote a record, where it may be queued or running: a job by hand stands in no jobs.json."""
    return record["job_id"] if record.get("outcome") in ("running", "interrupted") else None


def _is_over_in(job: SlurmJob, record: dict[str, Any]) -> bool:
    """Whether the stage has ended since that job began: in an allocation that goes on without it."""
    return bool(record["end"] and job.start_s is not None and job.start_s <= record["end"])


def _is_outdated(run: Run, stage: Stage, now: StageStatus) -> bool:
    """Whether what is done was done for another job or by other code, or was deleted. A command has no key."""
    record = _record(run, stage) if now.state == "done" and stage.program else {}
    return bool(record) and not is_current(run, stage, record)


def _out_of_date(run: Run, stage: Stage, done: StageStatus) -> StageStatus:
    reason = "done for another job or by other code, or its files were deleted"
    return replace(done, state="out of date", reason=reason, advice=_advice(run, stage, "out of date"))


def _advice(run: Run, stage: Stage, state: State) -> str:
    """What to do; a run that was rendered for this machine goes on by `hpcllm run`."""
    advice = _ADVICE.get(state, "").replace("RUN", shlex.quote(str(run.root))).replace("STAGE", stage.name)
    local = run.resolved()["profile"]["scheduler"]["kind"] == "local"
    return advice.replace("hpcllm submit", "hpcllm run") if local else advice


def _by_slurm(run: Run, stage: Stage, job: SlurmJob, record: dict[str, Any], blocked: bool) -> StageStatus:
    state = job.state
    if state == "pending" and blocked:
        state = "waiting"
    if state == "failed" and job.exit_code == 75:
        state = "interrupted"
    if state == "failed" and _MEMORY_WORDS.search(_tail(run.slurm_log(stage.id)) + _last_words(run, stage)):
        state = "out of memory"
    end_s = time.time() if state == "running" else job.end_s
    elapsed_s = end_s - job.start_s if end_s is not None and job.start_s is not None else None
    reason = _why(job, state, record)
    since = job.start_s if state == "running" else job.end_s
    return _filled(run, stage, job.job_id, state, since, elapsed_s, job.nodes, reason)


def _why(job: SlurmJob, state: State, record: dict[str, Any]) -> str:
    """Why it waits, in Slurm's words, or why it ended, in the stage's own."""
    if state == "pending":
        return job.reason
    if state in (*ALIVE, "done"):
        return ""
    said = str(record["message"]) if record.get("job_id") == job.job_id else ""
    return said or (f"exit code {job.exit_code}" if job.exit_code else "")


def _by_record(run: Run, stage: Stage, job_id: str | None, record: dict[str, Any]) -> StageStatus:
    state: State = record["outcome"]
    reason = record["message"]
    if state == "running" and not writer_lives(run.state_json(stage.id), record):
        state, reason = "failed", f"killed on {record['host']} without a word"
    end_s = record["end"] or (time.time() if state == "running" else run.state_json(stage.id).stat().st_mtime)
    since = record["start"] if state == "running" else end_s
    nodes = ",".join(record["hosts"])
    return _filled(run, stage, record["job_id"] or job_id, state, since, end_s - record["start"], nodes, reason)


def _filled(
    run: Run, stage: Stage, job_id: str | None, state: State, since: float | None, elapsed_s: float | None, nodes: str,
    reason: str,
) -> StageStatus:  # fmt: skip
    progress = _progress(run, stage) if state == "running" else ""
    advice = _advice(run, stage, state)
    return StageStatus(stage.name, job_id, state, since, elapsed_s, nodes, progress, reason, advice)


def _record(run: Run, stage: Stage) -> dict[str, Any]:
    path = run.state_json(stage.id)
    record: dict[str, Any] = read_json(path) if path.exists() else {}
    return record


def _tell_to_stop(run: Run, found: StageStatus) -> bool:
    record = _record(run, find_stage(frozen_any_job(run), found.stage))
    if record["host"] != socket.gethostname():
        return False
    try:
        os.kill(record["pid"], signal.SIGTERM)
    except (ProcessLookupError, PermissionError):  # over by now, or another user's
        return False
    return True


def _progress(run: Run, stage: Stage) -> str:
    lines = _last_words(run, stage).splitlines()
    found = next((progress for line in reversed(lines) if (progress := Progress.parse(line))), None)
    return f"{found.done}/{found.total} {found.text}".strip() if found else ""


def _last_words(run: Run, stage: Stage) -> str:
    paths = log_files(run, stage.id)
    return _tail(paths[-1]) if paths else ""


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")
