"""What torch documents for CPU tensors holds on the mpi4py backend, on one to four ranks: see over_ranks/."""

import pytest

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("ranks", [1, 3, *(pytest.param(ranks, marks=pytest.mark.long) for ranks in (2, 4))])
def test_every_collective_of_every_type_agrees_with_one_process_and_with_gloo(passes_on, ranks):
    passes_on(ranks, "ranks_conformance.py")


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_messages_objects_groups_and_the_other_forms_of_calls_work(passes_on, ranks):
    passes_on(ranks, "ranks_calls.py", "ranks_groups.py")
