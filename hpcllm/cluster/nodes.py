"""The nodes of a cluster: cores, memory, GPUs and local disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from hpcllm.cluster.fabric import Fabric
from hpcllm.cluster.known import Known
from hpcllm.cluster.price import Price
from hpcllm.names import Environment, Word
from hpcllm.source import FieldPath
from hpcllm.units import Bytes, BytesPerSecond, FlopsPerSecond, Positive, Seconds

MOST_CPUS = 2**16  # of one machine; Linux knows 8192


def core_numbers(ranges: str) -> tuple[int, ...]:
    """`"0-3,8"` -> (0, 1, 2, 3, 8). Raises ValueError for anything else."""
    numbers: list[int] = []
    for part in ranges.split(","):
        matched = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(matched[1][:9]), int((matched[2] or matched[1])[:9])) if matched else (1, 0)
        if not first <= last < MOST_CPUS:
            raise ValueError(f"found {ranges!r}; expected ranges of core numbers such as 0-15 or 0-7,32-39")
        numbers += range(first, last + 1)
    return tuple(numbers)


class Gpus(Known):
    """The GPUs of one node."""

    model: str
    """As in accelerators.py, such as A100-80GB; another name is allowed, its speed is then unknown."""
    count: Positive
    """As Slurm counts them: an MI250X is two."""
    memory_bytes: Bytes | None = None
    """Of one."""
    gres_type: Word | None = None
    """TYPE in --gres=gpu:TYPE:N and --gpus-per-node=TYPE:N, where the site wants one."""
    flops_per_s: Annotated[FlopsPerSecond | None, Field(alias="flops")] = None
    """Speed of a large 16-bit matmul on one, measured; left out, cluster/accelerators.py says what is known."""
    link_bytes_per_s: BytesPerSecond | None = None
    """Between two GPUs of the node, one way (NVLink, xGMI)."""
    cpus: tuple[str, ...] = ()
    """The CPUs next to each GPU that jobs may use, in the GPUs' order, as ranges: ["0-15", "16-31"]. CPUs as the kernel
    numbers them and `nvidia-smi topo -m` prints them: hardware threads, where threads_per_core is more than one."""
    numa: tuple[int, ...] = ()
    """The NUMA domain next to each GPU, in the GPUs' order."""
    nics: tuple[str, ...] = ()
    """The network adapter next to each GPU, in the GPUs' order: mlx5_0, hsn0."""

    @field_validator("cpus")
    @classmethod
    def _ranges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for ranges in value:
            core_numbers(ranges)
        return value

    def contradictions(self) -> Iterator[tuple[FieldPath, str]]:
        """Lists that are not one for each GPU, and CPUs next to two."""
        for name in ("cpus", "numa", "nics"):
            found = getattr(self, name)
            if found and len(found) != self.count:
                yield (name,), f"found {len(found)} for {self.count} GPUs; expected one for each"
        owner: dict[int, int] = {}
        for gpu, ranges in enumerate(self.cpus):
            twice = [number for number in core_numbers(ranges) if owner.setdefault(number, gpu) != gpu]
            if twice:
                what = f"CPU {twice[0]} stands next to GPU {owner[twice[0]]} too; share the CPUs out, each to one GPU"
                yield ("cpus", gpu), what


class LocalScratch(Known):
    """Disk inside a node."""

    path: str
    """May hold variables that the site sets, such as $TMPDIR."""
    size_bytes: Bytes | None = None
    """As much as a job may use."""
    kind: Literal["disk", "memory"] = "disk"
    """memory: it counts against the memory of the job."""
    stage: bool = False
    """Whether training first copies the shards there, once a node."""


class NodeType(Known):
    """One kind of node."""

    count: Positive | None = None
    """How many there are."""
    cpu: str = ""
    """Its processors, in words."""
    architecture: Literal["x86_64", "aarch64", "ppc64le"] = "x86_64"
    """Of its cores; software that was built for another one does not start."""
    sockets: Positive = 1
    """Processors of a node."""
    numa_domains: Positive = 1
    """NUMA domains of a node (lscpu), those that hold cores."""
    cores: Positive
    """Physical cores of the whole node that jobs may use."""
    threads_per_core: Positive = 1
    """Hardware threads of a core that Slurm counts as CPUs of a job; 1 where it counts cores."""
    memory_bytes: Bytes | None = None
    """Of the whole node, as much as jobs may use."""
    gpus: Gpus | None = None
    """Left out, the ranks compute on the cores."""
    fabric: Fabric | None = None
    """Where these nodes are on another network than the profile's `fabric`."""
    flops_per_s: Annotated[FlopsPerSecond | None, Field(alias="flops")] = None
    """Speed of a large matmul on all cores of the node together, measured; plans for CPUs need it."""
    memory_rate_bytes_per_s: BytesPerSecond | None = None
    """Memory bandwidth of the whole node, measured."""
    local_scratch: LocalScratch | None = None
    """Disk inside the node, where it has one."""
    environment: Environment = {}
    """Variables that these nodes want beside the profile's; they win over those."""
    modules: tuple[str, ...] = ()
    """Loaded before those of `software`, where these nodes want modules of their own (arch/h100)."""
    price: Price | None = None
    """Where it differs from the profile's."""
    mtbf_s: Seconds | None = None
    """Mean time between failures of one node, where it differs from reliability.node_mtbf."""
