"""fp32 or bf16: some CPUs multiply bf16 matrices twice as fast as fp32, some far slower, so the machine is asked.

bf16 is autocast: weights, their gradients and the optimizer stay in fp32, matmuls take bf16 (Micikevicius et al. 2018;
bf16 has the exponents of fp32 and needs no loss scaling, Kalamkar et al. 2019).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from hpcllm.job.model_spec import ModelSpec
from hpcllm.parallel.world import World
from hpcllm.units import format_flops_per_s

MEASURED_ROWS = 2048  # tokens in the measured matmul, at most
REPETITIONS = 4
WORTHWHILE = 1.2  # times as fast: below it, casting between the two eats what the matmuls gain


@dataclass(frozen=True)
class Precision:
    """What the matmuls are computed in, and why."""

    precision: str
    """fp32 or bf16."""
    reason: str
    flops_per_s: Mapping[str, float]
    """Speed by precision of this rank, all ranks at work; empty when it was not measured."""


def choose(requested: str, resumed: str | None, spec: ModelSpec, tokens: int, world: World, device: str) -> Precision:
    """The same for all ranks: what the job says; a resumed run's own; or the faster on rank 0 (all ranks measure).

    `tokens` is the number of tokens in a micro-batch.
    """
    if resumed is not None:
        return Precision(resumed, "as the run began", {})
    if requested != "auto":
        return Precision(requested, "as the job says", {})
    rows = min(tokens, MEASURED_ROWS)
    return world.broadcast(_faster({name: matmul_flops_per_s(spec, rows, name, device) for name in ("fp32", "bf16")}))


def matmul_flops_per_s(spec: ModelSpec, rows: int, precision: str, device: str) -> float:
    """Forward and backward of the feed-forward block's first matmul with its casts, the best of a few."""
    layer = nn.Linear(spec.width, spec.feed_forward, bias=False, device=device)
    x = torch.randn(rows, spec.width, device=device, requires_grad=True)
    best_s = min(_timed(layer, x, precision, device) for _ in range(REPETITIONS))
    return 3 * 2 * rows * spec.width * spec.feed_forward / best_s


def autocast(device: str, precision: str) -> torch.autocast:
    """The block in which the model and its loss are computed."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def _faster(flops_per_s: Mapping[str, float]) -> Precision:
    name = "bf16" if flops_per_s["bf16"] > WORTHWHILE * flops_per_s["fp32"] else "fp32"
    measured = ", ".join(f"{each} {format_flops_per_s(speed)}" for each, speed in flops_per_s.items())
    return Precision(name, f"measured in a matmul of the model: {measured}", flops_per_s)


def _timed(layer: nn.Module, x: torch.Tensor, precision: str, device: str) -> float:
    start_s = time.perf_counter()
    with autocast(device, precision):
        y = layer(x)
    y.backward(y.detach())
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start_s
