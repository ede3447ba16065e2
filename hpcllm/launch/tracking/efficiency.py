"""What the jobs of a run took and used, by Slurm's accounting: one query for every attempt of every stage."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpcllm.errors import HpcllmError, UserError
from hpcllm.launch.submission.chain import SEPARATOR
from hpcllm.launch.tracking.on_disk import submitted
from hpcllm.launch.tracking.slurm import slurm
from hpcllm.launch.tracking.states import STATES
from hpcllm.run_directory import Run

# sacct(1). A job's own row, then a row for each of its steps; memory is known of the steps alone.
_FIELDS = "JobID,State,Eligible,Start,ElapsedRaw,TotalCPU,CPUTimeRAW,TRESUsageInTot,AllocTRES"
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


@dataclass(frozen=True)
class Use:
    """What one stage took, over all of its attempts."""

    stage: str
    attempts: tuple[str, ...]
    """How each start ended, oldest first: `preempted`, `done`."""
    waited_s: float
    """In the queue, from when nothing but the queue kept it."""
    ran_s: float
    cpu_hours: float
    """Allocated: cores (or hardware threads, as the site counts) times time."""
    cpu_fraction: float | None
    """Of the allocated time of the CPUs, that in which they worked."""
    memory_bytes: float | None
    """At most, by all ranks of a step together."""
    memory_fraction: float | None
    """Of the memory that was allocated."""
    gpu_hours: float
    """Allocated."""


@dataclass(frozen=True)
class _Start:
    """One start of one job, of accounting's rows."""

    state: str
    waited_s: float
    ran_s: float
    cpu_s: float
    cpu_allocated_s: float
    gpus: int
    memory_bytes: float
    memory_allocated_bytes: float


def efficiency(run: Run) -> list[Use]:
    """What every submitted stage used so far. Raises HpcllmError where no accounting tells."""
    entries = [(entry, stage) for stage, found in submitted(run).items() for entry in found]
    stage_of = {job_id: stage for entry, stage in entries for job_id in entry.split(SEPARATOR)}
    if not stage_of:
        raise UserError(f"{run.root}: nothing of it was submitted to Slurm; hpcllm submit {shlex.quote(str(run.root))}")
    command = [
        "sacct",
        "--duplicates",
        "--parsable2",
        "--noheader",
        f"--format={_FIELDS}",
        f"--jobs={','.join(stage_of)}",
    ]
    done = slurm(command)
    if done.returncode:
        raise HpcllmError(f"sacct: {done.stderr.strip()}: without accounting nobody knows what the jobs used")
    starts: dict[str, list[_Start]] = {}
    for job_id, start in _starts(done.stdout):
        stage = stage_of.get(job_id) or stage_of.get(job_id.split("_")[0])  # one task of an array, or all of it
        if stage:
            starts.setdefault(stage, []).append(start)
    if not starts:
        raise HpcllmError(f"{run.root}: accounting knows nothing of its jobs yet; try again in a minute")
    return [_use(stage, starts[stage]) for stage in dict.fromkeys(stage_of.values()) if stage in starts]


def _use(stage: str, starts: Sequence[_Start]) -> Use:
    allocated_s = sum(start.cpu_allocated_s for start in starts)
    largest = max(starts, key=lambda start: start.memory_bytes)
    return Use(
        stage,
        tuple(start.state for start in starts),
        sum(start.waited_s for start in starts),
        sum(start.ran_s for start in starts),
        allocated_s / 3600,
        sum(start.cpu_s for start in starts) / allocated_s if allocated_s else None,
        largest.memory_bytes or None,
        largest.memory_bytes / largest.memory_allocated_bytes if largest.memory_allocated_bytes else None,
        sum(start.gpus * start.ran_s for start in starts) / 3600,
    )


def _starts(said: str) -> Iterable[tuple[str, _Start]]:
    """Each start with the id of its job. A job's steps stand behind it, until the next job."""
    rows = [line.split("|") for line in said.splitlines() if line.count("|") == _FIELDS.count(",")]
    jobs = [number for number, row in enumerate(rows) if "." not in row[0]]
    for at, end in zip(jobs, [*jobs[1:], len(rows)], strict=False):
        yield rows[at][0], _start(rows[at], rows[at + 1 : end])


def _start(job: Sequence[str], steps: Sequence[Sequence[str]]) -> _Start:
    _, word, eligible, start, ran, cpu, allocated, _, tres = job
    state = word.split(" ")[0]
    return _Start(
        STATES.get(state, "pending") if state != "REQUEUED" else "requeued",
        max(float(start) - float(eligible), 0.0) if start.isdecimal() and eligible.isdecimal() else 0.0,
        float(ran or 0),
        cpu_seconds(cpu),
        float(allocated or 0),
        int(_tres(tres, "gres/gpu")),
        max((_tres(step[7], "mem") for step in steps), default=0.0),
        _tres(tres, "mem"),
    )


def cpu_seconds(text: str) -> float:
    """sacct's TotalCPU, `[DD-[HH:]]MM:SS[.mmm]`, in seconds: `1-02:03:04` is 93784."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":") if clock else []:
        seconds = seconds * 60 + float(part)
    return seconds + 86_400 * int(days or 0)


def _tres(text: str, name: str) -> float:
    """One quantity of `cpu=4,mem=8000M,gres/gpu=2`; 0 where it is not there."""
    found = re.search(rf"(?:^|,){name}=([\d.]+)([KMGTP]?)", text)
    return float(found[1]) * _SCALE[found[2]] if found else 0.0
