"""Do the network interfaces and adapters exist that variables and the profile name? No MPI in here.

A wrong name is a common fault of a cluster's settings, and its symptom is far from its cause: NCCL and Gloo give up
minutes later, MPI dies in its first line. So what MPI reads is looked at before MPI starts (`start_mpi`), on each node
alone, and everything afterwards, on all nodes together (`check_names`).
"""

from __future__ import annotations

import faulthandler
import fnmatch
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpcllm.errors import ExitCode
from hpcllm.parallel.finding import Finding
from hpcllm.parallel.launched import check_protocol, is_first_of_node, library_here, started_as
from hpcllm.parallel.world import World

ADAPTERS = Path("/sys/class")
START_S, START_S_OF_A_RANK = 30.0, 0.05  # longest that MPI may take to start
GRACE_S = 2.0

Kind = Literal["interface", "adapter", "either"]
Syntax = Literal["exact", "prefix", "pattern"]

# What each variable names, and how. Of NCCL, RCCL (docs: "Environment Variables"), Google's plugins, torch, UCX,
# libfabric (fi_tcp.7, fi_verbs.7), Open MPI, PRRTE, Hydra, Intel MPI and HCOLL.
VARIABLES: dict[str, tuple[Kind, Syntax]] = {
    "NCCL_SOCKET_IFNAME": ("interface", "prefix"),  # ^a,b leaves out, =a,b takes exactly these
    "NCCL_IB_HCA": ("adapter", "prefix"),  # likewise, and a name may have its port: mlx5_0:1
    "NCCL_OOB_NET_IFNAME": ("interface", "prefix"),
    "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME": ("interface", "exact"),
    "NCCL_GPUDIRECTTCPX_CTRL_DEV": ("interface", "exact"),
    "NCCL_FASTRAK_IFNAME": ("interface", "exact"),
    "NCCL_FASTRAK_CTRL_DEV": ("interface", "exact"),
    "GLOO_SOCKET_IFNAME": ("interface", "exact"),
    "TP_SOCKET_IFNAME": ("interface", "exact"),
    "UCX_NET_DEVICES": ("either", "pattern"),  # ^a,b leaves out; all
    "FI_TCP_IFACE": ("interface", "exact"),
    "FI_SOCKETS_IFACE": ("interface", "exact"),
    "FI_VERBS_IFACE": ("interface", "prefix"),
    "OMPI_MCA_btl_tcp_if_include": ("interface", "exact"),  # or networks: 10.0.0.0/16
    "OMPI_MCA_oob_tcp_if_include": ("interface", "exact"),
    "PRTE_MCA_oob_tcp_if_include": ("interface", "exact"),
    "HCOLL_MAIN_IB": ("adapter", "exact"),
    "MPIR_CVAR_NEMESIS_TCP_NETWORK_IFACE": ("interface", "exact"),
    "HYDRA_IFACE": ("interface", "exact"),
    "I_MPI_HYDRA_IFACE": ("interface", "exact"),
}
READ_BY_MPI = ("UCX_", "FI_", "OMPI_", "PRTE_", "HCOLL_", "MPIR_", "HYDRA_", "I_MPI_")


@dataclass(frozen=True)
class Network:
    """One node: what it has, and what the variables of its ranks name."""

    host: str
    interfaces: tuple[str, ...]
    adapters: tuple[str, ...]
    """Each with its port, where it has ports: mlx5_0:1, cxi0."""
    variables: tuple[tuple[str, str], ...]


def network_here(environment: Mapping[str, str] = os.environ) -> Network:
    """This node. Its interfaces as the kernel lists them to this process: /sys may be that of another namespace."""
    named = tuple((name, environment[name]) for name in VARIABLES if environment.get(name))
    ports = [f"{port.parent.parent.name}:{port.name}" for port in ADAPTERS.glob("infiniband/*/ports/*")]
    slingshot = [path.name for path in ADAPTERS.glob("cxi/*")]
    interfaces = tuple(name for _, name in socket.if_nameindex())
    return Network(socket.gethostname(), interfaces, (*sorted(ports), *sorted(slingshot)), named)


def before_mpi(network: Network) -> list[Finding]:
    """What is wrong on this node with the variables that MPI reads: with them it would die, or hang, as it starts."""
    read = tuple((name, value) for name, value in network.variables if name.startswith(READ_BY_MPI))
    return check_names([Network(network.host, network.interfaces, network.adapters, read)])


