"""What a rank finds in its environment. Run: pytest tests/derive/test_environment.py."""

import pytest
from example_clusters import changed, profile_named

from hpcllm.derive.environment import environment
from hpcllm.derive.layout import layout
from hpcllm.launch.pipeline import COMMAND


def derived(profile, job):
    return {s.name: s for s in environment(profile, job, layout(profile, job, None, COMMAND))}


def values(profile, job):
    return {name: setting.value for name, setting in derived(profile, job).items()}


def on(profile, **fabric):
    return changed(profile, fabric=fabric)


def test_threads_are_the_cores_of_a_rank_and_not_pinned_one_by_one(a100, command):
    found = values(a100, command)

    assert (found["OMP_NUM_THREADS"], found["OMP_PROC_BIND"]) == ("16", "false")


def test_srun_is_told_the_cpus_that_it_no_longer_inherits(h100, command):
    assert values(h100, command)["SRUN_CPUS_PER_TASK"] == "48"


def test_infiniband_names_its_adapters_exactly(a100, command):
    found = values(a100, command)

    assert found["NCCL_IB_HCA"] == "=mlx5_0,mlx5_1,mlx5_2,mlx5_3"
    assert found["UCX_NET_DEVICES"] == "mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1"
    assert found["NCCL_SOCKET_IFNAME"] == "=ib0"
    assert found["GLOO_SOCKET_IFNAME"] == "ib0"
    assert found["NCCL_NET_GDR_LEVEL"] == "PHB"
    assert found["OMPI_MCA_pml"] == "ucx"


def test_roce_adds_its_address_and_traffic_class(a100, command):
    found = values(on(a100, kind="roce", gid_index=3, traffic_class=106), command)

    assert (found["NCCL_IB_GID_INDEX"], found["NCCL_IB_TC"]) == ("3", "106")
    assert "NCCL_IB_HCA" in found
    assert "NCCL_IB_GID_INDEX" not in values(on(a100, kind="roce"), command)


def test_ethernet_looks_for_no_infiniband_and_keeps_sockets_below_ncclls_limit(h100, command):
    found = values(h100, command)

    assert found["NCCL_IB_DISABLE"] == "1"
    assert int(found["NCCL_SOCKET_NTHREADS"]) * int(found["NCCL_NSOCKS_PERTHREAD"]) <= 64
    assert found["OMPI_MCA_pml"] == "ob1"
    assert found["OMPI_MCA_btl_tcp_if_include"] == "ens1f0"
    assert found["UCX_TLS"] == "tcp,self,sm"
    assert "NCCL_SOCKET_NTHREADS" not in values(on(h100, rate="10Gb/s"), command)


def test_slingshot_uses_its_plugin_or_stops(a100, command):
    found = values(on(a100, kind="slingshot", interfaces=["hsn0", "hsn1"], hcas=[]), command)

    assert found["NCCL_NET"] == "AWS Libfabric"
    assert found["NCCL_SOCKET_IFNAME"] == "=hsn0,hsn1"
    assert any(name.startswith("FI_CXI_") for name in found)
    assert "MPICH_GPU_SUPPORT_ENABLED" not in found  # this site's MPI is said to be GPU-aware
    plain = changed(on(a100, kind="slingshot"), software={"mpi": {"flavour": "cray-mpich", "launcher": ["srun"]}})
    assert values(plain, command)["MPICH_GPU_SUPPORT_ENABLED"] == "0"


def test_efa_and_omni_path_name_their_providers(a100, command):
    assert values(on(a100, kind="efa"), command)["FI_PROVIDER"] == "efa"
    assert values(on(a100, kind="efa"), command)["FI_EFA_USE_HUGE_PAGE"] == "0"
    assert values(on(a100, kind="omni-path"), command)["FI_PROVIDER"] == "psm2"


@pytest.mark.parametrize("kind", ["infiniband", "roce", "ethernet", "slingshot", "efa", "omni-path"])
def test_one_node_has_no_fabric_to_speak_of(a100, command, kind):
    found = values(on(a100, kind=kind), changed(command, resources={"nodes": 1}))

    assert not any(name.startswith(("NCCL_", "UCX_", "FI_", "GLOO_", "OMPI_")) for name in found)


def test_without_gpus_nccl_is_not_mentioned(lab, command):
    found = values(lab, command)

    assert not any(name.startswith("NCCL_") for name in found)
    assert found["GLOO_SOCKET_IFNAME"] == "eth0"


def test_files_go_to_the_nodes_disk_and_locks_are_left_alone(a100, h100, command):
    assert values(a100, command)["TMPDIR"] == "/local"
    assert values(a100, command)["HDF5_USE_FILE_LOCKING"] == "FALSE"
    assert "HDF5_USE_FILE_LOCKING" not in values(h100, command)


@pytest.mark.parametrize("scratch", [{"path": "$TMP"}, {"path": "/tmp", "kind": "memory"}])
def test_a_disk_named_by_the_sites_variable_and_memory_are_left_to_the_site(a100, command, scratch):
    nodes = {"a100": {**a100.model_dump(by_alias=True, mode="json")["nodes"]["a100"], "local_scratch": scratch}}

    assert "TMPDIR" not in values(changed(a100, nodes=nodes), command)


def test_nodes_without_internet_do_not_try(a100, h100, command):
    assert values(a100, command)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in values(h100, command)


def test_the_site_wins_over_what_is_derived_and_the_job_over_the_site(a100, command):
    site = changed(a100, environment={"NCCL_IB_HCA": "mlx5", "SITE": "1"})
    job = changed(command, environment={"NCCL_IB_HCA": "mlx5_0", "OMP_NUM_THREADS": "1"})

    found = derived(site, job)

    assert found["NCCL_IB_HCA"].value == "mlx5_0"
    assert found["NCCL_IB_HCA"].key == "job.environment.NCCL_IB_HCA"
    assert "replaces 'mlx5'" in found["NCCL_IB_HCA"].reason
    assert found["OMP_NUM_THREADS"].value == "1"
    assert found["SITE"].key == "environment.SITE"
    assert derived(site, command)["NCCL_IB_HCA"].key == "environment.NCCL_IB_HCA"


def test_open_mpi_starts_as_root_in_a_container_only(a100, command):
    local = changed(profile_named("local"), software={"mpi": {"flavour": "openmpi", "launcher": ["mpirun"]}})

    assert values(local, changed(command, resources={"nodes": 1}))["OMPI_ALLOW_RUN_AS_ROOT"] == "1"
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in values(a100, command)
