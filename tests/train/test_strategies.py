"""DDP, ZeRO-1, FSDP and HSDP train as one process does. Run: pytest -m mpi tests/train/test_strategies.py"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import latest_losses, moved, tiny_job, tiny_run, train_here, trained

pytestmark = pytest.mark.mpi

STRATEGIES = ("ddp", "zero1", "fsdp", "hsdp")
SHORT = {"steps": 6, "global_batch": 8, "validate_every_steps": 3, "checkpoint": {"every_steps": 3, "keep": 2}}


def test_every_strategy_trains_as_one_process_and_goes_on_from_any_other(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, **SHORT)
    one = tiny_run(tmp_path / "one", job)
    accumulating = {name: tiny_run(tmp_path / name, job, 4, 1, strategy=name) for name in STRATEGIES}
    train_here(one)

    said = trained(*accumulating.values())
    again = [moved(run, tmp_path / f"{name}-again", 3, 4, name) for name, run in accumulating.items()]
    trained(*again)
    on_two = [
        moved(accumulating[name], tmp_path / f"{name}-on-two", 3, 2, following)
        for name, following in zip(STRATEGIES, STRATEGIES[1:] + STRATEGIES[:1], strict=True)
    ]
    trained(*on_two)

    assert all(f"train: {name}, fp32" in said for name in STRATEGIES)
    for run in (*accumulating.values(), *on_two):
        assert latest_losses(run) == pytest.approx(latest_losses(one), rel=1e-5)
        assert latest_losses(run, "validation") == pytest.approx(latest_losses(one, "validation"), rel=1e-5)
    for resumed, whole in zip(again, accumulating.values(), strict=True):
        assert latest_losses(resumed) == latest_losses(whole)
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert (resumed.checkpoint(6) / file).read_bytes() == (whole.checkpoint(6) / file).read_bytes()
