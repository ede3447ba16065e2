"""The network between the nodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcllm.source import Record
from hpcllm.units import BytesPerSecond, Seconds


class Fabric(Record):
    """One network that training talks over."""

    kind: Literal["infiniband", "roce", "ethernet", "slingshot", "efa", "omni-path", "none"]
    """none: there is only one node."""
    rails: Annotated[int, Field(ge=1)] = 1
    """Network adapters of one node."""
    rate_bytes_per_s: BytesPerSecond | None = None
    """Of one rail, one way."""
    latency_s: Seconds | None = None
    """Of a small message between two nodes."""
    interfaces: tuple[str, ...] = ()
    """Names of the IP interfaces of this network on the compute nodes (ib0, hsn0, eth0)."""
    hcas: tuple[str, ...] = ()
    """Names of the adapters (mlx5_0), for InfiniBand and RoCE."""
    gpu_direct: bool = False
    """Whether the adapters read GPU memory without the CPU."""
    gid_index: int | None = None
    """RoCE: row of the adapters' GID table that routes (RoCE v2 over IPv4); left out, the libraries choose."""
    traffic_class: int | None = None
    """RoCE: class that the switches never drop, as the site has set them up."""
