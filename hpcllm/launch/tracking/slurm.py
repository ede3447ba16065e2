"""What Slurm says of jobs: each source asked once for all of them, and its words turned into ours.

squeue     what is queued or runs now, and what ended less than MinJobAge (300 s by default) ago
sacct      what has ended, for months, and who cancelled it; it lags squeue by seconds, and some sites have none
scontrol   the same as squeue, where that is not allowed or broken
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpcllm.errors import HpcllmError, UserError
from hpcllm.launch.submission.chain import SEPARATOR
from hpcllm.launch.tracking.states import ALIVE, STATES, State

COMMAND_TIMEOUT_S = 30.0
QUERY_TIMEOUT_S = 5.0  # a person waits; Slurm's own commands try for 9 to 18 s where no controller answers

_NOTHING = ("None", "(null)", "None assigned")
_WHY_NOT = {FileNotFoundError: "not found", PermissionError: "may not be run"}
_SEPARATOR = "|"
# The same facts in the words of each. Slurm 20.11 or newer: with a suffix behind squeue's fields none of them is cut.
_FACTS = ["job_id", "state", "submit", "start", "end", "nodes", "exit_code", "reason", "restarts"]
_SQUEUE = ["JobArrayID", "State", "SubmitTime", "StartTime", "EndTime", "NodeList", "exit_code", "Reason", "RestartCnt"]
_SACCT = ["JobID", "State", "Submit", "Start", "End", "NodeList", "ExitCode", "Reason"]
_SCONTROL = ["JobId", "JobState", "SubmitTime", "StartTime", "EndTime", "NodeList", "ExitCode", "Reason", "Restarts"]


@dataclass(frozen=True)
class SlurmJob:
    """One job as Slurm knows it. Times are in seconds since 1970."""

    job_id: str
    state: State
    start_s: float | None = None
    """When it began; while it waits, when Slurm expects it to begin."""
    end_s: float | None = None
    nodes: str = ""
    """As Slurm writes them: n[1-4]."""
    reason: str = ""
    """Why it waits or ended, in Slurm's words."""
    exit_code: int | None = None
    submit_s: float | None = None
    restarts: int = 0
    """How often Slurm has started it again; 0 too where nobody says."""
    cancelled_by: str = ""
    """Name of the user who did."""
    tasks: str = ""
    """Of an array: how many of its tasks are done, `3/8 tasks`."""
    forgotten: bool = False
    """squeue answers and nobody knows it: it is neither queued nor running, and what became of it is lost."""


@dataclass(frozen=True)
class Answer:
    """What is known of jobs."""

    jobs: dict[str, SlurmJob]
    """By the id that was asked for."""
    silence: str = ""
    """In Slurm's words why it does not answer, where a job may have gone on since."""


def query(job_ids: Sequence[str]) -> dict[str, SlurmJob]:
    """Jobs by id, of those that anybody still knows."""
    return ask(job_ids).jobs


def ask(job_ids: Sequence[str]) -> Answer:
    """Every source once, and each only where the ones before left something open.

    An id is a job's, `12`, an array's, also `12`, which stands for all of its tasks, one task's, `12_3`, or a chain's,
    `12:13:14`, which stands for that of its jobs that says how far it is.
    """
    links = {job_id: job_id.split(SEPARATOR) for job_id in job_ids}
    answer = _ask(list(dict.fromkeys(one for ids in links.values() for one in ids)))
    known = {job_id: [answer.jobs[one] for one in ids if one in answer.jobs] for job_id, ids in links.items()}
    return replace(answer, jobs={job_id: _of_chain(jobs) for job_id, jobs in known.items() if jobs})


def _ask(job_ids: Sequence[str]) -> Answer:
    queue, silence = _squeue(job_ids)
    jobs = {job.job_id: job for job in queue}
    found = _pick(job_ids, jobs)
    over = [one for one in job_ids if one not in found or found[one].state not in ALIVE or found[one].tasks]
    for job in _sacct(over) if over else []:
        known = jobs.get(job.job_id)
        if not known or (known.state not in ALIVE and job.state not in ALIVE):
            jobs[job.job_id] = job
    found = _pick(job_ids, jobs)
    left = [one for one in job_ids if one not in found or (silence and found[one].state in ALIVE)]
    if left and silence and not _is_down(silence):
        queue, silence = _scontrol(left)
        found |= _pick(left, {job.job_id: job for job in queue})
    if silence:
        return Answer(found, silence if left else "")
    return Answer({one: _forgotten(one) for one in left} | found)


