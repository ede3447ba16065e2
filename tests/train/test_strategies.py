"""DDP, ZeRO-1, FSDP and HSDP train as one process does. Run: pytest -m mpi tests/train/test_strategies.py

Two starts of mpirun have to do for all, since each takes seconds: four ranks, and then two.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import latest_losses, moved, tiny_job, tiny_run, train_here, trained

from hpcllm.job.spec import Job
from hpcllm.run_directory import Run, read_jsonl

pytestmark = pytest.mark.mpi

STRATEGIES = ("ddp", "zero1", "fsdp", "hsdp")


def test_every_strategy_trains_as_one_process_and_goes_on_from_any_other(tmp_path: Path) -> None:
    job = _job(tmp_path, steps=4)
    one = tiny_run(tmp_path / "one", job)
    whole = {name: _run(tmp_path / name, job, name) for name in STRATEGIES}
    halves = [_run(tmp_path / f"{name}-half", _job(tmp_path, steps=2), name) for name in STRATEGIES]
    rests = {
        name: _going_on(half, tmp_path / f"{name}-rest", job, name) for name, half in zip(whole, halves, strict=True)
    }
    tight = [_run(tmp_path / f"{name}-tight", job, name, whole_gradients=False) for name in ("fsdp", "hsdp")]

    train_here(one)
    said = trained(*whole.values(), *halves, *rests.values(), *tight)
    others = zip(whole.values(), (*STRATEGIES[1:], STRATEGIES[0]), strict=True)
    on_two = [moved(run, tmp_path / f"{run.root.name}-to-{other}", 2, 2, other) for run, other in others]
    trained(*on_two)

    assert all(f"train: {name}, fp32" in said for name in STRATEGIES)
    assert max(_gradient_norms(one).values()) > job.train.optimizer.clip_norm, "clipping is at work"
    for run in (*whole.values(), *tight, *on_two):
        assert latest_losses(run) == pytest.approx(latest_losses(one), rel=1e-5)
        assert latest_losses(run, "validation") == pytest.approx(latest_losses(one, "validation"), rel=1e-5)
        assert _gradient_norms(run) == pytest.approx(_gradient_norms(one), rel=1e-4)
    for name, run in whole.items():
        assert latest_losses(rests[name]).items() <= latest_losses(run).items()
        assert _saved(rests[name], 4) == _saved(run, 4)
        seconds = read_jsonl(run.metrics_jsonl("train"))[-1]
        assert 0 < seconds["communication_s"] < seconds["step_s"]


def _job(folder: Path, steps: int) -> Job:
    """Its learning rate knows nothing of the number of steps, so that one may go on where a shorter one ended."""
    checkpoints = {"every_steps": 2, "keep": 2}
    schedule = {"name": "constant", "warmup_steps": 1}
    return tiny_job(
        folder, steps=steps, global_batch=8, validate_every_steps=2, checkpoint=checkpoints, schedule=schedule
    )


def _run(folder: Path, job: Job, strategy: str, **planned: bool) -> Run:
    """On four ranks, two micro-batches each."""
    return tiny_run(folder, job, 4, micro_batch=1, strategy=strategy, **planned)


def _going_on(run: Run, folder: Path, job: Job, strategy: str) -> Run:
    """A run that finds the checkpoints of another, once that has trained."""
    following = _run(folder, job, strategy)
    run.checkpoints.mkdir()
    following.checkpoints.symlink_to(run.checkpoints)
    return following


def _gradient_norms(run: Run) -> dict[int, float]:
    return {line["step"]: line["gradient_norm"] for line in read_jsonl(run.metrics_jsonl("train"))}


def _saved(run: Run, step: int) -> list[bytes]:
    """Weights and optimizer, to the bit."""
    return [(run.checkpoint(step) / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]
