"""Preflight's judgement, without MPI: facts in, findings out."""

import pytest

from hpcllm.parallel.checks import (
    check_all_reduce,
    check_binding,
    check_clocks,
    check_counts,
    check_library,
    check_one_gpu_each,
    check_versions,
)
from hpcllm.parallel.expected import Expected, expected_of_environment
from hpcllm.parallel.facts import RankFacts
from hpcllm.parallel.finding import Finding
from hpcllm.parallel.launched import Library, Started, started_as
from hpcllm.units import as_ranges

NOBODY = Started()
HOSTS = ("n1", "n2", "n3", "n4")
MPICH = Library("MPICH Version: 5.0.2")
WHEEL = Library("MPICH Version: 5.0.2", "/venv/lib/libmpi.so.12", is_wheel=True)


def rank(number: int, cpus: set[int], node: int = 0, allotted: int | None = None, python: str = "3.11.7") -> RankFacts:
    cpus = frozenset(cpus)
    return RankFacts(number, node, HOSTS[node], cpus, cpus, allotted, (("Python", python), ("MPI", "MPICH")))


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# ---- ranks and nodes


def test_as_many_ranks_on_as_many_nodes_as_asked_is_fine():
    assert check_counts(8, 2, Started(0, 8, "PMI_SIZE"), Expected(8, 2, "plan.json"), MPICH) == []


def test_singletons_are_told_from_too_few_ranks():
    finding = only(check_counts(1, 1, Started(2, 4, "SLURM_STEP_NUM_TASKS"), Expected(4, 2), MPICH))

    assert finding.severity == "error"
    assert "each of the 4 processes is an MPI world of its own" in finding.what
    assert str(MPICH) in finding.cause
    assert "--mpi=" in finding.action


def test_a_wrong_number_of_ranks_names_who_asked_for_how_many():
    finding = only(check_counts(3, 1, Started(0, 3, "PMI_SIZE"), Expected(4, None, "RUN/plan.json"), MPICH))

    assert finding.what == "found 3; RUN/plan.json says 4"
    assert "mpirun -n 4" in finding.action


def test_a_start_without_a_launcher_is_called_so():
    finding = only(check_counts(1, 1, NOBODY, Expected(4, 2, "SLURM_NTASKS"), MPICH))

    assert finding.cause == "started without srun or mpirun"


def test_ranks_crowded_on_one_node_are_an_error():
    finding = only(check_counts(8, 1, Started(0, 8, "PMI_SIZE"), Expected(8, 2), MPICH))

    assert finding.what == "the ranks are on 1; 2 were asked for"


def test_nothing_asked_for_is_nothing_wrong():
    assert check_counts(1, 1, NOBODY, Expected(), MPICH) == []


def test_the_launcher_nearest_to_the_process_says_how_many():
    """mpirun inside an allocation: Slurm's own step is that of mpirun's daemons."""
    slurm = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "2"}

    assert started_as({**slurm, "PMI_RANK": "3", "PMI_SIZE": "8"}) == Started(3, 8, "PMI_SIZE", "Hydra's mpirun", "pmi")
    assert started_as(slurm) == Started(0, 2, "SLURM_STEP_NUM_TASKS", "srun without --mpi=")


def test_an_allocation_says_how_many_when_no_launcher_does():
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "4"}

    assert started_as(batch) == NOBODY
    assert expected_of_environment(batch) == Expected(8, 4, "SLURM_NTASKS")


def test_fewer_ranks_than_nodes_need_no_more_nodes_than_ranks():
    assert expected_of_environment({"PMI_RANK": "0", "PMI_SIZE": "2", "SLURM_NNODES": "4"}).nodes == 2


# ---- binding


def test_cores_of_their_own_are_fine():
    assert check_binding([rank(0, {0, 1}), rank(1, {2, 3})], Expected()) == []


def test_equal_cores_on_different_nodes_are_fine():
    assert check_binding([rank(0, {0}), rank(1, {0}, node=1)], Expected()) == []


def test_overlapping_masks_are_an_error_that_shows_them():
    finding = only(check_binding([rank(0, {0, 1}), rank(1, {1, 2}), rank(2, {3})], Expected()))

    assert finding.severity == "error"
    assert finding.what == "n1: rank 0 on 0-1, rank 1 on 1-2, rank 2 on 3"
    assert "--cpu-bind=cores" in finding.action


def test_two_ranks_on_one_core_are_an_error():
    finding = only(check_binding([rank(0, {0}), rank(1, {0})], Expected()))

    assert finding.severity == "error"
    assert finding.cause == "2 ranks share 1 core"


def test_ranks_that_nothing_binds_are_a_warning():
    assert only(check_binding([rank(0, {0, 1, 2}), rank(1, {0, 1, 2})], Expected())).severity == "warning"


def test_equal_masks_that_leave_allotted_cores_idle_are_an_error():
    ranks = [rank(0, {0, 1}, allotted=8), rank(1, {0, 1}, allotted=8)]

    assert only(check_binding(ranks, Expected())).severity == "error"


def test_more_ranks_than_cores_are_an_error_unless_planned():
    crowded = [rank(number, {0, 1}) for number in range(3)]

    assert only(check_binding(crowded, Expected())).severity == "error"
    assert only(check_binding(crowded, Expected(shares_cores=True))).severity == "warning"


def test_hardware_threads_of_one_core_are_a_warning():
    siblings = [
        RankFacts(0, 0, "n1", frozenset({0}), frozenset({0}), None, ()),
        RankFacts(1, 0, "n1", frozenset({64}), frozenset({0}), None, ()),
    ]

    assert only(check_binding(siblings, Expected())).severity == "warning"


