"""An array as one stage: which element a job does, which are missing, and what their records say together.

An array has as many Slurm jobs as elements, or fewer where the site allows no more: then job `i` of `n` does every n-th
element, from the i-th on, one after the other. Without an array (on this machine, in a sweep) one job does them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcllm.cluster.profile import Profile, frozen_profile
from hpcllm.errors import UserError
from hpcllm.job.spec import AnyJob, frozen_any_job
from hpcllm.launch.key import is_current, stage_key
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.run_directory import Run, read_json
from hpcllm.units import as_ranges

Record = Mapping[str, Any]

MAX_ARRAY_SIZE = 1001  # Slurm's own, where the profile is silent (MaxArraySize in slurm.conf(5)): indexes up to 1000


@dataclass(frozen=True)
class Part:
    """What one job of an array does: `3/8` is the fourth of eight."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Raises UserError."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise UserError(f"--part: found {text!r}; expected I/N, such as 3/8: the fourth of eight")
        return cls(int(number), int(of))

    def elements(self, stage: Stage) -> tuple[Stage, ...]:
        """Its elements, in order."""
        return stage.elements[self.number :: self.of]


def array_size(profile: Profile, job: AnyJob, stage: Stage) -> int:
    """How many jobs a stage is: an element each, as far as the site lets one person queue so many; 1: no array."""
    if not stage.array:
        return 1
    rows = stages(job)
    arrays = sum(bool(row.array) for row in rows)
    most = most_submitted(profile, job)
    room = max(1, (most - (len(rows) - arrays)) // arrays) if most else len(stage.array)
    return min(len(stage.array), profile.scheduler.max_array_size or MAX_ARRAY_SIZE, room)


def jobs_of_array(run: Run, stage: Stage) -> int:
    """The same of a run that is rendered."""
    return array_size(frozen_profile(run), frozen_any_job(run), stage) if stage.array else 1


def most_submitted(profile: Profile, job: AnyJob) -> int | None:
    """How many jobs one person may have in the queue; None where no limit is known."""
    _, queue = profile.partition(job.slurm.partition)
    qos = profile.scheduler.qos.get(job.slurm.qos or (queue.qos if queue else None) or "")
    known = (profile.scheduler.max_submitted, queue and queue.max_submitted, qos and qos.max_submitted)
    return min((limit for limit in known if limit), default=None)


def indexes(size: int, at_a_time: int | None, missing: Sequence[int] = ()) -> str:
    """As sbatch reads them: `0-7%2`, and of some jobs alone `3,5`."""
    return as_ranges(missing or range(size)) + (f"%{at_a_time}" if at_a_time else "")


def missing_jobs(run: Run, stage: Stage, size: int) -> list[int]:
    """The jobs of an array that have something to do. Never none: where all is done, one puts it together."""
    key = stage_key(run, stage)
    left = {i % size for i, element in enumerate(stage.elements) if not _is_done(run, element, key)}
    return sorted(left) or [0]


def is_done(run: Run, stage: Stage) -> bool:
    """Whether a stage, with each element, is done as the job and the code are now, and its files are there."""
    there = all((run.root / name).exists() for name in stage.makes)
    return there and are_done(run, stage, stage.elements)


def are_done(run: Run, stage: Stage, elements: Sequence[Stage]) -> bool:
    """Whether each of these elements of a stage is done."""
    key = stage_key(run, stage)
    return all(_is_done(run, element, key) for element in elements)


def _is_done(run: Run, element: Stage, key: str) -> bool:
    path = run.state_json(element.id)
    record = read_json(path) if path.exists() else {}
    return record.get("outcome") == "done" and is_current(run, element, record, key)


def together(stage: Stage, records: Sequence[Record]) -> Record:
    """What the elements say of themselves as one record; empty where none has begun.

    One that is at work tells, else one that failed or was interrupted; `id` is its name. Done is what is done in all.
    """
    begun = [(element, record) for element, record in zip(stage.elements, records, strict=True) if record]
    if not begun:
        return {}
    num_done = sum(record["outcome"] == "done" for _, record in begun)
    tells = (
        pair for outcome in ("running", "failed", "interrupted") for pair in begun if pair[1]["outcome"] == outcome
    )
    element, shown = next(tells, max(begun, key=lambda pair: pair[1]["end"] or 0))
    over = shown["outcome"] == "done" and num_done < len(records)  # nobody is at the others
    message = f"element {element.element} ({said(element)}): {shown['message']}" if shown["message"] else ""
    return {
        **shown,
        "id": element.id,
        "job_id": shown["job_id"] if shown.get("part") is None else _array_of(shown["job_id"]),
        "outcome": "interrupted" if over else shown["outcome"],
        "message": "" if over else message,
        "start": min(record["start"] for _, record in begun),
        "last_start": max(record["start"] for _, record in begun),
        "end": None if shown["outcome"] == "running" else max(record["end"] or 0 for _, record in begun),
        "hosts": list(dict.fromkeys(host for _, record in begun for host in record["hosts"])),
        "attempt": max(record["attempt"] for _, record in begun),
        "done": f"{num_done}/{len(records)} done",
    }


def log_id(stage: Stage, record: Record) -> str:
    """What the logs are called of the job that wrote a record: `40-evaluate_3` of an array, else the stage's id."""
    return stage.id + (f"_{record['part'].partition('/')[0]}" if record.get("part") else "")


def log_ids(run: Run, stage: Stage) -> list[str]:
    """What its logs are called: of an array those of the job that failed, else of any."""
    if not stage.array:
        return every_log_id(stage)
    paths = [run.state_json(element.id) for element in stage.elements]
    record = together(stage, [read_json(path) if path.exists() else {} for path in paths])
    if record.get("outcome") == "failed":
        return [log_id(stage, record)]
    return every_log_id(stage)


def every_log_id(stage: Stage) -> list[str]:
    """What its logs may be called: by its own id, and those of the jobs of an array."""
    return list(dict.fromkeys([stage.id, *(element.id for element in stage.elements)]))


def said(element: Stage) -> str:
    """What an element is, in words: `checkpoint 1, task bleu`."""
    own = {key: value for key, value in element.options.items() if key != "model"}
    return ", ".join(f"{key} {value}" for key, value in own.items())


def _array_of(job_id: str | None) -> str | None:
    return job_id.partition("_")[0] if job_id else None
