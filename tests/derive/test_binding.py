"""Which cores a rank runs on, and what starts it. Run: pytest tests/derive/test_binding.py."""

import pytest
from example_clusters import changed, profile_named
from hypothesis import given
from hypothesis import strategies as st

from hpcllm.cluster.profile import Profile
from hpcllm.derive.binding import cpu_bind, mask, rank_cpus
from hpcllm.derive.launcher import launcher
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Layout
from hpcllm.job.spec import CommandJob
from hpcllm.launch.pipeline import COMMAND


def described(node: dict, **scheduler) -> Profile:
    """A cluster of two such nodes."""
    partitions = {"gpu": {"node_type": "gpu"}}
    return Profile.model_validate(
        {
            "name": "somewhere",
            "verified": {"how": "example", "date": "2026-11-24"},
            "scheduler": {"kind": "slurm", "partitions": partitions, **scheduler},
            "nodes": {"gpu": {"count": 2, "memory": "64GiB", **node}},
            "fabric": {"kind": "none"},
            "filesystems": {"disk": {"kind": "nfs", "path": "/"}},
            "software": {"mpi": {"flavour": "cray-mpich", "launcher": ["srun"]}},
        }
    )


@st.composite
def clusters_with_gpus(draw) -> Profile:
    """Nodes whose GPUs stand next to equal ranges of cores, in any order, with or without their sibling threads."""
    count, cores_each, threads = draw(st.integers(1, 8)), draw(st.integers(1, 16)), draw(st.integers(1, 2))
    cores, siblings = count * cores_each, draw(st.booleans())
    first = [i * cores_each for i in draw(st.permutations(range(count)))]
    ranges = [f"{n}-{n + cores_each - 1}" for n in first]
    if siblings:
        ranges = [f"{r},{cores + n}-{cores + n + cores_each - 1}" for r, n in zip(ranges, first, strict=True)]
    gpus = {"model": "A100-80GB", "count": count, "memory": "80GiB", "cpus": ranges}
    return described({"cores": cores, "threads_per_core": threads, "gpus": gpus})


