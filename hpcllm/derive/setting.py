"""What is derived: one Setting per line of a script, each with the key it comes from and the reason."""

from __future__ import annotations

from dataclasses import dataclass

SETUP = "software.setup"


@dataclass(frozen=True)
class Setting:
    """One derived value."""

    name: str
    """An sbatch option without dashes (`nodes`), or an environment variable (`NCCL_IB_HCA`)."""
    value: str
    """Empty for an option without a value (`exclusive`)."""
    key: str
    """Where it comes from: `fabric.hcas`, `job.resources.nodes`, `user.account`."""
    reason: str
    """Why, in a few words."""
    needs: str = ""
    """Of a variable that names a place on the node: a folder that has to be there, else the variable is not exported.
    Variables of the shell in it and in the value, such as $USER, are the node's. Left out, the value is plain text."""


@dataclass(frozen=True)
class Layout:
    """How one stage lies on the cluster."""

    partition: str | None
    nodes: int
    ranks_per_node: int
    cores_per_rank: int
    gpus_per_node: int
    time_s: float
    warning_s: float
    """How long before the limit the warning signal comes: at least two checkpoint writes and one step."""
    stage: str = ""
    """Its name, for the job's name in the queue."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Container:
    """The image that ranks run in."""

    runtime: str
    image: str
    options: tuple[str, ...]
    """Of the runtime, as the site wants them."""
    mounts: tuple[str, ...]
    """PATH or PATH:INSIDE, beside the run and the code."""
    key: str
    """Where it comes from."""


@dataclass(frozen=True)
class Packed:
    """A Python environment that is unpacked on each node's own disk."""

    source: str
    """Archive, or folder."""
    disk: str
    """Folder of the node's own; may hold variables that the site sets."""
    key: str
    """Where it comes from."""


@dataclass(frozen=True)
class Settings:
    """Everything a script needs to know of the site, for one stage."""

    layout: Layout
    directives: tuple[Setting, ...]
    """In reading order: who and where, how much, how long, what happens at the end."""
    environment: tuple[Setting, ...]
    """Exported in this order; a later one of the same name wins and says so."""
    launcher: tuple[str, ...]
    """Tokens before the program: srun or mpirun with the binding and the number of ranks."""
    software: tuple[Setting, ...]
    """Shell lines (name is a label): modules, then those of SETUP, which are the site's code as it stands, then those
    that put a Python environment first."""
    python: str
    """The interpreter on the compute nodes."""
    prepare: tuple[Setting, ...] = ()
    """Commands run once in the run directory before the first write (name is a label, value a shell line)."""
    python_key: str = "software.python"
    """Where the interpreter comes from."""
    site_python: str = ""
    """The site's own, for the script's small programs; empty where the stage's own serves."""
    inside: Container | Packed | None = None
    """What the ranks run in, where that takes more than a line."""
