"""What the jobs of runs took and used, by Slurm's accounting: one query for every attempt of every stage of all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcllm.errors import HpcllmError, UserError
from hpcllm.launch.submission.chain import SEPARATOR
from hpcllm.launch.tracking.on_disk import submitted
from hpcllm.launch.tracking.slurm import slurm, whole_arrays
from hpcllm.launch.tracking.states import STATES
from hpcllm.run_directory import Run

# sacct(1). A job's own row, then a row for each of its steps; memory is known of the steps alone.
_FIELDS = "JobID,State,Eligible,Start,ElapsedRaw,TotalCPU,CPUTimeRAW,TRESUsageInTot,AllocTRES"
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


NOTHING_YET = "Slurm's accounting knows nothing of its jobs: it is behind by a minute, or has forgotten them"


@dataclass(frozen=True)
class Use:
    """What a stage, a run or a sweep took, over all of its attempts."""

    name: str
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


@dataclass(frozen=True)
class Accounted:
    """What accounting says of a run."""

    stages: tuple[Use, ...] = ()
    total: Use | None = None
    why_not: str = ""
    """In a sentence, where it says nothing; empty too of a run that never went to Slurm."""

    @property
    def rows(self) -> tuple[Use, ...]:
        """Each stage, and all of them together where they are several."""
        return (*self.stages, *([self.total] if self.total and len(self.stages) > 1 else []))


def efficiency(run: Run) -> list[Use]:
    """What every submitted stage used so far, and in all. Raises HpcllmError where no accounting tells."""
    (starts,) = _starts_of([run])
    found = _accounted(run, starts)
    if not found.total:
        raise _unknown(run.root, [run])
    return list(found.rows)


def efficiency_of_runs(root: Path, runs: Sequence[Run]) -> list[Use]:
    """What every run of a sweep used so far, and in all. Raises HpcllmError where no accounting tells of any."""
    starts = _starts_of(runs)
    each = [_in_all(run.root.name, found) for run, found in zip(runs, starts, strict=True) if found]
    if not each:
        raise _unknown(root, runs)
    return [*each, _in_all("in all", *starts)]


def accounted(runs: Sequence[Run]) -> list[Accounted]:
    """What is known of each run, by one query for all of them; or why accounting does not say."""
    try:
        found = _starts_of(runs)
    except HpcllmError as error:
        return [Accounted(why_not=str(error) if run.jobs_json.exists() else "") for run in runs]
    return [_accounted(run, starts) for run, starts in zip(runs, found, strict=True)]


def _accounted(run: Run, starts: Mapping[str, Sequence[_Start]]) -> Accounted:
    if not starts:
        return Accounted(why_not=NOTHING_YET if submitted(run) else "")
    return Accounted(tuple(_use(stage, found) for stage, found in starts.items()), _in_all("in all", starts))


def _unknown(root: Path, runs: Sequence[Run]) -> HpcllmError:
    if any(map(submitted, runs)):
        return HpcllmError(f"{root}: {NOTHING_YET}")
    return UserError(f"{root}: nothing of it was submitted to Slurm; hpcllm submit {shlex.quote(str(root))}")


def _starts_of(runs: Sequence[Run]) -> list[dict[str, list[_Start]]]:
    """Every start of every stage of each run; raises HpcllmError where accounting does not answer.

    A job that several runs of a sweep share counts for the first of them.
    """
    owner: dict[str, tuple[int, str]] = {}
    for number, run in enumerate(runs):
        for stage, entries in submitted(run).items():
            for job_id in (one for entry in entries for one in entry.split(SEPARATOR)):
                owner.setdefault(job_id, (number, stage))
    found = [dict[str, list[_Start]]() for _ in runs]
    for job_id, start in _starts(_sacct(list(owner))) if owner else ():
        place = owner.get(job_id) or owner.get(job_id.split("_")[0])  # one task of an array, or all of it
        if place:
            found[place[0]].setdefault(place[1], []).append(start)
    return [{stage: found[i][stage] for stage in submitted(run) if stage in found[i]} for i, run in enumerate(runs)]


def _sacct(job_ids: Sequence[str]) -> str:
    form = ["--duplicates", "--parsable2", "--noheader", f"--format={_FIELDS}"]
    done = slurm(["sacct", *form, f"--jobs={','.join(whole_arrays(job_ids))}"])
    if done.returncode:
        raise HpcllmError(f"sacct: {done.stderr.strip()}: without accounting nobody knows what the jobs used")
    return done.stdout


def _in_all(name: str, *runs: Mapping[str, Sequence[_Start]]) -> Use:
    starts = [start for run in runs for found in run.values() for start in found]
    return _use(name, sorted(starts, key=lambda start: start.state))


def _use(name: str, starts: Sequence[_Start]) -> Use:
    allocated_s = sum(start.cpu_allocated_s for start in starts)
    largest = max(starts, key=lambda start: start.memory_bytes)
    return Use(
        name,
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
