"""One rank, as it sees itself: its cores, its GPUs and its software. No MPI and no torch in here."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hpcllm import __version__
from hpcllm.parallel.gpus import gpus_here
from hpcllm.parallel.launched import Library
from hpcllm.parallel.world import World

COMPARED = ("torch", "numpy", "mpi4py")  # packages that all ranks must have alike


@dataclass(frozen=True)
class RankFacts:
    """What preflight holds against what the other ranks say."""

    rank: int
    node: int
    host: str
    cpus: frozenset[int]
    """Hardware threads that it may run on."""
    cores: frozenset[int]
    """Their cores, each named by its first hardware thread."""
    allotted: int | None
    """Hardware threads of this job on this node, where a scheduler says so."""
    versions: tuple[tuple[str, str], ...]
    """Of Python, hpcllm, COMPARED, and the MPI library."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that it sees, by number."""
    local_rank: int = 0

    @property
    def gpu(self) -> str | None:
        """The one that it computes on: by its local rank, as `strategy.init_torch` and most programs choose."""
        return self.gpus[self.local_rank % len(self.gpus)] if self.gpus else None


def facts_here(world: World, library: Library, environment: Mapping[str, str] = os.environ) -> RankFacts:
    """This rank."""
    cpus = frozenset(os.sched_getaffinity(0))
    allotted = environment.get("SLURM_CPUS_ON_NODE", "")
    ours = {"Python": platform.python_version(), "hpcllm": __version__}
    versions = {**ours, **{name: _version(name) for name in COMPARED}, "MPI": library.text}
    return RankFacts(
        world.rank,
        world.node,
        world.hosts[world.node],
        cpus,
        frozenset(_core_of(cpu) for cpu in cpus),
        int(allotted) if allotted.isdigit() else None,
        tuple(versions.items()),
        gpus_here(environment),
        world.local_rank,
    )


def _version(package: str) -> str:
    """As pip knows it: importing torch would take longer than all checks."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _core_of(cpu: int) -> int:
    """The first hardware thread of its core."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return int(siblings.read_text().replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu
