"""DDP, ZeRO-1, FSDP and HSDP train as one process does. Run: pytest -m mpi tests/train/test_strategies.py"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import latest_losses, moved, tiny_job, tiny_run, train_here, trained

from hpcllm.run_directory import Run, read_jsonl

pytestmark = pytest.mark.mpi

STRATEGIES = ("ddp", "zero1", "fsdp", "hsdp")
SHORT = {"steps": 4, "global_batch": 8, "validate_every_steps": 2, "checkpoint": {"every_steps": 2, "keep": 2}}


def test_every_strategy_trains_as_one_process_and_goes_on_from_any_other(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, **SHORT)
    one = tiny_run(tmp_path / "one", job)
    whole = {name: tiny_run(tmp_path / name, job, 4, micro_batch=1, strategy=name) for name in STRATEGIES}
    train_here(one)

    said = trained(*whole.values())
    again = {name: moved(run, tmp_path / f"{name}-again", 2, 4, name) for name, run in whole.items()}
    tight = [
        tiny_run(tmp_path / f"{name}-tight", job, 4, micro_batch=1, strategy=name, whole_gradients=False)
        for name in ("fsdp", "hsdp")
    ]
    trained(*again.values(), *tight)
    on_two = [
        moved(whole[name], tmp_path / f"{name}-on-two", 2, 2, following)
        for name, following in zip(STRATEGIES, STRATEGIES[1:] + STRATEGIES[:1], strict=True)
    ]
    trained(*on_two)

    assert all(f"train: {name}, fp32" in said for name in STRATEGIES)
    for run in (*whole.values(), *tight, *on_two):
        assert latest_losses(run) == pytest.approx(latest_losses(one), rel=1e-5)
        assert latest_losses(run, "validation") == pytest.approx(latest_losses(one, "validation"), rel=1e-5)
    for name, run in whole.items():
        assert latest_losses(again[name]) == latest_losses(run)
        assert _saved(again[name], 4) == _saved(run, 4)
        seconds = read_jsonl(run.metrics_jsonl("train"))[-1]
        assert 0 < seconds["communication_s"] < seconds["step_s"]


def _saved(run: Run, step: int) -> list[bytes]:
    """Weights and optimizer, to the bit."""
    return [(run.checkpoint(step) / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]
