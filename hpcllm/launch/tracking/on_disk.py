"""What a run directory tells before anybody is asked: each of its files read once, however many stages want it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpcllm.job.spec import AnyJob, any_job_in
from hpcllm.launch.array import Record, log_id, together
from hpcllm.launch.key import is_current, keys_of
from hpcllm.launch.pipeline import Stage, stages
from hpcllm.launch.tracking.logs import logs_by_stage
from hpcllm.run_directory import Run, read_json


@dataclass(frozen=True)
class OnDisk:
    """A run directory as it was when it was read."""

    run: Run
    resolved: Mapping[str, Any]
    job: AnyJob
    stages: tuple[Stage, ...]
    submitted: Mapping[str, Sequence[str]]
    """The Slurm job ids of each stage by its name, oldest first."""
    records: Mapping[str, Record]
    """What each stage, or element of an array, said of itself, by its id; of those that said something."""
    logs: Mapping[str, Sequence[Path]]
    """Of each attempt, oldest first, by the stage's id."""

    @classmethod
    def of(cls, run: Run) -> OnDisk:
        """A run, read now. Raises HpcllmError for a damaged one."""
        resolved = run.resolved()
        job = any_job_in(resolved, run)
        rows = stages(job)
        paths = {one.id: run.state_json(one.id) for stage in rows for one in stage.elements}
        records = {stage_id: read_json(path) for stage_id, path in paths.items() if path.exists()}
        return cls(run, resolved, job, rows, submitted(run), records, logs_by_stage(run))

    def record(self, stage: Stage) -> Record:
        """What a stage said of itself, of an array its elements together; empty of one that said nothing."""
        found = [self.records.get(one.id, {}) for one in stage.elements]
        return together(stage, found) if stage.array else found[0]

    def log_id(self, stage: Stage) -> str:
        """What the logs are called that tell how a stage is: of an array those of one of its jobs."""
        return log_id(stage, self.record(stage))

    def attempts(self, stage: Stage) -> Sequence[Path]:
        """The logs of a stage's attempts."""
        return self.logs.get(self.log_id(stage), ())

    def is_current(self, stage: Stage) -> bool:
        """Whether what is done is done as job and code are now, and its files are there. A command has no key."""
        key = self.keys[stage.name]
        found = [(one, self.records.get(one.id)) for one in stage.elements]
        made = all((self.run.root / name).exists() for name in stage.makes)
        return made and all(
            record is not None and (record["key"] is None or is_current(self.run, one, record, key))
            for one, record in found
        )

    @property
    def job_ids(self) -> dict[str, str]:
        """The latest job of each stage by its name; a chain is one."""
        return {name: ids[-1] for name, ids in self.submitted.items() if ids}

    @property
    def asked(self) -> list[str]:
        """The jobs that tell how the run is: the latest of each stage, by whomever it was submitted."""
        by_hand = [own for stage in self.stages if (own := unfinished_job_id(self.record(stage)))]
        return list(dict.fromkeys([*self.job_ids.values(), *by_hand]))

    @cached_property
    def keys(self) -> dict[str, str]:
        """The key of every stage by its name: what is done by another one is out of date."""
        return keys_of(self.resolved["job"], read_json(self.run.software_json), self.job)


def submitted(run: Run) -> dict[str, list[str]]:
    """The Slurm job ids of each stage, oldest first (jobs.json); several jobs in turn are a chain, `5:6:7`."""
    jobs: dict[str, list[str]] = read_json(run.jobs_json) if run.jobs_json.exists() else {}
    return jobs


def unfinished_job_id(record: Record) -> str | None:
    """The job that wrote a record, where it may be queued or running: a job by hand stands in no jobs.json."""
    return record["job_id"] if record.get("outcome") in ("running", "interrupted") else None
