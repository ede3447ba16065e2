"""Our rendered scripts through submitit: its `Job` handles (state, stdout, cancel, result) for jobs of a run directory.

submitit's own SlurmExecutor writes a script that runs a pickle named by its job id, which nobody can submit again by
hand. Here the function that is submitted *is* a rendered script, and what it returns is the record that it leaves.

Functions of your own run on MPI ranks of this machine by launch/submitit_mpirun.py, which submitit finds here.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core import utils
from submitit.core.core import InfoWatcher

from hpcllm.errors import UserError
from hpcllm.launch.array import together
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.dag_scripts import sbatch_tokens
from hpcllm.launch.submission.all_or_nothing import sbatch
from hpcllm.launch.submission.chain import ALONE, SEPARATOR, Link
from hpcllm.launch.submitit_mpirun import MpirunExecutor, MpirunJobEnvironment
from hpcllm.launch.tracking.logs import log_files
from hpcllm.launch.tracking.slurm import query, slurm
from hpcllm.run_directory import Run, read_json

__all__ = ["MpirunExecutor", "MpirunJobEnvironment", "ScriptExecutor", "ScriptJob", "StageScript"]

LAST_LINES = 20


@dataclass(frozen=True)
class StageScript:
    """The function that is submitted: a rendered script. Called, it runs here and returns its stage's record."""

    run: Run
    stage: Stage
    after: tuple[str, ...] = ()
    """Job ids that must succeed before."""
    link: Link = ALONE
    """Which job of a chain it is."""

    def __call__(self) -> dict[str, Any]:
        """Run the script in the foreground. Raises submitit's FailedJobError for an exit code that is not 0."""
        script = ["bash", str(self.run.script(self.stage.id))]
        code = subprocess.run(script, check=False, env={**os.environ, "HPCLLM_FOREGROUND": "1"}).returncode
        if code:
            raise utils.FailedJobError(f"{self.stage.id}: exit code {code}")
        return record_of(self.run, self.stage)


def record_of(run: Run, stage: Stage) -> dict[str, Any]:
    """What a stage said of itself: state/NN-stage.json. Of an array: what its elements say together."""
    records = [read_json(run.state_json(element.id)) for element in stage.elements]
    return dict(together(stage, records)) if stage.array else dict(records[0])


class ScriptWatcher(InfoWatcher):
    """One query for all jobs at once, of whoever answers (launch/tracking/slurm.py)."""

    def update(self) -> None:
        """Ask for every job that has not ended yet."""
        asked = sorted(self._registered - self._finished)
        self._num_calls += bool(asked)
        found = [job for job in query(asked).values() if not job.forgotten] if asked else []
        self._info_dict.update({job.job_id: {"State": job.state, "NodeList": job.nodes} for job in found})
        self._last_status_check = time.time()
        self._finished |= {job_id for job_id in asked if self.is_done(job_id, mode="cache")}

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """Our word for the job's state; `pending` until somebody knows it."""
        return self.get_info(job_id, mode=mode).get("State") or "pending"

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether the job has ended, well or not."""
        return self.get_state(job_id, mode=mode) not in ("pending", "running")


class ScriptJob(submitit.Job[dict[str, Any]]):
    """A stage's Slurm job, as submitit hands it out."""

    watcher = ScriptWatcher(delay_s=60)

    def __init__(self, folder: Path | str, job_id: str, script: StageScript) -> None:
        super().__init__(folder, job_id)
        self.script = script

    @property
    def paths(self) -> utils.JobPaths:
        """The logs are those of the run directory."""
        return ScriptPaths(self.script.run, self.script.stage, self.job_id)

    def done(self, force_check: bool = False) -> bool:
        """Whether the job has ended, by Slurm's word."""
        return self.watcher.is_done(self.job_id, mode="force" if force_check else "standard")

    def cancel(self, check: bool = True) -> None:
        """Cancel it; of a chain the last job first, or the next one would begin. Raises CalledProcessError."""
        done = slurm(["scancel", *reversed(self.job_id.split(SEPARATOR))])
        if check:
            done.check_returncode()

    def _get_outcome_and_result(self) -> tuple[str, Any]:
        """submitit waits for a pickle here; ours is the stage's record, or the end of its log."""
        if self.watcher.get_state(self.job_id) == "done":
            return "success", record_of(self.script.run, self.script.stage)
        return "error", self._last_words()

    def _last_words(self) -> str:
        stage = self.script.stage
        lines = (self.stdout() or "no log was written").splitlines()[-LAST_LINES:]
        return "\n".join([f"{stage.id}: {self.watcher.get_state(self.job_id)}", *lines])


class ScriptPaths(utils.JobPaths):
    """Where submitit looks for what a job said."""

    def __init__(self, run: Run, stage: Stage, job_id: str) -> None:
        super().__init__(run.logs, job_id=job_id)
        self._run, self._stage = run, stage

    @property
    def stdout(self) -> Path:
        """The latest attempt's log."""
        found = log_files(self._run, self._stage.id)
        return found[-1] if found else self._run.log(self._stage.id, 1)

    @property
    def stderr(self) -> Path:
        """What Slurm itself said."""
        return self._run.slurm_log(self._stage.id)


class ScriptExecutor(submitit.Executor):
    """Submits rendered scripts: `executor.submit(StageScript(run, stage, after))`."""

    job_class = ScriptJob

    def _internal_process_submissions(
        self, delayed_submissions: list[utils.DelayedSubmission]
    ) -> list[submitit.Job[Any]]:
        return [self._submit_script(delayed.function) for delayed in delayed_submissions]

    def _submit_script(self, script: Any) -> ScriptJob:
        if not isinstance(script, StageScript):
            raise UserError(
                f"ScriptExecutor: found {script!r}; it submits the scripts of a run directory, no functions"
            )
        job_id = sbatch(sbatch_tokens(script.run, script.stage, script.after, link=script.link))
        return ScriptJob(script.run.logs, job_id, script)
