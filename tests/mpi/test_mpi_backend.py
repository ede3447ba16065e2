"""The mpi4py backend on real ranks. What holds on the ranks stands in over_ranks/."""

import pytest

pytestmark = pytest.mark.mpi
RANKS = pytest.mark.parametrize("ranks", [1, 2, 3, 4])


@RANKS
def test_collectives_agree_with_one_process(passes_on, ranks):
    passes_on(ranks, "ranks_collectives.py")
