"""Which checkpoints are evaluated, and which are kept for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tiny_job

from hpcllm.job.spec import Job
from hpcllm.run_directory import Run, append_jsonl, write_text
from hpcllm.train.checkpoint import _drop
from hpcllm.train.kept import best, chosen, steps


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Checkpoints of steps 2, 4, ... 12, and a validation loss at every fourth, the lowest at step 8."""
    run = Run(tmp_path / "run")
    for step in range(2, 13, 2):
        run.checkpoint(step).mkdir(parents=True)
    write_text(run.latest, "step-12\n")
    for step, loss in ((4, 3.0), (8, 1.0), (12, 2.0)):
        append_jsonl(run.metrics_jsonl("validation"), {"attempt": 1, "step": step, "loss": loss})
    return run


def job_with(tmp_path: Path, checkpoints: Any, keep: int = 6) -> Job:
    job = tiny_job(tmp_path)
    train = job.train.model_copy(update={"checkpoint": job.train.checkpoint.model_copy(update={"keep": keep})})
    evaluate = job.evaluate.model_copy(update={"checkpoints": checkpoints})
    return job.model_copy(update={"train": train.model_copy(update={"steps": 100}), "evaluate": evaluate})


@pytest.mark.parametrize(
    ("asked", "found"),
    [("last", [12]), ("best", [8]), (1, [12]), (2, [12, 2]), (3, [12, 8, 2]), (6, [12, 10, 8, 6, 4, 2])],
)
def test_the_first_of_the_chosen_is_the_trained_model_and_several_are_spread(
    run: Run, tmp_path: Path, asked: Any, found: list[int]
) -> None:
    assert chosen(run, job_with(tmp_path, asked)) == found


def test_fewer_are_chosen_where_fewer_are_kept(run: Run, tmp_path: Path) -> None:
    assert chosen(run, job_with(tmp_path, 20, keep=20)) == [12, 10, 8, 6, 4, 2]


def test_a_checkpoint_beyond_the_last_whole_one_is_not_chosen(run: Run, tmp_path: Path) -> None:
    write_text(run.latest, "step-10\n")

    assert chosen(run, job_with(tmp_path, "last")) == [10]


def test_a_step_that_nobody_looked_at_counts_as_the_look_before_it(run: Run) -> None:
    assert best(run, [12, 10]) == 10
    assert best(run, [4, 2]) == 4


def test_without_any_look_the_last_step_is_the_best(run: Run) -> None:
    run.metrics_jsonl("validation").unlink()

    assert best(run, [12, 10, 8]) == 12


@pytest.mark.parametrize(("asked", "kept"), [("last", [12, 10]), ("best", [12, 10, 8])])
def test_the_best_is_kept_beside_the_newest_where_it_is_wanted(
    run: Run, tmp_path: Path, asked: str, kept: list[int]
) -> None:
    _drop(run, job_with(tmp_path, asked, keep=2), 12)

    assert steps(run) == kept
