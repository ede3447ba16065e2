"""What torch documents for CPU tensors holds on the mpi4py backend, on one to four ranks: see over_ranks/.

Every number of ranks with --long; without, an odd one for what is cut, and four for meshes of two by two.
"""

import pytest

pytestmark = pytest.mark.mpi


def mostly(usual: int) -> list[object]:
    return [ranks if ranks == usual else pytest.param(ranks, marks=pytest.mark.long) for ranks in (1, 2, 3, 4)]


@pytest.mark.parametrize("ranks", mostly(3))
def test_every_collective_of_every_type_agrees_with_one_process_and_with_gloo(passes_on, ranks):
    passes_on(ranks, "ranks_conformance.py")


@pytest.mark.parametrize("ranks", mostly(4))
def test_messages_objects_groups_and_the_other_forms_of_calls_work(passes_on, ranks):
    passes_on(ranks, "ranks_calls.py", "ranks_groups.py")
