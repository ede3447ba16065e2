"""Which precision is chosen, and why. Run: pytest tests/train"""

from __future__ import annotations

import pytest

from hpcllm.job.model_spec import ModelSpec
from hpcllm.parallel.world import World
from hpcllm.train import precision
from hpcllm.train.precision import choose

SPEC = ModelSpec(layers=1, width=16, heads=2, feed_forward=32, context=8)


@pytest.mark.parametrize(("bf16_flops_per_s", "chosen"), [(2e9, "bf16"), (1.1e9, "fp32"), (1e7, "fp32")])
def test_auto_takes_bf16_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, bf16_flops_per_s: float, chosen: str
) -> None:
    speeds = {"fp32": 1e9, "bf16": bf16_flops_per_s}
    monkeypatch.setattr(precision, "matmul_flops_per_s", lambda spec, rows, name, device: speeds[name])

    found = choose("auto", None, SPEC, 64, World.alone(), "cpu")

    assert found.precision == chosen
    assert found.flops_per_s == speeds
    assert "1 GFLOP/s" in found.reason


def test_auto_measures_this_machine() -> None:
    found = choose("auto", None, SPEC, 64, World.alone(), "cpu")

    assert all(speed > 0 for speed in found.flops_per_s.values())
    assert set(found.flops_per_s) == {"fp32", "bf16"}


def test_a_resumed_run_keeps_its_own_and_a_job_may_decide() -> None:
    assert choose("auto", "bf16", SPEC, 64, World.alone(), "cpu").precision == "bf16"
    assert choose("bf16", None, SPEC, 64, World.alone(), "cpu").precision == "bf16"