def slurm(command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands. Raises UserError where there is none, or it does not answer.

    A site's own wrapper around it goes down with it when the time is up; what a user has set for squeue's or sacct's
    output does not count.
    """
    theirs = ("SQUEUE_", "SACCT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**kept, "SLURM_TIME_FORMAT": "%s"},
            process_group=0,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(
            f"{command[0]}: {_WHY_NOT[type(error)]}: this machine has no Slurm; go to a login node of the cluster, "
            "or run the job here: hpcllm run"
        ) from None
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise UserError(f"{command[0]}: no answer within {timeout_s:.0f} s; try again") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def scancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs. Raises HpcllmError with Slurm's words where it does not, UserError where there is none."""
    done = slurm(["scancel", *job_ids])
    if done.returncode:
        raise HpcllmError(f"scancel: {done.stderr.strip().removeprefix('scancel: error: ')}")


# ---- the sources -----------------------------------------------------------------------------------------------------


def _squeue(job_ids: Sequence[str]) -> tuple[list[SlurmJob], str]:
    """Asked for one job that it does not know it fails, which is an answer too."""
    fields, asked = ",".join(f"{field}:{_SEPARATOR}" for field in _SQUEUE), ",".join(whole_arrays(job_ids))
    said, error = _said(["squeue", "--noheader", "--array", "--states=all", f"--Format={fields}", f"--jobs={asked}"])
    rows = _rows(said)
    return [_job({**row, "exit_code": _waited(row["exit_code"])}) for row in rows], error


def _sacct(job_ids: Sequence[str]) -> list[SlurmJob]:
    said, _ = _said(
        [
            "sacct",
            "--allocations",
            "--parsable",
            "--noheader",
            f"--format={','.join(_SACCT)}",
            f"--jobs={','.join(whole_arrays(job_ids))}",
        ]
    )
    return [_job({**row, "job_id": one}) for row in _rows(said) for one in _tasks(row["job_id"])]


def _scontrol(job_ids: Sequence[str]) -> tuple[list[SlurmJob], str]:
    """scontrol takes one job or all that there are."""
    said, error = _said(["scontrol", "--oneliner", "show", "job", *(job_ids if len(job_ids) == 1 else [])])
    jobs = []
    for line in said.splitlines():
        values = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", line))
        if "JobState" in values:
            row = {fact: values.get(name, "") for fact, name in zip(_FACTS, _SCONTROL, strict=True)}
            task = f"{values['ArrayJobId']}_[{values['ArrayTaskId']}]" if "ArrayTaskId" in values else row["job_id"]
            jobs += [_job({**row, "job_id": one}) for one in _tasks(task)]
    return jobs, error


def _rows(said: str) -> list[dict[str, str]]:
    """Lines of fields, each field with a separator behind it; any other line is a word to a person."""
    lines = [line.split(_SEPARATOR) for line in said.splitlines()]
    return [dict(zip(_FACTS, map(str.strip, line), strict=False)) for line in lines if len(line) > len(_SACCT)]


def _said(command: Sequence[str]) -> tuple[str, str]:
    """What a source says, and why it does not; another one may know."""
    try:
        done = slurm(command, QUERY_TIMEOUT_S)
    except UserError as error:
        return "", str(error)
    wrong = done.returncode and "Invalid job id" not in done.stderr
    return done.stdout, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if wrong else ""


def _is_down(silence: str) -> bool:
    """Whether it is the controller that does not answer, so that scontrol, which asks it too, need not be tried."""
    return "Unable to contact" in silence or "no answer within" in silence


# ---- one job ---------------------------------------------------------------------------------------------------------


def _job(facts: Mapping[str, str]) -> SlurmJob:
    word, _, rest = facts["state"].partition(" ")  # `CANCELLED by 1000`
    start_s, end_s = _time(facts["start"]), _time(facts["end"])
    known = STATES.get(word.rstrip("+"))
    state = known or _state_by_times(start_s, end_s)
    over = state not in ALIVE
    reason = facts["reason"] if known else f"Slurm says {word}, a word that is new to hpcllm"
    restarts = facts.get("restarts", "")
    return SlurmJob(
        facts["job_id"],
        state,
        start_s,
        end_s if over else None,
        "" if facts["nodes"] in _NOTHING else facts["nodes"],
        "" if reason in _NOTHING else reason,
        _exit_code(facts["exit_code"]) if over else None,
        _time(facts["submit"]),
        int(restarts) if restarts.isdecimal() else 0,
        _user(rest.removeprefix("by ")),
    )


def _forgotten(job_id: str) -> SlurmJob:
    return SlurmJob(job_id, "cancelled", reason="Slurm has forgotten it, and it never began", forgotten=True)


def _state_by_times(start_s: float | None, end_s: float | None) -> State:
    """What a state that the table has not must be: a job that may live is not called over, nor one that ended alive."""
    now_s = time.time()
    if end_s is not None and end_s <= now_s:
        return "failed"
    return "running" if start_s is not None and start_s <= now_s else "pending"


def _waited(status: str) -> str:
    """squeue's exit code is that of wait(2): 19200 is 75:0, 9 is 0:9."""
    return f"{int(status) >> 8}:{int(status) & 127}" if status.isdecimal() else status


def _exit_code(text: str) -> int | None:
    """`75:0` is exit code 75; `0:9` was signal 9, for which a shell says 137."""
    matched = re.fullmatch(r"(\d+):(\d+)", text)
    return None if not matched else int(matched[1]) or (128 + int(matched[2]) if int(matched[2]) else 0)


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _user(uid: str) -> str:
    """The name of a user; the number where this machine has none for it."""
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (ValueError, KeyError):
        return f"uid {uid}" if uid else ""


# ---- arrays ----------------------------------------------------------------------------------------------------------


def whole_arrays(job_ids: Sequence[str]) -> list[str]:
    """What to ask for: several tasks of an array as the array. One argument may not hold ten thousand."""
    tasks = Counter(one.split("_")[0] for one in job_ids)
    return list(dict.fromkeys(array if tasks[array := one.split("_")[0]] > 1 else one for one in job_ids))


def _tasks(job_id: str) -> list[str]:
    """`12_[0,4-8:2%3]`, the tasks of an array that wait together, one by one: 12_0, 12_4, 12_6, 12_8."""
    matched = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job_id)
    if not matched:
        return [job_id]
    numbers: list[int] = []
    for part in matched[2].split(","):
        first, last, step = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part).groups()  # type: ignore[union-attr]
        numbers += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{matched[1]}_{number}" for number in numbers]


