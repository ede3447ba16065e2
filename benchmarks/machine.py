"""The machine that a figure was measured on: `python benchmarks/machine.py` prints it."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
MATMUL = 1024
SHOWN_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "bf16")


def machine() -> dict[str, Any]:
    """CPU, instruction sets, threads, and what one large matmul reaches in fp32 and bf16."""
    info = Path("/proc/cpuinfo").read_text()
    lines = dict(line.split("\t: ", 1) for line in info.splitlines() if "\t: " in line)
    flags = lines.get("flags", lines.get("Features", "")).split()
    return {
        "cpu": lines.get("model name", "unknown").strip(),
        "instruction_sets": [flag for flag in SHOWN_FLAGS if flag in flags],
        "threads": torch.get_num_threads(),
        "matmul_fp32_flops_per_s": _matmul_flops_per_s(torch.float32),
        "matmul_bf16_flops_per_s": _matmul_flops_per_s(torch.bfloat16),
    }


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    """benchmarks/results/NAME.json, as docs/architecture.md has it."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    document = {
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "command": " ".join(["python", *sys.argv]),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _matmul_flops_per_s(dtype: torch.dtype) -> float:
    """2n³ operations by the median of a few, after one to warm up."""
    a = torch.randn(MATMUL, MATMUL).to(dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * MATMUL**3 / median(times[1:])


if __name__ == "__main__":
    print(json.dumps(machine(), indent=2))
