"""The words that put each rank into an image, behind the launcher: `srun … apptainer exec --nv IMAGE python train.py`.

Runtimes differ in what they pass on. Apptainer, Singularity and Shifter hand all variables to the program; pyxis lets
the image's own win unless they are named; podman takes none that is not named. Where each says so:
apptainer.org/docs/user/main (environment_and_metadata, bind_paths_and_mounts) · github.com/NVIDIA/pyxis/wiki/Usage ·
docs.podman.io podman-run (--env, --volume) · docs.nersc.gov development/containers (podman-hpc, shifter) ·
docs.cscs.ch software/container-engine (edf, run).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from hpcllm.derive.setting import Container
from hpcllm.errors import UserError
from hpcllm.launch.scripts.shell import expanding, in_double_quotes, quoted

BY_SRUN = ("pyxis", "container-engine")  # options of srun, so that nothing of them works without it
PLACE = ("SLURM_*", "PMI_*", "PMIX_*", "OMPI_*", "MPI_*")  # where a rank learns its place, by podman's wildcards
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "PYTHONPATH")


@dataclass(frozen=True)
class Inside:
    """What a rank finds in the image."""

    container: Container
    folders: tuple[str, ...]
    """The run, and what else the program works in, by the same path as outside."""
    cwd: str
    variables: tuple[str, ...]
    """Those that the script exports."""

    def words(self) -> list[str]:
        """For bash, between the launcher and the program. Raises UserError for a folder that cannot be mounted."""
        return _WORDS[self.container.runtime](self)

    def edf(self) -> str | None:
        """The container engine takes mounts from a file alone; this one adds ours to the user's."""
        if self.container.runtime != "container-engine":
            return None
        lines = [
            "# The user's own, and what the run needs (docs.cscs.ch: mounts are added to those of the base).",
            f"base_environment = {json.dumps(self.container.image)}",
            f"workdir = {json.dumps(self.cwd)}",
            f"mounts = {json.dumps([*_same(self.folders), *_both(self.container.mounts)])}",
        ]
        return "\n".join(lines) + "\n"

    def mounts(self) -> list[str]:
        """OUTSIDE:INSIDE, as words for bash. The site's and the user's may hold variables."""
        return [*map(quoted, _same(self.folders)), *map(expanding, _both(self.container.mounts))]

    def options(self) -> list[str]:
        """The site's; plain variables in them are the node's."""
        return [expanding(word) if "$" in word else quoted(word) for word in self.container.options]


def _same(folders: tuple[str, ...]) -> list[str]:
    """Ours, by the same path inside as outside."""
    for folder in folders:
        if {",", ":"} & set(folder):
            raise UserError(f"{folder}: cannot be mounted into an image; expected a path without commas and colons")
    return [f"{folder}:{folder}" for folder in folders]


def _both(mounts: tuple[str, ...]) -> list[str]:
    """The site's and the user's: PATH or PATH:INSIDE."""
    for mount in mounts:
        if "," in mount:
            raise UserError(f"software.environment.mounts: found {mount!r}; expected a path without commas")
    return [mount if ":" in mount else f"{mount}:{mount}" for mount in mounts]


def _apptainer(inside: Inside) -> list[str]:
    binds = [word for mount in inside.mounts() for word in ("--bind", mount)]
    image = quoted(inside.container.image)
    return [inside.container.runtime, "exec", *inside.options(), *binds, "--pwd", quoted(inside.cwd), image]


def _podman(inside: Inside) -> list[str]:
    volumes = [word for mount in inside.mounts() for word in ("--volume", mount)]
    named = [word for name in (*PLACE, *RENDEZVOUS, *inside.variables) for word in ("--env", quoted(name))]
    where = ["--workdir", quoted(inside.cwd), quoted(inside.container.image)]
    return ["podman-hpc", "run", "--rm", *inside.options(), *volumes, *named, *where]


def _shifter(inside: Inside) -> list[str]:
    """It mounts the site's filesystems itself, and lets nobody mount over them."""
    extra = [f"--volume={expanding(mount)}" for mount in _both(inside.container.mounts)]
    image = f"--image={quoted(inside.container.image)}"
    return ["shifter", image, f"--workdir={quoted(inside.cwd)}", *extra, *inside.options()]


def _pyxis(inside: Inside) -> list[str]:
    mounts = [*map(in_double_quotes, _same(inside.folders)), *map(expanding, _both(inside.container.mounts))]
    return [
        f"--container-image={quoted(inside.container.image)}",
        f'"--container-mounts={",".join(mount[1:-1] for mount in mounts)}"',
        f"--container-workdir={quoted(inside.cwd)}",
        quoted(f"--container-env={','.join((*RENDEZVOUS, *inside.variables))}"),
        *inside.options(),
    ]


def _container_engine(inside: Inside) -> list[str]:
    return ['--environment="$RUN"/env/environment.toml', *inside.options()]


_WORDS: dict[str, Callable[[Inside], list[str]]] = {
    "apptainer": _apptainer,
    "singularity": _apptainer,
    "podman-hpc": _podman,
    "shifter": _shifter,
    "pyxis": _pyxis,
    "container-engine": _container_engine,
}
