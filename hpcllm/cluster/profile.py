"""A cluster as its admin describes it, once. Values that nobody knows are left out; a plan says when it misses one."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hpcllm import source
from hpcllm.cluster.fabric import Fabric
from hpcllm.cluster.nodes import NodeType
from hpcllm.cluster.scheduler import Partition, Scheduler
from hpcllm.cluster.software import Software
from hpcllm.cluster.storage import Filesystem
from hpcllm.names import Environment
from hpcllm.run_directory import Run
from hpcllm.source import Record
from hpcllm.units import Seconds


class Verified(Record):
    """How far this profile can be trusted."""

    how: Literal["documented", "emulated", "on-site", "example", "detected"]
    """documented: from the site's pages. emulated: its rules ran on a lab. on-site: jobs ran there.
    example: a system that stands for many, and is none. detected: read from the machine that it describes."""
    date: date


class Reliability(Record):
    """How often nodes fail."""

    node_mtbf_s: Seconds
    """Mean time between failures of one node."""


class Price(Record):
    """What computing costs."""

    gpu_hour: Annotated[float, Field(ge=0)] | None = None
    node_hour: Annotated[float, Field(ge=0)] | None = None
    unit: str
    """EUR, or the site's billing unit."""


class Profile(Record):
    """One cluster."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    documentation: str | None = None
    """Where the site describes its system."""
    verified: Verified
    scheduler: Scheduler
    nodes: dict[str, NodeType]
    fabric: Fabric
    filesystems: dict[str, Filesystem]
    software: Software
    environment: Environment = {}
    """Variables that this site wants; they win over what is derived from the fabric."""
    reliability: Reliability | None = None
    price: Price | None = None

    @field_validator("nodes", "filesystems")
    @classmethod
    def _not_empty(cls, value: dict[str, Record]) -> dict[str, Record]:
        if not value:
            raise ValueError("expected at least one")
        return value

    @model_validator(mode="after")
    def _names_resolve(self) -> Profile:
        for name, partition in self.scheduler.partitions.items():
            if partition.node_type not in self.nodes:
                raise ValueError(
                    f"scheduler.partitions.{name}.node_type: found {partition.node_type!r}; "
                    f"allowed are {', '.join(self.nodes)}"
                )
        if self.scheduler.kind == "slurm" and not self.scheduler.partitions:
            raise ValueError("scheduler.partitions: a Slurm cluster has at least one")
        return self

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

    def scratch(self) -> Filesystem:
        """The filesystem that runs are written to."""
        return self.filesystems[self.scratch_name()]

    def scratch_name(self) -> str:
        """Its name under `filesystems:`: the first with that purpose, else the first."""
        names = list(self.filesystems)
        return next((name for name in names if self.filesystems[name].purpose == "scratch"), names[0])


def load_profile(path: Path) -> Profile:
    """Read a profile file. Raises SourceError with all of its mistakes."""
    return source.load(path, Profile)


def frozen_profile(run: Run) -> Profile:
    """The profile of a run directory."""
    return source.check(run.resolved()["profile"], Profile, str(run.resolved_json), {})


def shipped_profiles() -> Path:
    """The folder of the profiles that come with hpcllm: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "cluster_profiles"
    return inside if inside.is_dir() else package.parent / "cluster_profiles"


def profile_folders() -> list[Path]:
    """Where a profile's name is looked for, in order."""
    own = [Path(os.environ["HPCLLM_PROFILES"])] if os.environ.get("HPCLLM_PROFILES") else []
    return [*own, Path("/etc/hpcllm/profiles"), shipped_profiles()]
