"""The software that jobs find on the compute nodes."""

from __future__ import annotations

from typing import Literal

from hpcllm.cluster.known import Known
from hpcllm.names import Environment


class Mpi(Known):
    """The MPI library and what starts its ranks."""

    flavour: Literal["mpich", "openmpi", "cray-mpich", "intel-mpi", "mvapich"]
    """Whose library it is; what it is told of the network, and which PMI it speaks, follow from it."""
    launcher: tuple[str, ...]
    """Command before the number of ranks: [srun, --mpi=pmix] or [mpirun]."""
    gpu_aware: bool = False
    """Whether it takes pointers into GPU memory."""


class Container(Known):
    """A container runtime of the site."""

    runtime: Literal["apptainer", "singularity", "pyxis", "enroot", "podman-hpc", "shifter", "container-engine"]
    """Its name; pyxis and container-engine are options of srun."""
    modules: tuple[str, ...] = ()
    """To be loaded before it."""
    options: tuple[str, ...] = ()
    """That the site wants, such as --nv."""
    description: str = ""
    """What it is for, and how it is asked for."""


class SoftwareEnvironment(Known):
    """What the ranks' programs run in, on top of the modules."""

    kind: Literal[
        "venv", "conda", "packed", "apptainer", "singularity", "pyxis", "podman-hpc", "shifter", "container-engine"
    ]
    """venv, conda: a Python environment where it lies. packed: one that is unpacked on each node's own disk first, so
    that a thousand ranks do not all read its small files from the parallel filesystem. The others: an image, by that
    runtime."""
    path: str
    """Folder of the environment; of a packed one its archive (tar, squashfs), or the folder, which the job then packs.
    Of an image its file or name, and for container-engine the EDF (.toml) that describes it."""
    python: str | None = None
    """The interpreter inside; left out, the environment's, and python3 of an image."""
    mounts: tuple[str, ...] = ()
    """Folders that an image is to see beside the run and the code, as PATH or PATH:INSIDE; plain variables may be in
    them."""


class Internet(Known):
    """Which nodes reach the internet."""

    login: bool | None = None
    """Whether login nodes do."""
    compute: bool | None = None
    """Where they do not, libraries are told not to try."""
    proxy: Environment = {}
    """Variables by which compute nodes reach it, such as https_proxy."""


class Software(Known):
    """How a job gets its Python and its MPI."""

    module_paths: tuple[str, ...] = ()
    """Folders for `module use`, before anything is loaded."""
    modules: tuple[str, ...] = ()
    """Loaded in this order."""
    purge: bool = True
    """Whether `module purge` comes first."""
    setup: tuple[str, ...] = ()
    """Shell lines of the site to run after that, such as `source /opt/site/env.sh`. They are code."""
    mpi: Mpi
    """The MPI library and what starts its ranks."""
    python: str = "python3"
    """The interpreter on the compute nodes, with hpcllm's dependencies; `this` is the one that renders the scripts."""
    environment: SoftwareEnvironment | None = None
    """What programs run in, on top of the modules; a job may name its own."""
    containers: tuple[Container, ...] = ()
    """Container runtimes, the site's favourite first."""
