"""What `profile probe` measured on a cluster: the section `measured:` of its profile."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field

from hpcllm.cluster.known import Known
from hpcllm.units import BytesPerSecond, FlopsPerSecond, Seconds


class MeasuredNode(Known):
    """One kind of node."""

    flops_per_s: Annotated[FlopsPerSecond | None, Field(alias="flops")] = None
    """Of a large matmul on all cores of a node together, the slowest node's."""
    gpu_flops_per_s: Annotated[FlopsPerSecond | None, Field(alias="gpu_flops")] = None
    """Of a large 16-bit matmul on one GPU, the slowest one's."""
    memory_rate_bytes_per_s: BytesPerSecond | None = None
    """Memory bandwidth of a whole node, on its cores."""
    all_reduce_bytes_per_s: BytesPerSecond | None = None
    """Bus bandwidth of a large all-reduce inside a node: 2(n−1)/n · bytes / time."""


class MeasuredFabric(Known):
    """The network between the nodes, by MPI."""

    rate_bytes_per_s: BytesPerSecond | None = None
    """Of a large message between two nodes, one way, the median over the pairs."""
    latency_s: Seconds | None = None
    """Of a small message between two nodes, one way."""
    all_reduce_bytes_per_s: BytesPerSecond | None = None
    """Bus bandwidth of a large all-reduce over all nodes: 2(n−1)/n · bytes / time."""


class MeasuredFilesystem(Known):
    """One filesystem, all ranks together."""

    write_bytes_per_s: BytesPerSecond | None = None
    read_bytes_per_s: BytesPerSecond | None = None
    hdf5_write_bytes_per_s: BytesPerSecond | None = None
    hdf5_read_bytes_per_s: BytesPerSecond | None = None


class Measured(Known):
    """When, with which hpcllm, on how many nodes, and what was found."""

    date: date
    commit: str = ""
    """Of hpcllm."""
    world_size: Annotated[int, Field(ge=1)]
    hosts: tuple[str, ...] = ()
    library: str = ""
    """The MPI library that was loaded."""
    nodes: dict[str, MeasuredNode] = {}
    fabric: MeasuredFabric | None = None
    filesystems: dict[str, MeasuredFilesystem] = {}
    clock_skew_s: Seconds | None = None
    """Largest difference between the clocks of two nodes."""
