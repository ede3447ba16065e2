"""The software that jobs find on the compute nodes."""

from __future__ import annotations

from typing import Literal

from hpcllm.source import Record


class Mpi(Record):
    """The MPI library and what starts its ranks."""

    flavour: Literal["mpich", "openmpi", "cray-mpich", "intel-mpi", "mvapich"]
    launcher: tuple[str, ...]
    """Command before the number of ranks: [srun, --mpi=pmix] or [mpirun]."""
    gpu_aware: bool = False
    """Whether it takes pointers into GPU memory."""


class Software(Record):
    """How a job gets its Python and its MPI."""

    modules: tuple[str, ...] = ()
    """Loaded in this order, after `module purge`."""
    setup: tuple[str, ...] = ()
    """Shell lines of the site to run before anything else, such as `source /opt/site/env.sh`. They are code."""
    mpi: Mpi
    python: str = "python3"
    """The interpreter on the compute nodes, with hpcllm's dependencies; `this` is the one that renders the scripts."""
    offline: bool = False
    """Whether compute nodes have no way to the internet; libraries are then told not to try."""