def test_the_same_fault_of_many_nodes_is_one_finding():
    ranks = [rank(2 * node + local, {0}, node=node) for node in range(4) for local in range(2)]

    assert "and the like on 3 more nodes" in only(check_binding(ranks, Expected())).what


# ---- GPUs


def on_gpus(*seen: tuple[str, ...], node: int = 0) -> list[RankFacts]:
    """The ranks of a node by the GPUs that each sees."""
    return [
        RankFacts(local, node, HOSTS[node], frozenset(), frozenset(), None, (), gpus, local)
        for local, gpus in enumerate(seen)
    ]


FOUR = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")


@pytest.mark.parametrize("seen", [(FOUR,) * 4, tuple((gpu,) for gpu in FOUR), ((),) * 4, (("MIG-1",), ("MIG-2",))])
def test_a_gpu_for_each_rank_is_fine_whether_it_sees_all_or_its_own(seen):
    assert check_one_gpu_each(on_gpus(*seen), Expected(len(seen), 1, gpus=4)) == []


def test_ranks_that_were_all_given_the_same_gpu_are_an_error():
    finding = only(check_one_gpu_each(on_gpus(*[("GPU-a",)] * 4), Expected(4, 1, gpus=4)))

    assert finding.severity == "error"
    assert finding.what == "n1: ranks 0-3 on GPU-a"
    assert "CUDA_VISIBLE_DEVICES" in finding.cause
    assert "--gpu-bind=none" in finding.action


def test_two_ranks_that_see_each_others_gpus_in_another_order_share_one():
    finding = only(check_one_gpu_each(on_gpus(("GPU-a", "GPU-b"), ("GPU-b", "GPU-a")), Expected()))

    assert (finding.severity, finding.what) == ("error", "n1: ranks 0-1 on GPU-a")


def test_fewer_gpus_than_ranks_are_an_error_where_the_profile_has_enough():
    finding = only(check_one_gpu_each(on_gpus(*[("GPU-a", "GPU-b")] * 4), Expected(4, 1, gpus=4)))

    assert finding.cause.startswith("4 ranks see 2 GPUs between them")


def test_more_ranks_than_gpus_may_be_a_program_for_cpus():
    ranks = on_gpus(("GPU-a",), ("GPU-a",))

    assert only(check_one_gpu_each(ranks, Expected())).severity == "warning"
    assert only(check_one_gpu_each(ranks, Expected(2, 1, gpus=1))).severity == "warning"


def test_the_same_gpu_on_two_nodes_is_two_gpus():
    assert check_one_gpu_each(on_gpus(("GPU-a",)) + on_gpus(("GPU-a",), node=1), Expected(2, 2, gpus=1)) == []


# ---- software, clocks, sums


def test_another_python_on_one_of_two_nodes_is_named():
    finding = only(check_versions([rank(0, {0}), rank(1, {0}, node=1, python="3.12.1")]))

    assert finding.what == "Python 3.11.7 on n1, but 3.12.1 on n2"
    assert finding.nodes == ()


def test_where_most_nodes_have_the_same_software_the_others_are_to_blame():
    finding = only(
        check_versions([rank(node, {0}, node, python="3.12.1" if node == 0 else "3.11.7") for node in range(4)])
    )

    assert finding.what == "Python 3.11.7 on 3 nodes, but 3.12.1 on n1"
    assert finding.nodes == ("n1",)


def test_another_library_than_the_profiles_is_an_error():
    finding = only(check_library(MPICH, Expected(flavour="openmpi")))

    assert "software.mpi.flavour: openmpi" in finding.what
    assert "MPI4PY_LIBMPI" in finding.action
    assert check_library(MPICH, Expected(flavour="mpich")) == []
    assert check_library(MPICH, Expected()) == []


def test_a_wheel_that_shadows_the_sites_library_is_called_so():
    finding = only(check_library(WHEEL, Expected(flavour="cray-mpich")))

    assert finding.cause == "the wheel in this Python shadows the site's library (/venv/lib/libmpi.so.12)"


def test_a_clock_that_is_off_by_seconds_is_a_warning():
    finding = only(check_clocks(HOSTS[:3], [0.0, 0.001, -3.0]))

    assert finding.severity == "warning"
    assert finding.what == "n3 is 3 s behind the others"


def test_the_first_nodes_clock_may_be_the_wrong_one():
    """Offsets are measured against it; the others agree with each other."""
    assert only(check_clocks(HOSTS, [0.0, 5.0, 5.001, 5.0])).what == "n1 is 5 s behind the others"


def test_a_clock_that_is_off_by_minutes_is_an_error_and_its_node_may_be_left_out():
    finding = only(check_clocks(HOSTS, [0.0, 0.0, 0.0, 600.0]))

    assert (finding.severity, finding.nodes) == ("error", ("n4",))
    assert "chronyd" in finding.cause


@pytest.mark.parametrize("offsets", [[0.0, 600.0], [0.0, 0.0, 600.0, 600.0]])
def test_where_no_majority_agrees_on_the_time_no_node_is_to_blame(offsets):
    assert only(check_clocks(HOSTS[: len(offsets)], offsets)).nodes == ()


def test_wrong_sums_name_the_ranks():
    assert only(check_all_reduce([2], ["n1", "n1", "n2"])).what == "wrong sums on rank 2 on n2"
    assert check_all_reduce([], ["n1"]) == []


def test_ranges_are_short():
    assert as_ranges(frozenset({0, 1, 2, 5, 7, 8})) == "0-2,5,7-8"
    assert as_ranges(frozenset()) == ""
