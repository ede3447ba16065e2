"""What torch documents for CPU tensors holds on the mpi4py backend, on one to four ranks: see over_ranks/."""

import pytest

pytestmark = pytest.mark.mpi

FILES = ("ranks_conformance.py", "ranks_calls.py", "ranks_groups.py")


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_documented_call_agrees_with_one_process_and_with_gloo(passes_on, ranks):
    passes_on(ranks, *FILES)
