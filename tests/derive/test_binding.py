"""Which cores a rank runs on, and what starts it. Run: pytest tests/derive/test_binding.py."""

import pytest
from example_clusters import changed, profile_named
from hypothesis import given
from hypothesis import strategies as st

from hpcllm.cluster.nodes import NodeType
from hpcllm.derive.binding import cpu_bind, mask, rank_cores
from hpcllm.derive.launcher import launcher
from hpcllm.derive.layout import layout
from hpcllm.derive.setting import Layout
from hpcllm.job.spec import CommandJob
from hpcllm.launch.pipeline import COMMAND


@st.composite
def nodes_with_gpus(draw) -> NodeType:
    """A node whose GPUs stand next to equal ranges of cores, in any order."""
    count, cores_each = draw(st.integers(1, 8)), draw(st.integers(1, 16))
    order = draw(st.permutations(range(count)))
    ranges = [f"{i * cores_each}-{(i + 1) * cores_each - 1}" for i in order]
    gpus = {"model": "A100-80GB", "count": count, "memory": "80GiB", "cpus": ranges}
    return NodeType.model_validate({"count": 2, "cores": count * cores_each, "memory": "64GiB", "gpus": gpus})


@given(nodes_with_gpus(), st.integers(1, 8), st.integers(1, 8))
def test_masks_share_no_core_and_stay_inside_the_node(node, ranks, gpus):
    shape = Layout(None, 1, ranks, max(1, node.cores // ranks), gpus, 3600.0, 30.0)

    cores = rank_cores(node, shape)

    if cores is None:
        assert not ranks == gpus == node.gpus.count
        return
    taken = [core for rank in cores for core in rank]
    assert len(cores) == ranks
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(range(node.cores))
    assert sum(int(mask(rank), 16) for rank in cores) == sum(1 << core for core in taken)


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

    assert cpu_bind(a100.node_type("gpu"), shape) == "mask_cpu:0xffff,0xffff0000,0xffff00000000,0xffff000000000000"


def test_a_job_with_some_of_the_gpus_names_no_cores(a100, command):
    shape = layout(a100, changed(command, resources={"gpus_per_node": 2}), None, COMMAND)

    assert cpu_bind(a100.node_type("gpu"), shape) == "cores"


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
    [("mpich", "mpirun -n 1"), ("openmpi", "mpirun -n 1 --bind-to none --oversubscribe")],
)
def test_on_ones_own_machine_ranks_move_freely(command, flavour, expected):
    local = changed(profile_named("local"), software={"mpi": {"flavour": flavour, "launcher": ["mpirun"]}})

    assert " ".join(tokens(local, changed(command, resources={"nodes": 1, "ranks_per_node": 1}))) == expected
