"""All-reduce of the mpi4py backend beside gloo's, and beside MPI's own, on the ranks of this machine.

    python benchmarks/allreduce.py [--quick] [--ranks 2]

One pair is one call of ours and one of the peer's, next to each other; a ratio is the median over the pairs, and
above 1 ours is faster. Ranks do not outnumber cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

SIZES = {"4 kB": 10**3, "1 MB": 250_000, "25 MB": 6_250_000, "100 MB": 25_000_000}  # elements of fp32
QUICK = ("4 kB", "1 MB", "25 MB")
PAIRS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the largest size")
    parser.add_argument("--ranks", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # what each rank is started with
    arguments = parser.parse_args()
    if arguments.measure:
        _measure(arguments.measure, QUICK if arguments.quick else tuple(SIZES))
        return
    rows = _on_ranks(arguments.ranks, arguments.quick)
    for row in rows:
        print(f"{row['case']:<28} {row['peer']:<14} ours {row['ours']:9.3f} ms  theirs {row['theirs']:9.3f} ms", end="")
        print(f"  ratio {row['ratio']:.2f}")
    from machine import write

    print(write("allreduce", rows))


def _on_ranks(ranks: int, quick: bool) -> list[dict[str, Any]]:
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else "mpirun"
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [mpirun, "-n", str(ranks), sys.executable, __file__, "--measure", str(rows)]
        subprocess.run(
            [*command, *(["--quick"] if quick else [])], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        result: list[dict[str, Any]] = json.loads(rows.read_text())
        return result


def _measure(path: Path, sizes: tuple[str, ...]) -> None:
    from mpi4py import MPI

    from hpcllm.parallel.strategy import init_torch
    from hpcllm.parallel.world import World

    world = World.of_mpi()
    init_torch(world)
    gloo = dist.new_group(backend="gloo")
    rows = []
    for size in sizes:
        tensor = torch.ones(SIZES[size])
        array = tensor.numpy()
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda tensor=tensor: dist.all_reduce(tensor),
            "gloo": lambda tensor=tensor: dist.all_reduce(tensor, group=gloo),
            "MPI_Allreduce": lambda array=array: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, array),
        }
        repeats = max(1, min(200, 2 * 10**6 // SIZES[size]))
        times = _interleaved_ms(calls, repeats, tensor)
        rows += [_row(f"all-reduce {size}, {world.size} ranks", peer, times) for peer in ("gloo", "MPI_Allreduce")]
    if world.rank == 0:
        path.write_text(json.dumps(rows))
    dist.destroy_process_group()


def _interleaved_ms(calls: dict[str, Callable[[], Any]], repeats: int, tensor: torch.Tensor) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for pair in range(PAIRS + 1):
        for name, call in calls.items():
            tensor.fill_(1.0)
            dist.barrier()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            if pair:  # the first makes connections and touches memory
                times[name].append((time.perf_counter() - start) / repeats * 1e3)
    return times


def _row(case: str, peer: str, times: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [theirs / ours for ours, theirs in zip(times["ours"], times[peer], strict=True)]
    return {
        "case": case,
        "peer": peer,
        "ours": median(times["ours"]),
        "theirs": median(times[peer]),
        "unit": "ms",
        "ratio": median(ratios),
    }


if __name__ == "__main__":
    main()
