"""What Slurm says of jobs: asked for all of them at once, of whoever knows, and its words turned into ours."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpcllm.errors import UserError

QUERY_TIMEOUT_S = 30.0

State = Literal[
    "waiting", "pending", "running", "done", "failed", "interrupted", "cancelled",
    "timeout", "out of memory", "node failure", "preempted", "out of date",
]  # fmt: skip

# Slurm's words are the long names under JOB STATE CODES in sacct(1) and squeue(1) of 23.11.
STATES: dict[str, State] = {
    "PENDING": "pending",
    "REQUEUED": "pending",
    "REQUEUE_FED": "pending",
    "REQUEUE_HOLD": "pending",
    "SPECIAL_EXIT": "pending",
    "RESV_DEL_HOLD": "pending",
    "CONFIGURING": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "STOPPED": "running",
    "SUSPENDED": "running",
    "RESIZING": "running",
    "COMPLETED": "done",
    "FAILED": "failed",
    "LAUNCH_FAILED": "node failure",
    "BOOT_FAIL": "node failure",
    "NODE_FAIL": "node failure",
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "preempted",
}


@dataclass(frozen=True)
class SlurmJob:
    """One job as Slurm knows it."""

    job_id: str
    state: State
    start_s: float | None
    """Seconds since 1970."""
    end_s: float | None
    nodes: str
    """As Slurm writes them: n[1-4]."""
    reason: str
    """Why it waits or ended, in Slurm's words."""
    exit_code: int | None
    forgotten: bool = False
    """squeue answers and does not know it: it is neither queued nor running, and nobody knows what became of it."""


def query(job_ids: Sequence[str]) -> dict[str, SlurmJob]:
    """Jobs by id, of those that anybody still knows, by one question for all to each who has to be asked.

    squeue knows what is queued or running now; accounting lags it by seconds, but keeps what has ended. Some sites have
    no accounting: then scontrol knows what ended less than MinJobAge (300 s by default) ago.
    """
    queued = _squeue(job_ids)
    found = {job.job_id: job for job in queued or [] if job.job_id in job_ids}
    for ask in (_sacct, _scontrol):
        missing = [job_id for job_id in job_ids if job_id not in found]
        if missing:
            found |= {job.job_id: job for job in ask(missing) if job.job_id in missing}
    missing = [job_id for job_id in job_ids if job_id not in found] if queued is not None else []
    return found | {job_id: _forgotten(job_id) for job_id in missing}


def slurm(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands. Raises UserError where there is none, or it does not answer."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=QUERY_TIMEOUT_S,
            check=False,
            env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]}: not found: this machine has no Slurm; go to a login node of the cluster, "
            "or run the job here: hpcllm run"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer within {QUERY_TIMEOUT_S:.0f} s; try again") from None


def _sacct(job_ids: Sequence[str]) -> list[SlurmJob]:
    fields = "JobIDRaw,State,Start,End,NodeList,Reason,ExitCode"
    command = ["sacct", "--allocations", "--parsable2", "--noheader", f"--format={fields}", f"--jobs={_list(job_ids)}"]
    return _rows(_answer(command))


def _squeue(job_ids: Sequence[str]) -> list[SlurmJob] | None:
    """None without an answer. Asked for one job that it does not know, it fails; that is an answer too."""
    try:
        done = slurm(["squeue", "--noheader", "--format=%i|%T|%S|%e|%N|%r|", f"--jobs={_list(job_ids)}"])
    except UserError:
        return None
    return _rows(done.stdout) if done.returncode == 0 or "Invalid job id" in done.stderr else None


def _scontrol(job_ids: Sequence[str]) -> list[SlurmJob]:
    """scontrol takes one job at a time, so it comes last."""
    names = ("JobId", "JobState", "StartTime", "EndTime", "NodeList", "Reason", "ExitCode")
    jobs = []
    for job_id in job_ids:
        said = _answer(["scontrol", "--oneliner", "show", "job", job_id])
        values = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", said))
        if "JobState" in values:
            jobs.append(_job([values.get(name, "") for name in names]))
    return jobs


def _rows(said: str) -> list[SlurmJob]:
    return [_job(line.split("|")) for line in said.splitlines() if line.count("|") >= 6]


def _answer(command: Sequence[str]) -> str:
    """What a query says, of the jobs that it knows; nothing where it fails, since another one may know."""
    try:
        done = slurm(command)
    except UserError:
        return ""
    return done.stdout


def _job(fields: Sequence[str]) -> SlurmJob:
    job_id, word, start, end, nodes, reason, exit_code = (field.strip() for field in fields[:7])
    state: State = STATES.get(word.split(" ")[0].rstrip("+"), "pending")  # `CANCELLED by 1000`
    running = state in ("running", "pending")
    return SlurmJob(
        job_id,
        state,
        None if state == "pending" else _time(start),
        None if running else _time(end),
        "" if nodes in ("None assigned", "(null)") else nodes,
        "" if reason in ("None", "(null)") else reason,
        None if running else _exit_code(exit_code),
    )


def _forgotten(job_id: str) -> SlurmJob:
    reason = "Slurm has forgotten it, and it never began"
    return SlurmJob(job_id, "cancelled", None, None, "", reason, None, forgotten=True)


def _exit_code(text: str) -> int | None:
    """`75:0` is exit code 75; `0:9` was signal 9, for which a shell says 137."""
    matched = re.fullmatch(r"(\d+):(\d+)", text)
    return None if not matched else int(matched[1]) or (128 + int(matched[2]) if int(matched[2]) else 0)


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _list(job_ids: Sequence[str]) -> str:
    return ",".join(job_ids)
