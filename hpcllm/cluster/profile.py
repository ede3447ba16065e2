"""A cluster as its admin describes it, once. Values that nobody knows are left out; a plan says when it misses one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hpcllm import source, yaml_text
from hpcllm.cluster.fabric import Fabric
from hpcllm.cluster.known import Known
from hpcllm.cluster.measured import Measured
from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.price import Price
from hpcllm.cluster.scheduler import Partition, Scheduler
from hpcllm.cluster.software import Internet, Software
from hpcllm.cluster.storage import Filesystem
from hpcllm.cluster.user import user_file
from hpcllm.errors import Problem, SourceError
from hpcllm.mistakes import not_among
from hpcllm.names import Environment
from hpcllm.run_directory import Run
from hpcllm.units import Seconds
from hpcllm.yaml_text import Document

NOT_INHERITED = ("verified", "measured")  # what was proved of one profile does not hold for another


class Verified(Known):
    """How far this profile can be trusted."""

    how: Literal["documented", "emulated", "on-site", "example", "detected"]
    """documented: from the site's pages. emulated: its rules ran on a lab. on-site: jobs ran there.
    example: a system that stands for many, and is none. detected: read from the machine that it describes."""
    date: date
    """When it was proved, or read."""


class Source(Known):
    """A page that values of this profile were taken from. A comment `[NAME]` behind a value cites it."""

    what: str
    """Its address, with the commit where there is one."""
    read: date
    """The day it was read."""
    dated: date | None = None
    """Its own date."""
    by: Literal["site", "vendor", "user"] = "site"
    """Who wrote it; a user's notes can be wrong."""


class Contact(Known):
    """Whom to ask."""

    support: str | None = None
    """Address of the site's support: mail or page."""
    documentation: str | None = None
    """Where the site describes its system."""


class Reliability(Known):
    """How often nodes fail."""

    node_mtbf_s: Seconds | None = None
    """Mean time between failures of one node."""


class Profile(Known):
    """One cluster."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """By which --cluster finds it; the file is NAME.yaml."""
    description: str = ""
    """The system in a line."""
    extends: str | None = None
    """Another profile, by name or by path from this file, that this one changes: maps are merged, all else replaced;
    `KEY: null` takes a key away."""
    verified: Verified
    """How far this profile can be trusted, and since when."""
    contact: Contact | None = None
    """Whom to ask."""
    sources: dict[str, Source] = {}
    """Pages that values were taken from, by a short name; a comment [NAME] behind a value cites one."""
    scheduler: Scheduler
    """Slurm: its queues, its limits, and the words in which it is asked for things."""
    nodes: dict[str, NodeType]
    """Its kinds of nodes by a name of your own."""
    fabric: Fabric
    """The network between the nodes."""
    filesystems: dict[str, Filesystem]
    """The filesystems that jobs may use, by a name of your own."""
    software: Software
    """How a job gets its Python and its MPI."""
    internet: Internet = Internet()
    """Which nodes reach the internet."""
    environment: Environment = {}
    """Variables that this site wants; they win over what is derived from the fabric."""
    reliability: Reliability | None = None
    """How often nodes fail; with it the checkpoint interval is planned."""
    price: Price | None = None
    """What computing costs; with it a plan says what a run costs."""
    measured: Measured | None = None
    """What `hpcllm profile probe` measured; plans prefer it."""

    def contradictions(self) -> Iterator[tuple[source.FieldPath, str]]:
        """No nodes or filesystems; partitions that name no node type, or a QOS that is not there."""
        for key in ("nodes", "filesystems"):
            if not getattr(self, key):
                yield (key,), "expected at least one"
        if self.scheduler.kind == "slurm" and not self.scheduler.partitions:
            yield ("scheduler", "partitions"), "a Slurm cluster has at least one"
        for name, partition in self.scheduler.partitions.items():
            here = ("scheduler", "partitions", name)
            if partition.node_type not in self.nodes:
                yield (*here, "node_type"), not_among(partition.node_type, self.nodes)
            used = [("qos", partition.qos), *(("allow_qos", qos) for qos in partition.allow_qos or ())]
            for key, qos in used if self.scheduler.qos else []:
                if qos and qos not in self.scheduler.qos:
                    yield (*here, key), not_among(qos, self.scheduler.qos)

    def partition(self, name: str | None) -> tuple[str | None, Partition | None]:
        """The partition of that name, or the default one. Raises KeyError for an unknown name; local has none."""
        partitions = self.scheduler.partitions
        if name is None and partitions:
            name = next((n for n, p in partitions.items() if p.default), next(iter(partitions)))
        return name, None if name is None else partitions[name]

    def node_type(self, partition: str | None) -> NodeType:
        """The nodes of a partition; of the only (or first) type where there are no partitions."""
        return self.nodes[self.node_type_name(partition)]

    def node_type_name(self, partition: str | None) -> str:
        """The name under `nodes:` of a partition's nodes."""
        _, found = self.partition(partition)
        return found.node_type if found else next(iter(self.nodes))

    def fabric_of(self, partition: str | None) -> tuple[Fabric, str]:
        """The network of a partition's nodes, and its key: `fabric`, or `nodes.NAME.fabric`."""
        name = self.node_type_name(partition)
        own = self.nodes[name].fabric
        return (own, f"nodes.{name}.fabric") if own else (self.fabric, "fabric")

    def exclusive_in(self, partition: str | None) -> tuple[bool, str]:
        """Whether jobs in a partition ask for whole nodes, and the key that says so."""
        name, found = self.partition(partition)
        if found is None or found.exclusive is None:
            return self.scheduler.exclusive, "scheduler.exclusive"
        return found.exclusive, f"scheduler.partitions.{name}.exclusive"

    def scratch(self) -> Filesystem:
        """The filesystem that runs are written to."""
        return self.filesystems[self.scratch_name()]

    def scratch_name(self) -> str:
        """Its name under `filesystems:`: the first with that purpose, else the first."""
        names = list(self.filesystems)
        return next((name for name in names if self.filesystems[name].purpose == "scratch"), names[0])


