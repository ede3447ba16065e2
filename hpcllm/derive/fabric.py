"""The fabric's environment: a table, one function for each kind of fabric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hpcllm.cluster.fabric import Fabric
from hpcllm.cluster.profile import Profile
from hpcllm.derive.setting import Layout, Setting

FAST_ETHERNET_BYTES_PER_S = 50e9 / 8  # from here on one TCP connection does not fill the wire


def fabric_environment(profile: Profile, layout: Layout) -> list[Setting]:
    """What NCCL, Gloo, UCX, libfabric and the MPI are told about the network between the nodes."""
    fabric, key = profile.fabric_of(layout.partition)
    if fabric.tuned_by == "site":
        return []
    settings = [*_interfaces(fabric), *_FABRIC[fabric.kind](profile, fabric)]
    settings = [replace(s, key=s.key.replace("fabric", key, 1)) for s in settings]
    gpus_only = ("NCCL_", "MPICH_GPU_")
    return [s for s in settings if layout.gpus_per_node or not s.name.startswith(gpus_only)]


def _interfaces(fabric: Fabric) -> list[Setting]:
    """NCCL and Gloo meet over IP, whatever carries the data afterwards."""
    if not fabric.interfaces:
        return []
    names = ",".join(fabric.interfaces)
    return [
        Setting("NCCL_SOCKET_IFNAME", f"={names}", "fabric.interfaces", "where ranks meet; = takes just these"),
        Setting("GLOO_SOCKET_IFNAME", names, "fabric.interfaces", "not over a management network"),
    ]


def _infiniband(profile: Profile, fabric: Fabric) -> list[Setting]:
    settings = []
    if fabric.hcas:
        ports = ",".join(f"{hca}:1" for hca in fabric.hcas)
        exactly = f"={','.join(fabric.hcas)}"
        settings += [
            Setting("NCCL_IB_HCA", exactly, "fabric.hcas", "= so that mlx5_1 is not mlx5_10 too"),
            Setting("UCX_NET_DEVICES", ports, "fabric.hcas", "the adapters and their port"),
        ]
    return [*settings, *_gpu_direct(fabric), *_open_mpi(profile, fabric, {"OMPI_MCA_pml": "ucx"})]


def _roce(profile: Profile, fabric: Fabric) -> list[Setting]:
    """InfiniBand's verbs over Ethernet: also which address they use, and the class that the switches never drop."""
    numbers = [
        ("NCCL_IB_GID_INDEX", "UCX_IB_GID_INDEX", fabric.gid_index, "fabric.gid_index", "the address that routes"),
        ("NCCL_IB_TC", "UCX_IB_TRAFFIC_CLASS", fabric.traffic_class, "fabric.traffic_class", "what is never dropped"),
    ]
    known = [row for row in numbers if row[2] is not None]
    extra = [Setting(name, str(row[2]), row[3], row[4]) for row in known for name in row[:2]]
    return [*_infiniband(profile, fabric), *extra]


def _ethernet(profile: Profile, fabric: Fabric) -> list[Setting]:
    """TCP. Sockets × threads stay at 16, below NCCL's limit of 64."""
    settings = [Setting("NCCL_IB_DISABLE", "1", "fabric.kind", "there is no InfiniBand to look for")]
    if (fabric.rate_bytes_per_s or 0) >= FAST_ETHERNET_BYTES_PER_S:
        for name in ("NCCL_SOCKET_NTHREADS", "NCCL_NSOCKS_PERTHREAD"):
            settings.append(Setting(name, "4", "fabric.rate", "one TCP connection does not fill this wire"))
    settings.append(Setting("UCX_TLS", "tcp,self,sm", "fabric.kind", "TCP between nodes, memory inside"))
    names = ",".join(fabric.interfaces)
    if names:
        settings.append(Setting("UCX_NET_DEVICES", names, "fabric.interfaces", "not over a management network"))
    if len(fabric.interfaces) == 1:  # libfabric's TCP provider takes one
        settings.append(Setting("FI_TCP_IFACE", names, "fabric.interfaces", "not over a management network"))
    tcp = {"OMPI_MCA_pml": "ob1", **({"OMPI_MCA_btl_tcp_if_include": names} if names else {})}
    return [*settings, *_open_mpi(profile, fabric, tcp)]


def _slingshot(profile: Profile, fabric: Fabric) -> list[Setting]:
    """HPE Slingshot by libfabric's cxi; NCCL and RCCL reach it by the AWS OFI plugin.

    Values as CSCS documents them for NCCL on Alps (docs.cscs.ch, communication/nccl), read 2026-11.
    """
    values = {
        "NCCL_NET": ("AWS Libfabric", "fail at the start rather than fall back to TCP"),
        "NCCL_CROSS_NIC": ("1", "every adapter reaches every other"),
        "FI_CXI_DEFAULT_CQ_SIZE": ("131072", "room for the completions of many ranks"),
        "FI_CXI_DEFAULT_TX_SIZE": ("16384", "room for the sends of many ranks"),
        "FI_CXI_DISABLE_HOST_REGISTER": ("1", "registering host memory with the GPU can hang"),
        "FI_CXI_RX_MATCH_MODE": ("software", "hardware matching runs out of entries"),
        "FI_MR_CACHE_MONITOR": ("userfaultfd", "the default monitor can hang beside NCCL"),
    }
    settings = [Setting(name, value, "fabric.kind", reason) for name, (value, reason) in values.items()]
    if not profile.software.mpi.gpu_aware:
        reason = "GPU-aware MPI can deadlock beside NCCL and RCCL"
        settings.append(Setting("MPICH_GPU_SUPPORT_ENABLED", "0", "software.mpi.gpu_aware", reason))
    return [*settings, *_gpu_direct(fabric)]


def _efa(profile: Profile, fabric: Fabric) -> list[Setting]:
    return [
        Setting("FI_PROVIDER", "efa", "fabric.kind", "the adapter, never TCP"),
        Setting("FI_EFA_USE_HUGE_PAGE", "0", "fabric.kind", "huge pages fail in a process that forks (data loaders)"),
    ]


def _omni_path(profile: Profile, fabric: Fabric) -> list[Setting]:
    settings = [Setting("FI_PROVIDER", "psm2", "fabric.kind", "the adapter's own protocol")]
    return [*settings, *_open_mpi(profile, fabric, {"OMPI_MCA_pml": "cm", "OMPI_MCA_mtl": "psm2"})]


def _none(profile: Profile, fabric: Fabric) -> list[Setting]:
    return []


_FABRIC: dict[str, Callable[[Profile, Fabric], list[Setting]]] = {
    "infiniband": _infiniband,
    "roce": _roce,
    "ethernet": _ethernet,
    "slingshot": _slingshot,
    "efa": _efa,
    "omni-path": _omni_path,
    "tcpx": _none,
    "tcpxo": _none,
    "none": _none,
}


def _gpu_direct(fabric: Fabric) -> list[Setting]:
    if not fabric.gpu_direct:
        return []
    reason = "adapters read the memory of GPUs on their side"
    return [Setting("NCCL_NET_GDR_LEVEL", "PHB", "fabric.gpu_direct", reason)]


def _open_mpi(profile: Profile, fabric: Fabric, values: dict[str, str]) -> list[Setting]:
    if profile.software.mpi.flavour != "openmpi":
        return []
    return [Setting(n, v, "software.mpi.flavour", f"Open MPI over {fabric.kind}") for n, v in values.items()]
