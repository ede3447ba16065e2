"""Names of interfaces and adapters, without MPI: what is there, what is missing, by each variable's own rules."""

from __future__ import annotations

from typing import Any

import pytest

from hpcllm.parallel import interfaces
from hpcllm.parallel.interfaces import Network, before_mpi, check_names, missing_names, network_here, start_mpi

NODE = Network("n1", ("lo", "eth0", "ib0", "ib1", "hsn0"), ("mlx5_0:1", "mlx5_10:1", "mlx5_bond_0:1", "cxi0"), ())


def node(host: str = "n1", *names: str, **variables: str) -> Network:
    return Network(host, ("lo", *(names or ("eth0",))), (), tuple(variables.items()))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NCCL_SOCKET_IFNAME", "ib0"),
        ("NCCL_SOCKET_IFNAME", "ib"),  # a prefix
        ("NCCL_SOCKET_IFNAME", "=ib0,ib1"),
        ("NCCL_SOCKET_IFNAME", "^lo,docker,virbr"),  # nothing that has to be there
        ("NCCL_SOCKET_IFNAME", "^=nothing"),
        ("NCCL_IB_HCA", "mlx5"),
        ("NCCL_IB_HCA", "=mlx5_0:1,mlx5_10"),
        ("NCCL_IB_HCA", "^=mlx5_7"),
        ("GLOO_SOCKET_IFNAME", "eth0"),
        ("UCX_NET_DEVICES", "mlx5_0:1,eth0"),
        ("UCX_NET_DEVICES", "all"),
        ("UCX_NET_DEVICES", "mlx5_*:1"),
        ("UCX_NET_DEVICES", "^mlx5_7:1"),
        ("FI_TCP_IFACE", "hsn0"),
        ("FI_VERBS_IFACE", "ib"),
        ("OMPI_MCA_btl_tcp_if_include", "10.0.0.0/16,eth0"),
        ("HCOLL_MAIN_IB", "mlx5_bond_0:1"),
    ],
)
def test_what_is_there_is_fine(variable: str, value: str) -> None:
    assert missing_names(variable, value, NODE)[0] == []


@pytest.mark.parametrize(
    ("variable", "value", "missing"),
    [
        ("NCCL_SOCKET_IFNAME", "=ib", ["ib"]),  # = makes it no prefix
        ("NCCL_SOCKET_IFNAME", "bond0", ["bond0"]),
        ("NCCL_IB_HCA", "=mlx5_1", ["mlx5_1"]),
        ("NCCL_IB_HCA", "mlx5_0:2", ["mlx5_0:2"]),  # a port that it does not have
        ("GLOO_SOCKET_IFNAME", "ib", ["ib"]),  # Gloo knows no prefixes
        ("GLOO_SOCKET_IFNAME", "ib0,ib7", ["ib7"]),
        ("UCX_NET_DEVICES", "mlx5_3:1,mlx5_0:1", ["mlx5_3:1"]),
        ("FI_TCP_IFACE", "eth1", ["eth1"]),
        ("HCOLL_MAIN_IB", "eth0", ["eth0"]),  # an interface is no adapter
    ],
)
def test_what_is_missing_is_named(variable: str, value: str, missing: list[str]) -> None:
    assert missing_names(variable, value, NODE)[0] == missing


def test_a_wrong_name_is_one_error_with_variable_nodes_and_what_there_is() -> None:
    nodes = [node("n1", "ib0"), node("n2", NCCL_SOCKET_IFNAME="=ib0", GLOO_SOCKET_IFNAME="ib0")]

    (finding,) = check_names(nodes, [("fabric.interfaces", "ib0")])

    assert finding.severity == "error"
    assert finding.what == (
        "ib0: there is none on n2; NCCL_SOCKET_IFNAME==ib0, GLOO_SOCKET_IFNAME=ib0, fabric.interfaces name it; "
        "n2 has lo, eth0"
    )


def test_one_of_several_prefixes_may_be_missing_with_a_warning() -> None:
    (finding,) = check_names([node(NCCL_SOCKET_IFNAME="eth,ib")])

    assert finding.severity == "warning"
    assert finding.what.startswith("ib: there is none on n1")


def test_an_adapter_that_the_profile_puts_beside_a_gpu_must_be_there() -> None:
    (finding,) = check_names([NODE], [("nodes.gpu.gpus.nics", "mlx5_0"), ("nodes.gpu.gpus.nics", "mlx5_4")])

    assert finding.what.startswith("mlx5_4: there is none on n1; nodes.gpu.gpus.nics names it")


def test_this_node_has_the_interfaces_that_the_kernel_lists() -> None:
    found = network_here({"GLOO_SOCKET_IFNAME": "lo", "HOME": "/root"})

    assert "lo" in found.interfaces
    assert found.variables == (("GLOO_SOCKET_IFNAME", "lo"),)
    assert check_names([found]) == []


def test_before_mpi_starts_only_what_mpi_reads_stops_it() -> None:
    assert before_mpi(node(NCCL_SOCKET_IFNAME="ib0")) == []
    (finding,) = before_mpi(node(NCCL_SOCKET_IFNAME="ib0", UCX_NET_DEVICES="ib0"))
    assert "UCX_NET_DEVICES=ib0" in finding.what


def test_mpi_is_not_started_with_a_name_of_which_it_would_die(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interfaces, "GRACE_S", 0.0)
    monkeypatch.setattr(interfaces, "network_here", lambda: node(UCX_NET_DEVICES="ib0"))
    for name in ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    told: list[Any] = []

    with pytest.raises(SystemExit, match="1"):
        start_mpi(told.append)

    assert "UCX_NET_DEVICES=ib0 names it; n1 has lo, eth0" in capsys.readouterr().out
    assert len(told) == 1
    monkeypatch.setenv("SLURM_LOCALID", "1")  # the second rank of the node says nothing
    with pytest.raises(SystemExit):
        start_mpi(told.append)
    assert capsys.readouterr().out == ""
