"""Mixed collectives for as long as is asked, groups made and destroyed all the while: does memory stay flat?

    python benchmarks/soak.py [--minutes 5] [--ranks 2]

Every result is compared with one process's. Every few seconds each rank writes down its resident memory. It is flat
where the last third of the run needs no more than the middle third, but for what an allocator may keep.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "mpi" / "over_ranks"))

from against_gloo import assert_as_computed
from collective_calls import COLLECTIVES, LAYOUTS, ONLY_MOVED, REDUCED, REDUCING, Call, Case, ops_of

CALLS = 25  # in a round, on all ranks' group and on one that is made for it and destroyed
SAMPLES = 60  # of memory, over the whole run
KEPT_BYTES = 4 * 2**20  # by allocators and MPI, without being a leak
# glibc's own threshold rises with what is freed, and a heap full of holes grows by 60 MiB without any leak.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
LARGEST = 200_000  # elements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # what each rank is started with
    arguments = parser.parse_args()
    if arguments.measure:
        soak(arguments.measure, arguments.minutes * 60)
        return
    rows = on_ranks(arguments.ranks, arguments.minutes)
    for row in rows:
        print(
            f"rank {row['rank']}: {row['collectives']} collectives, {row['groups']} groups, start "
            f"{row['start_bytes'] / 2**20:.0f} MiB, middle {row['middle_bytes'] / 2**20:.1f} MiB, end "
            f"{row['end_bytes'] / 2**20:.1f} MiB: {'flat' if row['flat'] else 'GROWING'}"
        )
    from machine import write

    print(write("soak", rows))
    sys.exit(0 if all(row["flat"] for row in rows) else 1)


def on_ranks(ranks: int, minutes: float) -> list[dict[str, Any]]:
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else "mpirun"
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        words = ["--measure", str(rows), "--minutes", str(minutes)]
        command = [mpirun, "-n", str(ranks), sys.executable, __file__, *words]
        subprocess.run(command, check=True, env={**os.environ, **ENVIRONMENT})
        result: list[dict[str, Any]] = json.loads(rows.read_text())
        return result


def soak(path: Path, seconds: float) -> None:
    """What each rank does; rank 0 writes the rows of all."""
    from hpcllm.parallel.strategy import init_torch
    from hpcllm.parallel.world import World

    world = World.of_mpi()
    init_torch(world)
    start, rounds, drawn = time.monotonic(), 0, random.Random(0)
    samples = [(0.0, resident_bytes())]
    while world.broadcast(time.monotonic() < start + seconds):
        one_round(world.rank, world.size, drawn)
        rounds += 1
        elapsed_s = time.monotonic() - start
        if elapsed_s >= len(samples) * seconds / SAMPLES:
            samples.append((round(elapsed_s, 1), resident_bytes()))
    rows = world.all_gather({"rank": world.rank, **row(samples), "collectives": rounds * CALLS, "groups": rounds})
    if world.rank == 0:
        path.write_text(json.dumps(rows))
    dist.destroy_process_group()


def one_round(rank: int, size: int, drawn: random.Random) -> None:
    """All ranks draw the same: a group, and calls in it and in that of all ranks, some of them in flight together."""
    members = sorted(drawn.sample(range(size), drawn.randint(1, size)))
    group = dist.new_group(members)
    in_flight = []
    for _ in range(CALLS):
        call, in_members = random_call(drawn), drawn.random() < 0.5
        if in_members and rank not in members:
            continue
        where = group if in_members else dist.group.WORLD
        asked = Case.of(call, where.rank(), where.size()).ask(where)
        in_flight.append(asked)
    for asked in in_flight:
        asked.wait()
        assert_as_computed(asked)
    if rank in members:
        dist.destroy_process_group(group)


def random_call(drawn: random.Random) -> Call:
    name = drawn.choice(sorted(COLLECTIVES))
    dtype = drawn.choice(REDUCED if name in REDUCING else REDUCED + ONLY_MOVED)
    return Call(
        name,
        shape=(int(LARGEST ** drawn.random()),),
        dtype=dtype,
        op=drawn.choice(ops_of(dtype)) if name in REDUCING else "SUM",
        root=drawn.randrange(4),
        layout=drawn.choice(LAYOUTS),
        is_async=drawn.random() < 0.5,
        seed=drawn.randrange(1000),
    )


def row(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """The memory of a rank over time, and whether it is flat."""
    third = max(1, len(samples) // 3)
    middle, end = (median(size for _, size in part) for part in (samples[third : 2 * third + 1], samples[-third:]))
    return {
        "start_bytes": samples[0][1],
        "middle_bytes": middle,
        "end_bytes": end,
        "flat": end <= middle + KEPT_BYTES,
        "samples": samples,
    }


def resident_bytes() -> int:
    """Memory of this process that is in RAM, what it shares with others included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
