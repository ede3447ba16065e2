"""The fabric's environment: a table, one function for each kind of fabric.

RCCL, on AMD's GPUs, reads the variables of NCCL by the same names. What a kind of fabric wants everywhere stands here;
what sites with the same fabric do each in their own way stands in `environment:` of their profiles. Where a site's own
modules or containers set the variables (`tuned_by: site`) a script sets none of them.
"""

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
    settings = _FABRIC[fabric.kind](profile, fabric)
    return [
        replace(s, key=key + s.key.removeprefix("fabric")) if s.key.startswith("fabric.") else s
        for s in settings
        if layout.gpus_per_node or not s.name.startswith("NCCL_")
    ]


def _interfaces(fabric: Fabric, exactly: str = "=") -> list[Setting]:
    """NCCL and Gloo meet over IP, whatever carries the data afterwards."""
    names = ",".join(fabric.interfaces)
    reason = "where ranks meet" + ("; = takes just these" if exactly else "")
    settings = [
        Setting("NCCL_SOCKET_IFNAME", exactly + names, "fabric.interfaces", reason),
        Setting("GLOO_SOCKET_IFNAME", names, "fabric.interfaces", "not over a management network"),
    ]
    return settings if names else []


def _infiniband(profile: Profile, fabric: Fabric) -> list[Setting]:
    settings = _interfaces(fabric)
    if fabric.hcas:
        ports = ",".join(f"{hca}:1" for hca in fabric.hcas)
        exactly = f"={','.join(fabric.hcas)}"
        settings += [
            Setting("NCCL_IB_HCA", exactly, "fabric.hcas", "= so that mlx5_1 is not mlx5_10 too"),
            Setting("UCX_NET_DEVICES", ports, "fabric.hcas", "the adapters and their port"),
        ]
    return [*settings, *_gpu_direct(fabric), *_mpi(profile, fabric, {"OMPI_MCA_pml": "ucx"}, "mlx")]


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
    settings = [*_interfaces(fabric), Setting("NCCL_IB_DISABLE", "1", "fabric.kind", "there is no InfiniBand to find")]
    if (fabric.rate_bytes_per_s or 0) >= FAST_ETHERNET_BYTES_PER_S:
        for name in ("NCCL_SOCKET_NTHREADS", "NCCL_NSOCKS_PERTHREAD"):
            settings.append(Setting(name, "4", "fabric.rate", "one TCP connection does not fill this wire"))
    return [*settings, *_mpi_over_tcp(profile, fabric)]


def _slingshot(profile: Profile, fabric: Fabric) -> list[Setting]:
    """HPE Slingshot by libfabric's cxi; NCCL and RCCL reach it by the AWS OFI plugin.

    Sites agree on no more than this. The name of the plugin (NCCL_NET), the monitor of registered memory, the sizes of
    queues, hardware or software matching and the rendezvous differ between Alps, Isambard-AI, Perlmutter, Frontier and
    LUMI, and each is right where it is.
    """
    return [*_interfaces(fabric), *_gpu_direct(fabric), *_mpi(profile, fabric, {}, "cxi")]


def _efa(profile: Profile, fabric: Fabric) -> list[Setting]:
    """As AWS's cheat sheet has it for libfabric from 1.18 and aws-ofi-nccl from 1.7 on: its plugin sets the rest."""
    return [
        *_interfaces(fabric),
        Setting("FI_PROVIDER", "efa", "fabric.kind", "the adapter, never TCP"),
        Setting("FI_EFA_USE_HUGE_PAGE", "0", "fabric.kind", "huge pages fail in a process that forks (data loaders)"),
        *_mpi(profile, fabric, {}, "efa"),
    ]


def _omni_path(profile: Profile, fabric: Fabric) -> list[Setting]:
    settings = [*_interfaces(fabric), Setting("FI_PROVIDER", "psm2", "fabric.kind", "the adapter's own protocol")]
    return [*settings, *_mpi(profile, fabric, {"OMPI_MCA_pml": "cm", "OMPI_MCA_mtl": "psm2"}, "psm2")]


