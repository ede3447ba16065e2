"""Where a benchmark's ranks run: in this machine's one node, or on two nodes of a Slurm lab, a rank and a core each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests" / "slurm"
TRIES = 2  # Slurm's pmi2 now and then cuts a message of MPI_Init short, and the start fails
TIMEOUT_S = 1200


def in_one_node(ranks: int, *words: str) -> list[dict[str, Any]]:
    """The rows that a script of `words` measures on so many ranks of this machine, and writes to its last argument."""
    beside = Path(sys.executable).with_name("mpirun")
    return _rows([str(beside) if beside.exists() else "mpirun", "-n", str(ranks)], words, tries=1)


def on_two_nodes(*words: str) -> list[dict[str, Any]]:
    """The same on the nodes of the lab that SLURM_CONF names."""
    return _rows(["srun", "--nodes=2", "--ntasks-per-node=1", "--mpi=pmi2"], words, tries=TRIES)


@contextmanager
def measuring(path: Path) -> Iterator[tuple[Any, Any, list[dict[str, Any]]]]:
    """On every rank: its World, a group of gloo beside ours, and the rows, which rank 0 writes in the end."""
    import torch
    import torch.distributed as dist

    from hpcllm.parallel.strategy import init_torch
    from hpcllm.parallel.world import World

    torch.set_num_threads(1)
    world = World.of_mpi()
    init_torch(world)
    rows: list[dict[str, Any]] = []
    yield world, dist.new_group(backend="gloo"), rows
    if world.rank == 0:
        path.write_text(json.dumps(rows))
    world.barrier()
    dist.destroy_process_group()


def go_ahead() -> None:
    """Let this rank go before everything else that runs on the machine (root). Before it has started any thread.

    A process that waits for another sleeps, and on a machine in use it is woken up to 3 ms late, however nice others
    are: Linux lets who runs end its slice. Real-time processes are woken at once; the others keep a twentieth.
    """
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _rows(launcher: Sequence[str], words: Sequence[str], tries: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [*launcher, sys.executable, *words, str(path)]
        for left in reversed(range(tries)):
            ended = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=TIMEOUT_S)
            if ended.returncode == 0:
                break
            if not left:
                raise SystemExit(f"{' '.join(command)}: exit code {ended.returncode}")
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return rows


@contextmanager
def lab_of_two_nodes() -> Iterator[Path]:
    """The folder of a lab that runs inside the block: two nodes, each on a core of its own.

    Takes SUBNET and BASE_PORT from the environment where they are set. Raises SystemExit where there can be none.
    """
    sys.path.insert(0, str(TESTS))
    from lab_cluster import missing, started, stop

    if reason := missing():
        raise SystemExit(reason)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    own = {name: os.environ[name] for name in ("SUBNET", "BASE_PORT") if name in os.environ}
    with tempfile.TemporaryDirectory() as folder:
        lab = Path(folder) / "lab"
        try:
            os.environ["SLURM_CONF"] = str(started(lab, NODES="2", CPUS="1", PIN="1", **own))
            yield lab
        finally:
            stop(lab)


def throttle(lab: Path, rate: str) -> None:
    """Limit both nodes' links (`1gbit`), or no longer (`off`)."""
    for node in ("n1", "n2"):
        subprocess.run([TESTS / "lab" / "node", lab, "link", node, rate], check=True, timeout=60)
