"""How fast this process computes and copies, on its cores or on its GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}  # square: near the products of a step, and large enough for all cores
COPY_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}  # larger than a core's share of cache


def best_matmul(device: str, for_s: float) -> tuple[float, str]:
    """FLOP/s of a large matmul in the fastest precision that training would use, and which that is."""
    if device == "cuda":
        half = ("bf16", torch.bfloat16) if torch.cuda.is_bf16_supported() else ("fp16", torch.float16)
        precisions = [half]
    else:
        precisions = [("fp32", torch.float32), ("bf16", torch.bfloat16)]
    speeds = {name: matmul_flops_per_s(device, dtype, for_s / len(precisions)) for name, dtype in precisions}
    precision = max(speeds, key=lambda name: speeds[name])
    return speeds[precision], precision


def matmul_flops_per_s(device: str, dtype: torch.dtype, for_s: float) -> float:
    """2·n³ operations over the median time of one product."""
    size = MATMUL_SIZE[device]
    a = torch.randn(size, size, device=device).to(dtype)
    return float(2 * size**3 / median_s(lambda: a @ a, for_s, device))


def copy_bytes_per_s(device: str, for_s: float) -> float:
    """A copy reads and writes every byte."""
    source = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES[device] / median_s(lambda: target.copy_(source), for_s, device)


def median_s(call: Callable[[], object], for_s: float, device: str = "cpu") -> float:
    """Median time of one call, over as many as fit into that time after a first that is not counted."""
    _call_to_its_end(call, device)
    times_s: list[float] = []
    end_s = time.perf_counter() + for_s
    while not times_s or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        _call_to_its_end(call, device)
        times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s)


def _call_to_its_end(call: Callable[[], object], device: str) -> None:
    call()
    if device == "cuda":
        torch.cuda.synchronize()
