"""Who started this process, and whether its MPI library understands him. Nothing here starts MPI.

A launcher and a library find each other by a protocol (PMI-1 and 2, PMIx). Where they have none in common, each process
becomes a world of its own, or dies in MPI_Init; the usual case is the MPI of a wheel under the launcher of the site.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcllm.parallel.finding import Finding, error


@dataclass(frozen=True)
class Started:
    """This process as its launcher numbered it, without asking MPI. None: no launcher did."""

    rank: int | None = None
    size: int | None = None
    source: str = ""
    """The variable that says so."""
    launcher: str = ""
    """In words."""
    speaks: str = ""
    """Its protocol; empty: none."""


@dataclass(frozen=True)
class Library:
    """The MPI library that mpi4py loaded."""

    text: str
    """MPI_Get_library_version on one line, without how it was built."""
    path: str = ""
    """Its file, where the system says which."""
    is_wheel: bool = False
    """It came with pip: its file is inside the Python environment."""

    @property
    def flavour(self) -> str | None:
        """The profile's word for it."""
        return next((flavour for words, flavour in _FLAVOURS if words in self.text), None)

    def __str__(self) -> str:
        where = f" ({'the wheel ' if self.is_wheel else ''}{self.path})" if self.path else ""
        return f"{self.text}{where}"


_FLAVOURS = (  # beginnings and parts of MPI_Get_library_version, the special before the general
    ("Open MPI", "openmpi"),
    ("CRAY MPICH", "cray-mpich"),
    ("Intel(R) MPI", "intel-mpi"),
    ("MVAPICH", "mvapich"),
    ("MPICH", "mpich"),
)

_LAUNCHERS = (  # rank and size that a launcher gives each process; the one nearest to the process first
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)

# What each library understands, srun's word first. Tried: MPICH 5.0.2 and Open MPI 5.0.11, of wheels: MPICH
# aborts, Open MPI goes on alone. MPICH and its kin may be built with PMIx too, wheels of them are not.
_UNDERSTANDS = {
    "mpich": ("pmi2", "pmi"),
    "mvapich": ("pmi2", "pmi"),
    "intel-mpi": ("pmi2", "pmi"),
    "openmpi": ("pmix",),
    "cray-mpich": ("cray_shasta",),
}


def started_as(environment: Mapping[str, str]) -> Started:
    """Who the launcher says that this process is."""
    for rank, size in _LAUNCHERS:
        if rank in environment and size in environment:
            return Started(int(environment[rank]), int(environment[size]), size, *_launcher(environment))
    return Started()


def _launcher(environment: Mapping[str, str]) -> tuple[str, str]:
    """The launcher nearest to the process, and its protocol."""
    if "PRTE_LAUNCHED" in environment or "OMPI_COMM_WORLD_SIZE" in environment:
        return "Open MPI's mpirun", "pmix"
    kind = environment.get("SLURM_MPI_TYPE", "none")  # srun leaves it out where it is none
    by_hydra = "HYDI_CONTROL_FD" in environment or ("PMI_RANK" in environment and kind == "none")
    if by_hydra or "SLURM_STEP_NUM_TASKS" not in environment:
        return "Hydra's mpirun", "pmi"
    return ("srun without --mpi=", "") if kind == "none" else (f"srun --mpi={kind}", kind.split("_v")[0])


def is_first_of_node(environment: Mapping[str, str]) -> bool:
    """Whether this process is the first of its node, by its launcher; one that no launcher started is."""
    names = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
    return next((environment[name] for name in names if name in environment), "0") == "0"


def library_here() -> Library:
    """The one that mpi4py loads, started or not."""
    from mpi4py import MPI

    return library_of(MPI.Get_library_version())


def library_of(version: str, maps: Path = Path("/proc/self/maps"), prefix: str = sys.prefix) -> Library:
    """The library with that MPI_Get_library_version, once it is loaded."""
    text = " ".join(re.split(r"[\n\0]|, package:", version)[0].replace(",", " ").split())
    try:
        found = re.search(r"/\S*/libmpi(?:ch|_cray|_abi)?\.so\S*", maps.read_text())
    except OSError:
        found = None
    path = found[0] if found else ""
    return Library(text, path, bool(path) and Path(path).is_relative_to(prefix))


def check_protocol(started: Started, library: Library) -> Finding | None:
    """A launcher under which this library would die in MPI_Init, without a word that helps."""
    if not (library.is_wheel and library.flavour == "mpich" and started.speaks == "pmix"):
        return None
    what = f"{library.text} dies under {started.launcher} (MPI_Init: unsupported PMI version PMIx)"
    return error("launcher", what, *_why_apart(started, library))


def singletons(started: Started, library: Library) -> Finding:
    """Each process is rank 0 of 1."""
    return error(
        "ranks",
        f"each of the {started.size} processes is an MPI world of its own (found 1 rank; {started.source} says "
        f"{started.size})",
        *_why_apart(started, library),
    )


def _why_apart(started: Started, library: Library) -> tuple[str, str]:
    """Likely cause, and what to do."""
    known = _UNDERSTANDS.get(library.flavour or "", ())
    words = f"srun --mpi={known[0]}" if known else "another srun --mpi= (srun --mpi=list shows them)"
    own = Path(library.path).parent.parent / "bin/mpirun" if library.is_wheel else "the mpirun of this very library"
    action = f"{words}, or {own}; in a profile it is software.mpi.launcher"
    if started.launcher.startswith("srun") and not started.speaks:
        return f"srun was given no --mpi= for {library}, and MpiDefault is none here", action
    if started.speaks in known or not known:
        return f"the launcher and the MPI library of this Python ({library}) do not know each other's protocol", action
    whose = "the MPI of a wheel under the site's launcher" if library.is_wheel else "the launcher of another MPI"
    cause = f"{whose}: {started.launcher} speaks {started.speaks}, {library} understands {' and '.join(known)} only"
    return cause, f"{action}; or an mpi4py built with the site's MPI, without the wheel"
