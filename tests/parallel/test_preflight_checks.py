"""Preflight's judgement, without MPI: facts in, findings out."""

import pytest

from hpcllm.parallel.checks import (
    Finding,
    Link,
    RankFacts,
    check_all_reduce,
    check_binding,
    check_clocks,
    check_counts,
    check_library,
    check_links,
    check_versions,
    flavour_of,
)
from hpcllm.parallel.expected import Expected, Started, expected_of_environment, started_as
from hpcllm.units import as_ranges

NOBODY = Started()
HOSTS = ("n1", "n2", "n3", "n4")
MPICH = "MPICH Version: 5.0.2"


def rank(number: int, cpus: set[int], node: int = 0, allotted: int | None = None, python: str = "3.11.7") -> RankFacts:
    cpus = frozenset(cpus)
    return RankFacts(number, node, HOSTS[node], cpus, cpus, allotted, (("Python", python), ("MPI", MPICH)))


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def links(slow: set[int], nodes: int = 4, fast_bytes_per_s: float = 2e9) -> list[Link]:
    """All pairs; those of a slow node do 25 MB/s."""
    pairs = [(a, b) for a in range(nodes) for b in range(a + 1, nodes)]
    return [Link(pair, 25e6 if slow & set(pair) else fast_bytes_per_s) for pair in pairs]


# ---- ranks and nodes


def test_as_many_ranks_on_as_many_nodes_as_asked_is_fine():
    assert check_counts(8, 2, Started(0, 8, "PMI_SIZE"), Expected(8, 2, "plan.json"), MPICH) == []


def test_singletons_are_told_from_too_few_ranks():
    finding = only(check_counts(1, 1, Started(2, 4, "SLURM_STEP_NUM_TASKS"), Expected(4, 2), MPICH))

    assert finding.severity == "error"
    assert "each of the 4 processes is an MPI world of its own" in finding.what
    assert MPICH in finding.cause
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

    assert started_as({**slurm, "PMI_RANK": "3", "PMI_SIZE": "8"}) == Started(3, 8, "PMI_SIZE")
    assert started_as(slurm) == Started(0, 2, "SLURM_STEP_NUM_TASKS")


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


# ---- software, clocks, sums


def test_another_python_on_one_node_is_named():
    finding = only(check_versions([rank(0, {0}), rank(1, {0}, node=1, python="3.12.1")]))

    assert finding.what == "Python 3.11.7 on n1, but 3.12.1 on n2"


@pytest.mark.parametrize(
    ("version", "flavour"),
    [
        ("MPICH Version: 5.0.2", "mpich"),
        ("Open MPI v5.0.7, package: Open MPI", "openmpi"),
        ("MPI VERSION : CRAY MPICH version 8.1.29.6", "cray-mpich"),
        ("Intel(R) MPI Library 2021.13 for Linux* OS", "intel-mpi"),
        ("MVAPICH Version : 4.0", "mvapich"),
        ("something new", None),
    ],
)
def test_a_library_is_known_by_its_version_text(version, flavour):
    assert flavour_of(version) == flavour


def test_another_library_than_the_profiles_is_an_error():
    finding = only(check_library(MPICH, Expected(flavour="openmpi")))

    assert "software.mpi.flavour: openmpi" in finding.what
    assert "MPI4PY_LIBMPI" in finding.action
    assert check_library(MPICH, Expected(flavour="mpich")) == []
    assert check_library(MPICH, Expected()) == []


def test_a_clock_that_is_off_is_a_warning():
    finding = only(check_clocks(HOSTS[:3], [0.0, 0.001, -90.0]))

    assert finding.severity == "warning"
    assert finding.what == "n3 is 90 s behind n1"


def test_wrong_sums_name_the_ranks():
    assert only(check_all_reduce([2], ["n1", "n1", "n2"])).what == "wrong sums on rank 2 on n2"
    assert check_all_reduce([], ["n1"]) == []


# ---- links


def test_equal_links_are_fine():
    assert check_links(links(slow=set()), HOSTS, Expected()) == []
    assert check_links([], HOSTS, Expected()) == []


@pytest.mark.parametrize("nodes", [3, 4])
def test_the_node_with_the_slow_link_is_named_and_its_partners_are_not(nodes):
    finding = only(check_links(links(slow={2}, nodes=nodes), HOSTS, Expected()))

    assert finding.severity == "error"
    assert finding.what == "n3 is slow: 25 MB/s with its best partner; the other nodes reach 2 GB/s"
    assert "--exclude=n3" in finding.action


def test_two_slow_nodes_of_many_are_both_named():
    hosts = [f"n{number}" for number in range(1, 7)]
    found = check_links(links(slow={0, 5}, nodes=6), hosts, Expected())

    assert [finding.what.split()[0] for finding in found] == ["n1", "n6"]


def test_of_two_nodes_the_profile_tells_that_their_link_is_slow():
    pair = links(slow={1}, nodes=2)

    assert check_links(pair, HOSTS, Expected()) == []
    finding = only(check_links(pair, HOSTS, Expected(rate_bytes_per_s=25e9)))
    assert finding.what == "25 MB/s between n1 and n2; a rail does 25 GB/s (fabric.rate)"
    assert finding.cause.startswith("one of the two has a slow link")


def test_a_node_that_reaches_what_the_profile_promises_is_not_slow_beside_faster_ones() -> None:
    pairs = links(slow={2})  # 25 MB/s beside 2 GB/s

    assert check_links(pairs, HOSTS, Expected(rate_bytes_per_s=20e6)) == []
    assert "n3 is slow" in only(check_links(pairs, HOSTS, Expected(rate_bytes_per_s=200e6))).what


def test_a_fabric_that_is_slow_everywhere_names_no_node():
    finding = only(check_links(links(slow=set()), HOSTS, Expected(rate_bytes_per_s=25e9, fabric="infiniband")))

    assert finding.cause == "MPI goes over TCP in place of infiniband (an order of magnitude below)"


def test_a_network_that_is_tcp_has_nothing_to_fall_back_from():
    finding = only(check_links(links(slow=set()), HOSTS, Expected(rate_bytes_per_s=25e9, fabric="ethernet")))

    assert finding.cause == "MPI goes over another, slower interface"


def test_ranges_are_short():
    assert as_ranges(frozenset({0, 1, 2, 5, 7, 8})) == "0-2,5,7-8"
    assert as_ranges(frozenset()) == ""
