"""Who talks to whom when links are measured."""

import pytest

pytest.importorskip("mpi4py.MPI")

from hpcllm.parallel.bandwidth import rounds


@pytest.mark.parametrize("players", [1, 2, 3, 4, 5, 8, 9])
def test_everybody_meets_everybody_once_and_one_partner_a_round(players):
    played = list(rounds(players, most=100))

    for pairs in played:
        busy = [player for pair in pairs for player in pair]
        assert len(busy) == len(set(busy))
    met = [pair for pairs in played for pair in pairs]
    assert sorted(met) == [(a, b) for a in range(players) for b in range(a + 1, players)]


def test_a_large_machine_plays_no_more_rounds_than_allowed():
    assert len(list(rounds(1000, most=8))) == 8
