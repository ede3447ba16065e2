"""What this machine reaches, measured in two seconds: `python -m hpcllm.parallel.probe FOLDER` prints one JSON line.

    {"flops_per_s": …, "precision": "bf16", "memory_rate_bytes_per_s": …, "write_bytes_per_s": …, "read_bytes_per_s": …}

`hpcllm run` asks before it plans, so that the figures of a run on this machine are predictions too.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MATMUL_SIZE = 1024  # square; near the products of a small Transformer's step, and large enough for all cores
MATMUL_S = 0.4  # for each precision
COPY_BYTES = 64 * 2**20  # larger than a core's share of cache
FILE_BYTES = 32 * 2**20


def measure(folder: Path) -> dict[str, Any]:
    """Speed of matmuls on all cores in the faster precision, of memory, and of the disk that `folder` is on."""
    speeds = {name: _matmul_flops_per_s(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    precision = max(speeds, key=lambda name: speeds[name])
    write_bytes_per_s, read_bytes_per_s = _disk_bytes_per_s(folder)
    return {
        "flops_per_s": speeds[precision],
        "precision": precision,
        "memory_rate_bytes_per_s": _memory_bytes_per_s(),
        "write_bytes_per_s": write_bytes_per_s,
        "read_bytes_per_s": read_bytes_per_s,
    }


def _matmul_flops_per_s(dtype: torch.dtype) -> float:
    """2·n³ operations over the median time of one product."""
    a = torch.randn(MATMUL_SIZE, MATMUL_SIZE).to(dtype)
    return float(2 * MATMUL_SIZE**3 / _median_s(lambda: a @ a, MATMUL_S))


def _memory_bytes_per_s() -> float:
    """A copy reads and writes every byte."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _median_s(lambda: target.copy_(source), 0.2)


def _disk_bytes_per_s(folder: Path) -> tuple[float, float]:
    """Written and flushed, then read back (from the cache where the system keeps it, as training's reads are)."""
    content = os.urandom(FILE_BYTES)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start_s = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        written_s = time.perf_counter()
        Path(file.name).read_bytes()
        read_s = time.perf_counter()
    return FILE_BYTES / (written_s - start_s), FILE_BYTES / (read_s - written_s)


def _median_s(call: Callable[[], object], for_s: float) -> float:
    """Median time of one call, over as many as fit into that time after a first that is not counted."""
    call()
    times_s: list[float] = []
    end_s = time.perf_counter() + for_s
    while not times_s or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
