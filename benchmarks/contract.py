"""How long the contract check takes: is every rank what was asked for, before MPI's first real message?

    python benchmarks/contract.py [RANKS]          4 by default, on this machine; the bar is 2 s after the imports

`contract_s` is what the slowest rank waits for it, without imports and the start of MPI (`mpi_start_s`); `cpu_s` is
what one rank computes for both. Each start is a fresh mpirun; more ranks than cores wait for their turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

STARTS = 5
BAR_S = 2.0
RECORD = Path(__file__).parent / "results" / "contract.json"


def rank() -> None:
    """One rank of a start: rank 0 prints its times."""
    import time

    from hpcllm.parallel.expected import expected
    from hpcllm.parallel.interfaces import start_mpi
    from hpcllm.parallel.preflight import check_contract

    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    world = start_mpi(lambda message: None)
    started_s = time.perf_counter() - start_s
    report = check_contract(world, expected(None, None, None))
    cpu_s = time.process_time() - start_cpu_s
    everybody = world.all_gather((started_s, report.contract_s, cpu_s))
    if world.rank == 0:
        names = ("mpi_start_s", "contract_s", "cpu_s")
        print(json.dumps(dict(zip(names, map(max, *everybody), strict=True))), flush=True)


def main(ranks: int) -> None:
    launcher = Path(sys.executable).with_name("mpirun")
    command = [str(launcher), "-n", str(ranks), sys.executable, __file__, "rank"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    starts = []
    for _ in range(STARTS):
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120).stdout
        starts.append(json.loads(said.splitlines()[-1]))
    found = {name: median(start[name] for start in starts) for name in starts[0]}
    worst = max(start["contract_s"] for start in starts)
    for name, seconds in found.items():
        print(f"{name:<12} {seconds * 1000:8.1f} ms   median of {STARTS} starts")
    print(f"contract check at {ranks} ranks: at most {worst:.3f} s, the bar is {BAR_S:g} s")
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"ranks": ranks, "cores": os.cpu_count(), "starts": starts, **found}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["rank"]:
        rank()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
