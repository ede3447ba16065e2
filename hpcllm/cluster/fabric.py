"""The network between the nodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcllm.cluster.known import Known
from hpcllm.units import BytesPerSecond, Positive, Seconds


class Fabric(Known):
    """One network that training talks over."""

    kind: Literal["infiniband", "roce", "ethernet", "slingshot", "efa", "omni-path", "tcpx", "tcpxo", "none"]
    """tcpx, tcpxo: Google's GPUDirect over Ethernet (A3 High, A3 Mega). none: there is only one node."""
    rails: Positive = 1
    """Network adapters of one node."""
    rate_bytes_per_s: BytesPerSecond | None = None
    """Of one rail, one way."""
    latency_s: Seconds | None = None
    """Of a small message between two nodes."""
    topology: Literal["fat-tree", "dragonfly", "dragonfly+", "torus", "hypercube", "rail", "switch"] | None = None
    """How its switches are joined."""
    oversubscription: Annotated[float, Field(ge=1)] | None = None
    """Of the network beyond the first switch: 2 means that half of the nodes' rate gets through."""
    switch_nodes: Positive | None = None
    """Nodes on one first switch."""
    group_nodes: Positive | None = None
    """Nodes of one group of a dragonfly, or of one island."""
    nvlink_nodes: Positive | None = None
    """Nodes of one NVLink domain, where NVLink reaches over nodes (18 in a GB200 NVL72)."""
    interfaces: tuple[str, ...] = ()
    """Names of the IP interfaces on the compute nodes over which NCCL and Gloo meet (ib0, hsn0, eth0)."""
    gpu_interfaces: tuple[str, ...] = ()
    """tcpx, tcpxo: the interfaces that carry the GPUs' data."""
    hcas: tuple[str, ...] = ()
    """Names of the adapters (mlx5_0), for InfiniBand and RoCE."""
    gdr_level: Literal["LOC", "PIX", "PXB", "PHB", "SYS"] | None = None
    """How far an adapter may stand from a GPU whose memory it reads (NCCL_NET_GDR_LEVEL); left out, NCCL decides."""
    tuned_by: Literal["script", "site"] = "script"
    """Who sets the variables of NCCL, UCX and libfabric: the script, from this section; or the site, by its modules and
    containers, and then the script exports only what stands in `environment:`."""
    gid_index: int | None = None
    """RoCE: row of the adapters' GID table that routes (RoCE v2 over IPv4); left out, the libraries choose."""
    traffic_class: int | None = None
    """RoCE: class that the switches never drop, as the site has set them up."""
