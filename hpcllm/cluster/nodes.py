"""The nodes of a cluster: cores, memory, GPUs and local disk."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from hpcllm.source import Record
from hpcllm.units import Bytes, BytesPerSecond, FlopsPerSecond

Positive = Annotated[int, Field(ge=1)]


def core_numbers(ranges: str) -> tuple[int, ...]:
    """`"0-3,8"` -> (0, 1, 2, 3, 8). Raises ValueError for anything else."""
    numbers: list[int] = []
    for part in ranges.split(","):
        matched = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not matched or int(matched[2] or matched[1]) < int(matched[1]):
            raise ValueError(f"found {ranges!r}; expected ranges of core numbers such as 0-15 or 0-7,32-39")
        numbers += range(int(matched[1]), int(matched[2] or matched[1]) + 1)
    return tuple(numbers)


class Gpus(Record):
    """The GPUs of one node."""

    model: str
    """As in accelerators.py, such as A100-80GB; another name is allowed, its speed is then unknown."""
    count: Positive
    """As Slurm counts them: an MI250X is two."""
    memory_bytes: Bytes
    """Of one."""
    link_bytes_per_s: BytesPerSecond | None = None
    """Between two GPUs of the node, one way (NVLink, xGMI)."""
    cores: tuple[str, ...] = ()
    """The cores next to each GPU, in the GPUs' order, as ranges: ["0-15", "16-31"]."""

    @model_validator(mode="after")
    def _cores_for_each(self) -> Gpus:
        if self.cores and len(self.cores) != self.count:
            raise ValueError(f"cores: found {len(self.cores)} ranges for {self.count} GPUs; expected one for each")
        numbers = [number for ranges in self.cores for number in core_numbers(ranges)]
        if len(numbers) != len(set(numbers)):
            raise ValueError("cores: a core stands next to two GPUs; share them out, each to one")
        return self


class LocalScratch(Record):
    """Disk inside a node."""

    path: str
    size_bytes: Bytes | None = None


class NodeType(Record):
    """One kind of node."""

    count: Positive
    sockets: Positive = 1
    numa_domains: Positive = 1
    cores: Positive
    """Physical cores of the whole node that jobs may use."""
    threads_per_core: Positive = 1
    memory_bytes: Bytes
    """Of the whole node, as much as jobs may use."""
    gpus: Gpus | None = None
    """Left out, the ranks compute on the cores."""
    flops_per_s: Annotated[FlopsPerSecond | None, Field(alias="flops")] = None
    """Speed of a large matmul on all cores of the node together, measured; plans for CPUs need it."""
    memory_rate_bytes_per_s: BytesPerSecond | None = None
    """Memory bandwidth of the whole node, measured."""
    local_scratch: LocalScratch | None = None