def start_mpi(failed: Callable[[str], None]) -> World:
    """The world, unless MPI would die as it starts without saying why.

    Of a name that this node does not have, or of a launcher that its library does not understand. One rank of such a
    node says it and hands it to `failed`; then all of them exit with 1.
    """
    wrong = before_mpi(network_here()) or _not_understood()
    if not wrong:
        return _started()
    if is_first_of_node(os.environ):
        print("\n".join(map(str, wrong)), flush=True)
        failed("; ".join(finding.what for finding in wrong))
    time.sleep(GRACE_S)  # other nodes say theirs, before the launcher ends them
    raise SystemExit(int(ExitCode.FAILED))


def _not_understood() -> list[Finding]:
    """Asked of the library itself, which is loaded for it, and not started."""
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    finding = check_protocol(started_as(os.environ), library_here())
    return [finding] if finding else []


def _started() -> World:
    """The world; a start that hangs ends this process, with the place where it hung on stderr.

    MPI_Init holds the interpreter, so only a thread without it can end that. The launcher then ends the other ranks.
    """
    ranks = next((int(os.environ[name]) for name in ("PMI_SIZE", "SLURM_NTASKS") if os.environ.get(name)), 1)
    faulthandler.dump_traceback_later(START_S + START_S_OF_A_RANK * ranks, exit=True)
    try:
        from mpi4py import MPI

        if not MPI.Is_initialized():
            MPI.Init_thread()
        return World.of_mpi()
    finally:
        faulthandler.cancel_dump_traceback_later()


def check_names(nodes: Sequence[Network], stated: Sequence[tuple[str, str]] = ()) -> list[Finding]:
    """Names that a variable, or a key of the profile (`stated`), gives and a node does not have.

    An error, but for one of several prefixes where another one is there: NCCL then takes that.
    """
    hosts: dict[str, set[str]] = defaultdict(set)  # of each missing name
    sources: dict[str, dict[str, None]] = defaultdict(dict)
    harmless: dict[str, bool] = {}
    for node in nodes:
        for source, name, others in [*_missing_in_variables(node), *_missing_in_profile(node, stated)]:
            hosts[name].add(node.host)
            sources[name][source] = None
            harmless[name] = others and harmless.get(name, True)
    order = [node.host for node in nodes]
    there = {node.host: node for node in nodes}
    return [
        _finding(name, sorted(hosts[name], key=order.index), list(sources[name]), there, harmless[name])
        for name in hosts
    ]


def missing_names(variable: str, value: str, node: Network) -> tuple[list[str], bool]:
    """Names in a variable's value that the node does not have, and whether those that it has are enough."""
    kind, syntax = VARIABLES[variable]
    if value.startswith("^"):
        return [], True
    if value.startswith("=") and syntax == "prefix":
        value, syntax = value[1:], "exact"
    names = [name.strip() for name in value.split(",") if name.strip()]
    missing = [name for name in names if not _is_there(name, _devices(kind, node), syntax)]
    return missing, syntax == "prefix" and len(missing) < len(names)


def _missing_in_variables(node: Network) -> list[tuple[str, str, bool]]:
    """(VARIABLE=value, name, whether it does no harm) of each name that is missing."""
    found = []
    for variable, value in node.variables:
        missing, enough = missing_names(variable, value, node)
        found += [(f"{variable}={value}", name, enough) for name in missing]
    return found


def _missing_in_profile(node: Network, stated: Sequence[tuple[str, str]]) -> list[tuple[str, str, bool]]:
    devices = _devices("either", node)
    return [(key, name, False) for key, name in stated if not _is_there(name, devices, "exact")]


def _devices(kind: Kind, node: Network) -> list[str]:
    adapters = [*node.adapters, *(adapter.split(":")[0] for adapter in node.adapters)]
    return [*(node.interfaces if kind != "adapter" else ()), *(adapters if kind != "interface" else ())]


def _is_there(name: str, devices: Sequence[str], syntax: Syntax) -> bool:
    if syntax == "pattern":
        return name == "all" or any(fnmatch.fnmatchcase(device, name) for device in devices)
    if "/" in name:  # a network, of Open MPI's
        return True
    if syntax == "prefix" and ":" not in name:
        return any(device.startswith(name) for device in devices)
    return name in devices


def _finding(name: str, hosts: list[str], sources: list[str], nodes: Mapping[str, Network], harmless: bool) -> Finding:
    first = nodes[hosts[0]]
    there = ", ".join([*first.interfaces, *first.adapters])
    shown = ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")
    what = f"{name}: there is none on {shown}; {', '.join(sources)} name{'s' if len(sources) == 1 else ''} it"
    return Finding(
        "warning" if harmless else "error",
        "interfaces",
        f"{what}; {first.host} has {there}",
        "a name from another cluster or another node type, or an adapter that is down or missing",
        "correct the name: fabric.interfaces and fabric.hcas in the profile, or the variable where it is set",
    )
