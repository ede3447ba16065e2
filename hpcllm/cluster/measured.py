"""What `profile probe` measured on a cluster: the section `measured:` of its profile."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field

from hpcllm.cluster.known import Known
from hpcllm.units import BytesPerSecond, FlopsPerSecond, Positive, Seconds

Date = date  # a field below is called so too


class MeasuredFabric(Known):
    """The network between the nodes, by MPI, one rank a node."""

    date: Date | None = None
    """When, where it was another day than the section's: a later probe was of one node alone."""
    rate_bytes_per_s: BytesPerSecond | None = None
    """Of a 4 MiB message between two nodes, both ways at once, each way, as preflight measures it: the median over the
    pairs of nodes that are not slow."""
    latency_s: Seconds | None = None
    """Of a small message between two nodes, one way: the median over the pairs."""
    all_reduce_bytes_per_s: BytesPerSecond | None = None
    """Bus bandwidth of a large all-reduce over all nodes: 2(n−1)/n · bytes / time."""
    gpu_all_reduce_bytes_per_s: BytesPerSecond | None = None
    """The same of all GPUs of all nodes, by NCCL or RCCL."""


class MeasuredNode(Known):
    """One kind of node."""

    date: Date | None = None
    """When, where it was another day than the section's: a later probe was of other nodes."""
    flops_per_s: Annotated[FlopsPerSecond | None, Field(alias="flops")] = None
    """Of a large matmul on all cores of a node together, the slowest node's that is not named as slow."""
    gpu_flops_per_s: Annotated[FlopsPerSecond | None, Field(alias="gpu_flops")] = None
    """Of a large 16-bit matmul on one GPU, the slowest one's."""
    gpu_memory_rate_bytes_per_s: BytesPerSecond | None = None
    """Memory bandwidth of one GPU, the slowest one's."""
    memory_rate_bytes_per_s: BytesPerSecond | None = None
    """Memory bandwidth of a whole node, on its cores."""
    all_reduce_bytes_per_s: BytesPerSecond | None = None
    """Bus bandwidth of a large all-reduce inside a node by MPI, through its memory: 2(n−1)/n · bytes / time."""
    gpu_all_reduce_bytes_per_s: BytesPerSecond | None = None
    """The same between its GPUs, by NCCL or RCCL."""
    fabric: MeasuredFabric | None = None
    """Where these nodes are on a network of their own (nodes.NAME.fabric)."""


class MeasuredFilesystem(Known):
    """One filesystem, all ranks together, each with a file of its own."""

    date: Date | None = None
    """When, where it was another day than the section's."""
    write_bytes_per_s: BytesPerSecond | None = None
    """Plain files."""
    read_bytes_per_s: BytesPerSecond | None = None
    """Plain files."""
    hdf5_write_bytes_per_s: BytesPerSecond | None = None
    """Through HDF5, as shards are written."""
    hdf5_read_bytes_per_s: BytesPerSecond | None = None
    """Through HDF5, as shards are read."""


class Measured(Known):
    """When, with which hpcllm, on how many nodes, and what was found."""

    date: Date
    """The day of the probe."""
    commit: str = ""
    """Of hpcllm."""
    world_size: Positive
    """Ranks of the probe."""
    hosts: tuple[str, ...] = ()
    """Its nodes."""
    library: str = ""
    """The MPI library that was loaded."""
    nodes: dict[str, MeasuredNode] = {}
    """By the names under `nodes:`."""
    fabric: MeasuredFabric | None = None
    """The network between the nodes."""
    filesystems: dict[str, MeasuredFilesystem] = {}
    """By the names under `filesystems:`."""
    clock_skew_s: Seconds | None = None
    """Largest difference between the clocks of two nodes."""
