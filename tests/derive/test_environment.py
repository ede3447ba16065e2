"""What a rank finds in its environment. Run: pytest tests/derive/test_environment.py."""

import pytest
from example_clusters import changed, profile_named

from hpcllm.derive.environment import environment
from hpcllm.derive.layout import layout
from hpcllm.launch.pipeline import COMMAND, find_stage
from hpcllm.plan.search import search


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
    assert "NCCL_NET_GDR_LEVEL" not in found  # NCCL decides, unless the site does
    assert found["OMPI_MCA_pml"] == "ucx"
    assert values(on(a100, gdr_level="LOC"), command)["NCCL_NET_GDR_LEVEL"] == "LOC"


def test_variables_of_a_kind_of_node_win_over_the_sites(a100, command):
    data = a100.model_dump(by_alias=True, mode="json")
    data["nodes"]["a100"]["environment"] = {"NCCL_ALGO": "Ring"}
    site = type(a100).model_validate({**data, "environment": {"NCCL_ALGO": "Tree", "NCCL_DEBUG": "WARN"}})

    found = values(site, command)

    assert (found["NCCL_ALGO"], found["NCCL_DEBUG"]) == ("Ring", "WARN")


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


def test_slingshot_holds_what_all_of_its_sites_agree_on(a100, command):
    found = values(on(a100, kind="slingshot", interfaces=["hsn0", "hsn1"], hcas=[]), command)

    fabric = {name for name in found if name.startswith(("NCCL_", "FI_", "GLOO_", "MPICH_"))}
    assert fabric == {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"}
    assert found["NCCL_SOCKET_IFNAME"] == "=hsn0,hsn1"


@pytest.mark.parametrize("kind", ["infiniband", "roce", "ethernet", "slingshot", "efa", "omni-path", "tcpx", "tcpxo"])
def test_a_fabric_that_the_site_tunes_is_left_alone(a100, command, kind):
    found = values(on(a100, kind=kind, gpu_interfaces=["eth1"], tuned_by="site"), command)

    assert not any(name.startswith(("NCCL_", "UCX_", "FI_", "GLOO_", "OMPI_")) for name in found)


def test_a_node_type_on_another_network_has_its_own_variables_and_keys(a100, command):
    slower = {"kind": "ethernet", "interfaces": ["eth2"]}

    found = derived(with_node(a100, fabric=slower), command)

    assert found["NCCL_SOCKET_IFNAME"].value == "=eth2"
    assert found["NCCL_SOCKET_IFNAME"].key == "nodes.a100.fabric.interfaces"
    assert "NCCL_IB_HCA" not in found


@pytest.mark.parametrize(
    ("kind", "control", "data"),
    [
        ("tcpx", "NCCL_GPUDIRECTTCPX_CTRL_DEV", "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME"),
        ("tcpxo", "NCCL_FASTRAK_CTRL_DEV", "NCCL_FASTRAK_IFNAME"),
    ],
)
def test_googles_plugins_are_told_both_networks_by_plain_names(a100, command, kind, control, data):
    found = values(on(a100, kind=kind, interfaces=["enp0s12"], gpu_interfaces=["enp6s0", "enp7s0"]), command)

    assert (found[control], found[data]) == ("enp0s12", "enp6s0,enp7s0")
    assert found["NCCL_SOCKET_IFNAME"] == "enp0s12"
    assert found["OMPI_MCA_btl_tcp_if_include"] == "enp0s12"
    assert "NCCL_IB_DISABLE" not in found


def with_mpi(profile, flavour, **more):
    return changed(profile, software={"mpi": {"flavour": flavour, "launcher": ["srun"], **more}})


@pytest.mark.parametrize(
    ("kind", "provider"),
    [("infiniband", "mlx"), ("ethernet", "tcp"), ("omni-path", "psm2"), ("efa", "efa"), ("slingshot", "cxi")],
)
def test_intel_mpi_is_told_the_provider(a100, command, kind, provider):
    assert values(on(with_mpi(a100, "intel-mpi"), kind=kind), command)["I_MPI_OFI_PROVIDER"] == provider
    assert "I_MPI_OFI_PROVIDER" not in values(on(a100, kind=kind), command)


def test_cray_mpich_leaves_the_gpus_to_nccl_unless_it_is_said_to_take_them(a100, command):
    assert values(with_mpi(a100, "cray-mpich"), command)["MPICH_GPU_SUPPORT_ENABLED"] == "0"
    assert "MPICH_GPU_SUPPORT_ENABLED" not in values(with_mpi(a100, "cray-mpich", gpu_aware=True), command)


def test_a_rank_of_cray_mpich_may_span_numa_domains(a100, command):
    site = with_node(with_mpi(a100, "cray-mpich"), numa_domains=4)

    assert "MPICH_OFI_NIC_POLICY" not in values(site, command)
    one = changed(command, resources={"ranks_per_node": 1})
    assert values(site, one)["MPICH_OFI_NIC_POLICY"] == "BLOCK"


@pytest.mark.parametrize(("version", "told"), [("20.11", False), ("22.05", True), ("24.11", True), (None, True)])
def test_srun_is_told_its_cpus_from_the_version_on_that_needs_it(a100, command, version, told):
    site = changed(a100, scheduler={"version": version})

    assert ("SRUN_CPUS_PER_TASK" in values(site, command)) == told


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


def with_node(profile, **changes):
    """The profile with its one type of node changed."""
    (name, node), *_ = profile.model_dump(by_alias=True, mode="json")["nodes"].items()
    return changed(profile, nodes={name: {**node, **changes}})


def with_gpus(profile, **changes):
    (node,) = profile.model_dump(by_alias=True, mode="json")["nodes"].values()
    return with_node(profile, gpus={**node["gpus"], **changes})


@pytest.mark.parametrize("scratch", [{"path": "$TMPDIR"}, {"path": "/tmp", "kind": "memory"}])
def test_what_the_site_calls_tmpdir_itself_and_memory_are_left_to_the_site(a100, command, scratch):
    assert "TMPDIR" not in values(with_node(a100, local_scratch=scratch), command)


def test_a_disk_named_by_the_sites_variable_is_found_where_the_script_runs(a100, command):
    found = derived(with_node(a100, local_scratch={"path": "$SLURM_TMPDIR"}), command)

    assert (found["TMPDIR"].value, found["TMPDIR"].needs) == ("$SLURM_TMPDIR", "$SLURM_TMPDIR")
    assert found["TRITON_CACHE_DIR"].value == "$SLURM_TMPDIR/triton-$UID"


def test_the_databases_of_miopen_stay_off_shared_filesystems(a100, command):
    amd = with_gpus(a100, model="MI250X")

    assert values(amd, command)["MIOPEN_USER_DB_PATH"] == "/tmp/miopen-$UID"
    assert "MIOPEN_USER_DB_PATH" not in values(a100, command)


def test_nodes_without_internet_do_not_try(a100, h100, command):
    assert values(a100, command)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in values(h100, command)


def test_a_proxy_is_the_way_out_where_there_is_one(a100, command):
    proxy = {"https_proxy": "http://proxy.example:3128"}

    found = derived(changed(a100, internet={"compute": False, "proxy": proxy}), command)

    assert found["https_proxy"].key == "internet.proxy.https_proxy"
    assert "HF_HUB_OFFLINE" not in found


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


def test_training_is_told_where_to_copy_its_shards_where_the_profile_says_so(a100, demo, command):
    site = with_node(a100, local_scratch={"path": "$SLURM_TMPDIR", "size": "1TB", "stage": True})

    def told(profile, job, stage):
        plan = search(profile, job) if job is demo else None
        shape = layout(profile, job, plan, find_stage(job, stage))
        return {s.name: s for s in environment(profile, job, shape) if s.name.startswith("HPCLLM_")}

    found = told(site, demo, "train")
    assert found["HPCLLM_LOCAL_SCRATCH"].needs == "$SLURM_TMPDIR"
    assert found["HPCLLM_LOCAL_SCRATCH"].key == "nodes.a100.local_scratch.stage"
    assert found["HPCLLM_LOCAL_SCRATCH_BYTES"].value == str(10**12)
    assert told(site, demo, "shard") == told(site, command, "command") == told(a100, demo, "train") == {}
    memory = with_node(a100, local_scratch={"path": "/tmp", "kind": "memory", "stage": True})
    assert told(memory, demo, "train") == {}