def _pick(job_ids: Sequence[str], jobs: Mapping[str, SlurmJob]) -> dict[str, SlurmJob]:
    """Those of the jobs that were asked for; an array's id is all of its tasks (sacct at first has it as one job)."""
    arrays: dict[str, list[SlurmJob]] = {}
    for job_id, job in jobs.items():
        if "_" in job_id:
            arrays.setdefault(job_id.split("_")[0], []).append(job)
    found = {one: _whole(one, arrays[one]) if one in arrays else jobs.get(one) for one in job_ids}
    return {one: job for one, job in found.items() if job}


def _whole(job_id: str, tasks: Sequence[SlurmJob]) -> SlurmJob:
    """An array as one job: alive while any task is, done when all are, else as the first task that went wrong."""
    done = [task for task in tasks if task.state == "done"]
    alive = [task for task in tasks if task.state in ALIVE]
    wrong = [task for task in tasks if task.state not in (*ALIVE, "done")]
    shown = next((task for task in alive if task.state == "running"), (alive or wrong or done)[0])
    begun = [task.start_s for task in tasks if task.start_s is not None and task.state != "pending"]
    ended = [task.end_s for task in tasks if task.end_s is not None]
    return replace(
        shown,
        job_id=job_id,
        state="running" if alive and begun and shown.state == "pending" else shown.state,
        start_s=min(begun, default=shown.start_s),
        end_s=None if alive else max(ended, default=None),
        nodes=",".join(dict.fromkeys(task.nodes for task in (alive or tasks) if task.nodes)),
        reason=f"task {shown.job_id.partition('_')[2]}" if wrong and not alive else shown.reason,
        tasks=f"{len(done)}/{len(tasks)} tasks",
    )


# ---- chains ----------------------------------------------------------------------------------------------------------


def _of_chain(jobs: Sequence[SlurmJob]) -> SlurmJob:
    """The job of a chain that says how far it is: the one done, running or next, else the last begun."""
    in_turn = [job for job in jobs if job.state == "done"] or [job for job in jobs if job.state == "running"]
    if found := in_turn or [job for job in jobs if job.state in ALIVE]:
        return found[0]
    return next((job for job in reversed(jobs) if job.start_s is not None), jobs[-1])