def _tcpx(profile: Profile, fabric: Fabric) -> list[Setting]:
    names = ("NCCL_GPUDIRECTTCPX_CTRL_DEV", "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME")
    plugin = Setting("NCCL_NET", "GPUDirectTCPX_v7", "fabric.kind", "fail at the start rather than fall back to TCP")
    return [plugin, *_gpu_direct_tcp(profile, fabric, *names)]


def _tcpxo(profile: Profile, fabric: Fabric) -> list[Setting]:
    return _gpu_direct_tcp(profile, fabric, "NCCL_FASTRAK_CTRL_DEV", "NCCL_FASTRAK_IFNAME")


def _gpu_direct_tcp(profile: Profile, fabric: Fabric, control: str, data: str) -> list[Setting]:
    """Google's GPUDirect over TCP. Its plugins compare these variables with what they expect, so names stand plain."""
    names, gpu_names = ",".join(fabric.interfaces), ",".join(fabric.gpu_interfaces)
    settings = _interfaces(fabric, exactly="")
    if names:
        settings.append(Setting(control, names, "fabric.interfaces", "its own words go over the host's network"))
    if gpu_names:
        settings.append(Setting(data, gpu_names, "fabric.gpu_interfaces", "the GPUs' data"))
    return [*settings, *_mpi_over_tcp(profile, fabric)]


def _none(profile: Profile, fabric: Fabric) -> list[Setting]:
    return []


_FABRIC: dict[str, Callable[[Profile, Fabric], list[Setting]]] = {
    "infiniband": _infiniband,
    "roce": _roce,
    "ethernet": _ethernet,
    "slingshot": _slingshot,
    "efa": _efa,
    "omni-path": _omni_path,
    "tcpx": _tcpx,
    "tcpxo": _tcpxo,
    "none": _none,
}


def _gpu_direct(fabric: Fabric) -> list[Setting]:
    if fabric.gdr_level is None:
        return []
    reason = "how far an adapter may stand from a GPU whose memory it reads"
    return [Setting("NCCL_NET_GDR_LEVEL", fabric.gdr_level, "fabric.gdr_level", reason)]


def _mpi_over_tcp(profile: Profile, fabric: Fabric) -> list[Setting]:
    """The MPIs on Ethernet; what they are not told to use they look for, and find management networks."""
    names, reason = ",".join(fabric.interfaces), "not over a management network"
    transports = "tcp,self,sm" + (",cuda" if profile.software.mpi.gpu_aware else "")
    settings = [Setting("UCX_TLS", transports, "fabric.kind", "TCP between nodes, memory inside")]
    if names:
        settings.append(Setting("UCX_NET_DEVICES", names, "fabric.interfaces", reason))
    if len(fabric.interfaces) == 1:  # libfabric's TCP provider takes one
        settings.append(Setting("FI_TCP_IFACE", names, "fabric.interfaces", reason))
    tcp = {"OMPI_MCA_pml": "ob1", **({"OMPI_MCA_btl_tcp_if_include": names} if names else {})}
    return [*settings, *_mpi(profile, fabric, tcp, "tcp")]


def _mpi(profile: Profile, fabric: Fabric, open_mpi: dict[str, str], provider: str) -> list[Setting]:
    """What the site's own MPI is told; Intel's by libfabric's provider, where its own choice may be another."""
    values, name = {
        "openmpi": (open_mpi, "Open MPI"),
        "intel-mpi": ({"I_MPI_OFI_PROVIDER": provider}, "Intel MPI"),
    }.get(profile.software.mpi.flavour, ({}, ""))
    return [Setting(n, v, "software.mpi.flavour", f"{name} over {fabric.kind}") for n, v in values.items()]
