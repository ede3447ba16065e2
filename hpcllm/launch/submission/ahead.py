"""What is to be submitted, and what its owner has in the queue already."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from hpcllm.errors import UserError
from hpcllm.launch.array import jobs_of_array, missing_jobs
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.shell import directives_in
from hpcllm.launch.tracking.slurm import slurm
from hpcllm.run_directory import Run

LOOK_UP_S = 5.0  # for one of the questions that only explain


@dataclass(frozen=True)
class Ahead:
    """A stage that is to be submitted, as so many jobs one after another."""

    run: Run
    stage: Stage
    jobs: int
    options: Mapping[str, str]
    """sbatch's options as they stand in its script, which somebody may have changed by hand."""
    tasks: int = 1
    """Of an array: how many of its jobs have something to do. Of a sweep: how many runs ask for the same."""

    @property
    def count(self) -> int:
        """How many jobs there will be in the queue."""
        return self.jobs * self.tasks


@dataclass(frozen=True)
class Queued:
    """One job of this person that waits or runs."""

    job_id: str
    account: str
    qos: str
    partition: str
    command: str
    """The script, and what it was told."""


def ahead(run: Run, lengths: Mapping[str, int], missing: Iterable[Stage]) -> list[Ahead]:
    """What is to be submitted."""
    return [
        Ahead(run, stage, lengths[stage.name], options_in(run.script(stage.id)), _tasks(run, stage))
        for stage in missing
    ]


def _tasks(run: Run, stage: Stage) -> int:
    return len(missing_jobs(run, stage, jobs_of_array(run, stage))) if stage.array else 1


def options_in(script: Path) -> dict[str, str]:
    """sbatch's options in a script, as Slurm reads them. A line that somebody's hand has broken is left to Slurm."""
    found = {}
    for line in directives_in(script.read_text(encoding="utf-8")):
        with suppress(ValueError):
            for word in shlex.split(line.removeprefix("#SBATCH "), comments=True):
                name, _, value = word.removeprefix("--").partition("=")
                found[name] = value
    return found


def own_queue() -> list[Queued] | None:
    """What this person has in the queue, each task of an array for itself; None where squeue does not say."""
    fields = ("JobArrayID", "Account", "QOS", "Partition", "Command")
    words = ["squeue", "--noheader", "--array", f"--user={user()}"]
    done = said_of([*words, f"--Format={','.join(f'{field}:|' for field in fields)}"])
    if done is None or done.returncode:
        return None
    rows = [line.split("|", len(fields) - 1) for line in done.stdout.splitlines() if line.count("|") >= len(fields)]
    return [_queued(*row) for row in rows]


def _queued(job_id: str, account: str, qos: str, partition: str, command: str) -> Queued:
    """A path may hold the separator itself, so the command is the last."""
    return Queued(job_id.strip(), account.strip(), qos.strip(), partition.strip(), command.rstrip().removesuffix("|"))


def said_of(command: Sequence[str]) -> CompletedProcess[str] | None:
    """What one of Slurm's commands answers; None where there is no such command, or no answer in time."""
    try:
        return slurm(command, LOOK_UP_S)
    except UserError:
        return None


def user() -> str:
    """Who submits."""
    return pwd.getpwuid(os.getuid()).pw_name
