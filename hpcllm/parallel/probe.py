"""What this machine reaches, measured in two seconds: `python -m hpcllm.parallel.probe FOLDER` prints one JSON line.

    {"flops_per_s": …, "precision": "bf16", "memory_rate_bytes_per_s": …, "write_bytes_per_s": …, "read_bytes_per_s": …}

`hpcllm run` asks before it plans, so that the figures of a run on this machine are predictions too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hpcllm.parallel.speed import best_matmul, copy_bytes_per_s

MATMUL_S = 0.8
COPY_S = 0.2
FILE_BYTES = 32 * 2**20


def measure(folder: Path) -> dict[str, Any]:
    """Speed of matmuls on all cores in the faster precision, of memory, and of the disk that `folder` is on."""
    flops_per_s, precision = best_matmul("cpu", MATMUL_S)
    write_bytes_per_s, read_bytes_per_s = _disk_bytes_per_s(folder)
    return {
        "flops_per_s": flops_per_s,
        "precision": precision,
        "memory_rate_bytes_per_s": copy_bytes_per_s("cpu", COPY_S),
        "write_bytes_per_s": write_bytes_per_s,
        "read_bytes_per_s": read_bytes_per_s,
    }


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


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