@given(clusters_with_gpus(), st.integers(1, 8), st.integers(1, 8))
def test_masks_share_no_cpu_and_stay_inside_what_slurm_grants(profile, ranks, gpus):
    node = profile.nodes["gpu"]
    shape = Layout("gpu", 1, ranks, max(1, node.cores // ranks), gpus, 3600.0, 30.0)

    cpus = rank_cpus(profile, shape)

    if cpus is None:
        assert not ranks == gpus == node.gpus.count
        return
    taken = [cpu for rank in cpus for cpu in rank]
    assert len(cpus) == ranks
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(range(node.cores * node.threads_per_core))
    assert all(len(rank) <= shape.cores_per_rank * node.threads_per_core for rank in cpus)
    assert sum(int(mask(rank), 16) for rank in cpus) == sum(1 << cpu for cpu in taken)


# LUMI's masks in the order of its GPUs, as its AI guide gives them: seven of every eight cores.
LUMI_CPUS = ("49-55", "57-63", "17-23", "25-31", "1-7", "9-15", "33-39", "41-47")
LUMI_MASKS = (
    "0xfe000000000000,0xfe00000000000000,0xfe0000,0xfe000000,0xfe,0xfe00,0xfe00000000,0xfe0000000000"  # GPUs 0 to 7
)


@pytest.mark.parametrize("siblings", [False, True])
def test_lumis_ranks_have_the_seven_cores_that_are_left_beside_their_gpu(command, siblings):
    listed = [f"{r},{'-'.join(str(64 + int(n)) for n in r.split('-'))}" if siblings else r for r in LUMI_CPUS]
    gpus = {"model": "MI250X", "count": 8, "memory": "64GiB", "cpus": listed}
    lumi = described({"cores": 56, "gpus": gpus}, exclusive=True)

    shape = layout(lumi, command, None, COMMAND)

    assert shape.cores_per_rank == 7
    assert cpu_bind(lumi, shape) == f"mask_cpu:{LUMI_MASKS}"


def test_perlmutters_ranks_have_both_threads_of_their_cores_in_the_gpus_reversed_order(command):
    cpus = ["48-63,112-127", "32-47,96-111", "16-31,80-95", "0-15,64-79"]
    gpus = {"model": "A100-40GB", "count": 4, "memory": "40GiB", "cpus": cpus}
    perlmutter = described({"cores": 64, "threads_per_core": 2, "gpus": gpus}, exclusive=True)

    shape = layout(perlmutter, command, None, COMMAND)

    assert shape.cores_per_rank == 16
    assert "--cpus-per-task=32" in launcher(perlmutter, shape)
    first, *_, last = cpu_bind(perlmutter, shape).removeprefix("mask_cpu:").split(",")
    assert int(first, 16) == 0xFFFF << 112 | 0xFFFF << 48
    assert int(last, 16) == 0xFFFF << 64 | 0xFFFF


def test_a_shared_node_of_which_gpus_leave_cores_over_is_divided_by_slurm(command):
    gpus = {"model": "A100-40GB", "count": 2, "memory": "40GiB", "cpus": ["0-3", "4-7"]}
    node = {"cores": 16, "gpus": gpus}

    shared, whole = described(node), described(node, exclusive=True)

    assert cpu_bind(shared, layout(shared, command, None, COMMAND)) == "cores"
    assert cpu_bind(whole, layout(whole, command, None, COMMAND)) == "mask_cpu:0xf,0xf0"


@given(st.integers(1, 256), st.integers(1, 256))
def test_the_cores_of_all_ranks_are_no_more_than_the_nodes(cores, ranks):
    lab = profile_named("slurm-lab")
    site = changed(lab, nodes={"lab": {"count": 4, "cores": cores, "memory": "64GiB"}})
    job = CommandJob.model_validate({"name": "x", "command": ["true"], "resources": {"ranks_per_node": ranks}})

    shape = layout(site, job, None, COMMAND, oversubscribe=True)

    assert shape.cores_per_rank >= 1
    assert ranks > cores or shape.ranks_per_node * shape.cores_per_rank <= cores


def test_each_rank_gets_the_cores_next_to_its_gpu(a100, command):
    shape = layout(a100, command, None, COMMAND)

    assert cpu_bind(a100, shape) == "mask_cpu:0xffff,0xffff0000,0xffff00000000,0xffff000000000000"


def test_a_job_with_some_of_the_gpus_names_no_cores(a100, command):
    shape = layout(a100, changed(command, resources={"gpus_per_node": 2}), None, COMMAND)

    assert cpu_bind(a100, shape) == "cores"


def tokens(profile, job, **options):
    return launcher(profile, layout(profile, job, None, COMMAND, **options))


def test_srun_says_how_many_ranks_and_how_they_are_bound(lab, command):
    found = tokens(lab, command)

    assert found[:2] == ("srun", "--mpi=pmi2")
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--cpu-bind=cores"} <= set(found)
    assert {"--kill-on-bad-exit=1", "--wait=60", "--label"} <= set(found)
    assert "--unbuffered" not in found  # a pseudo-terminal, which tears labelled lines


def test_all_gpus_stay_visible_to_every_rank(a100, command):
    by_task = changed(a100, scheduler={"gpu_request": "gpus-per-task"})

    assert "--gpu-bind=none" in tokens(by_task, command)
    assert not any(token.startswith("--gpu-bind") for token in tokens(a100, command))


def test_ranks_that_outnumber_cores_are_not_bound(lab, command):
    found = tokens(lab, changed(command, resources={"ranks_per_node": 4}), oversubscribe=True)

    assert "--cpu-bind=none" in found
    assert "--overcommit" in found


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [
        ("mpich", "mpirun -n 4 -ppn 2 -bind-to core:24"),
        ("openmpi", "mpirun -n 4 --map-by ppr:2:node:PE=24 --bind-to core"),
        ("intel-mpi", "mpirun -n 4 -ppn 2 -genv I_MPI_PIN_DOMAIN 24:compact"),
        ("cray-mpich", "mpirun -n 4 --ppn 2 --depth=24 --cpu-bind=depth"),
    ],
)
def test_mpirun_binds_in_its_own_words(h100, command, flavour, expected):
    site = changed(h100, software={"mpi": {"flavour": flavour, "launcher": ["mpirun"]}})

    assert " ".join(tokens(site, command)) == expected


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [
        ("mpich", "-ppn 2 -bind-to user:4+5+6,0+1+2"),
        ("intel-mpi", "-ppn 2 -genv I_MPI_PIN_DOMAIN [70,7]"),
        ("cray-mpich", "--ppn 2 --depth=3 --cpu-bind=list:4,5,6:0,1,2"),
    ],
)
def test_mpirun_too_puts_each_rank_next_to_its_gpu(command, flavour, expected):
    gpus = {"model": "A100-40GB", "count": 2, "memory": "40GiB", "cpus": ["4-6", "0-2"]}
    whole = described({"cores": 8, "gpus": gpus}, exclusive=True)
    site = changed(whole, software={"mpi": {"flavour": flavour, "launcher": ["mpirun"]}})

    assert " ".join(tokens(site, command)) == f"mpirun -n 4 {expected}"


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [("mpich", "mpirun -n 1"), ("openmpi", "mpirun -n 1 --bind-to none --oversubscribe")],
)
def test_on_ones_own_machine_ranks_move_freely(command, flavour, expected):
    local = changed(profile_named("local"), software={"mpi": {"flavour": flavour, "launcher": ["mpirun"]}})

    assert " ".join(tokens(local, changed(command, resources={"nodes": 1, "ranks_per_node": 1}))) == expected