def load_profile(path: Path) -> Profile:
    """Read a profile file and what it extends. Raises SourceError with all of its mistakes."""
    return source.whole(source.examine(profile_document(path), Profile, str(path)))


def profile_document(path: Path) -> Document:
    """A profile file merged over what it extends, and where each value stands.

    Raises SourceError for a file that is not YAML, or extends what is not there or extends itself.
    """
    return _read(path, ())


def _read(path: Path, below: tuple[Path, ...]) -> Document:
    own = yaml_text.read(source.read_text(path), str(path))
    base = own.data.get("extends") if isinstance(own.data, dict) else None
    if not isinstance(base, str):
        return own
    file = _base(path, base)
    if file is None or file.resolve() in [p.resolve() for p in (*below, path)]:
        what = _no_such(path, base) if file is None else "profiles extend each other in a circle"
        raise SourceError([*own.problems, Problem(*own.places["extends",], "extends", f"found {base!r}; {what}")])
    extended = _read(file, (*below, path))
    if not isinstance(extended.data, dict):
        return own
    inherited = {key: value for key, value in extended.data.items() if key not in NOT_INHERITED}
    return Document(
        source.merged(inherited, own.data),
        {**extended.places, **own.places},
        (*extended.problems, *own.problems),
        (*extended.ambiguous, *own.ambiguous),
    )


def _base(path: Path, name: str) -> Path | None:
    """The file that `extends: name` means: a path from the file that says so, or a profile's name."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        found = path.parent / name
        return found if found.is_file() else None
    folders = [path.parent, *profile_folders()]
    files = [folder / f"{name}.yaml" for folder in folders]
    return next((file for file in files if file.is_file() and file.resolve() != path.resolve()), None)


def _no_such(path: Path, name: str) -> str:
    stems = sorted({file.stem for folder in (path.parent, *profile_folders()) for file in folder.glob("*.yaml")})
    near = difflib.get_close_matches(name, [stem for stem in stems if stem != path.stem], n=1)
    return "there is no such profile" + (f"; did you mean {near[0]}?" if near else "")


def frozen_profile(run: Run) -> Profile:
    """The profile of a run directory."""
    return source.frozen(run.resolved()["profile"], Profile, str(run.resolved_json))


def shipped_profiles() -> Path:
    """The folder of the profiles that come with hpcllm: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "cluster_profiles"
    return inside if inside.is_dir() else package.parent / "cluster_profiles"


def user_profiles() -> Path:
    """The folder of a person's own profiles, beside user.yaml: where a probe writes what it may not write elsewhere."""
    return user_file().parent / "profiles"


def profile_folders() -> list[Path]:
    """Where a profile's name is looked for, in order."""
    named = [Path(os.environ["HPCLLM_PROFILES"])] if os.environ.get("HPCLLM_PROFILES") else []
    return [user_profiles(), *named, Path("/etc/hpcllm/profiles"), shipped_profiles()]
