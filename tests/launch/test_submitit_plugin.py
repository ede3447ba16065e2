"""The two executors that submitit finds: rendered scripts (on real Slurm in tests/slurm), and functions by mpirun."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import submitit

from hpcllm.errors import UserError
from hpcllm.launch.pipeline import PIPELINE
from hpcllm.launch.submitit_plugin import ScriptExecutor, StageScript
from hpcllm.run_directory import Run


def place() -> tuple[int, int]:
    environment = submitit.JobEnvironment()
    return environment.global_rank, environment.num_tasks


@pytest.mark.mpi
def test_a_function_runs_on_every_rank_of_one_mpirun_and_each_gives_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where a rank finds this file, to unpickle from
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="mpirun")
    executor.update_parameters(tasks_per_node=2, timeout_min=1)

    job = executor.submit(place)

    assert job.results() == [(0, 2), (1, 2)]
    assert os.environ.get("SUBMITIT_EXECUTOR") is None


def test_the_executor_of_scripts_takes_no_functions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it submits the scripts of a run directory, no functions"):
        ScriptExecutor(tmp_path).submit(place)


def test_a_script_is_submitted_and_cancelled_in_submitits_words(
    demo_run: Run, fake_slurm: Callable[[str, str], Path]
) -> None:
    sbatch, scancel = fake_slurm("sbatch", "echo '7;lab'"), fake_slurm("scancel", "")
    executor = ScriptExecutor(demo_run.logs)

    with executor.batch():
        job = executor.submit(StageScript(demo_run, PIPELINE[1], after=("6",)))
    job.cancel()

    assert job.job_id == "7"
    assert "--dependency=afterok:6" in sbatch.read_text()
    assert scancel.read_text() == "7\n"
    assert job.paths.stderr == demo_run.slurm_log("20-shard")
