"""The world as each rank sees it."""

import numpy as np


def test_ranks_are_numbered_within_their_one_node(world):
    assert (world.rank, world.size) == (world.comm.rank, world.comm.size)
    assert (world.local_rank, world.local_size) == (world.rank, world.size)
    assert (world.node, world.nodes, len(world.hosts)) == (0, 1, 1)


def test_everybody_gets_the_roots_value(world):
    assert world.broadcast(f"from {world.rank}", root=world.size - 1) == f"from {world.size - 1}"


def test_values_are_gathered_in_rank_order(world):
    assert world.all_gather(world.rank * 10) == [rank * 10 for rank in range(world.size)]


def test_numbers_and_arrays_are_added_up(world):
    assert world.all_reduce_sum(2) == 2 * world.size
    assert (world.all_reduce_sum(np.ones(3)) == world.size).all()
