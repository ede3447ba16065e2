"""The world as each rank sees it."""

import numpy as np

from hpcllm.parallel.world import World


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


def test_the_ranks_of_a_node_and_those_of_equal_place_have_communicators(world):
    assert world.inside.allgather(world.rank) == list(range(world.size))
    assert world.across.allgather(world.rank) == [world.rank]  # there is one node


def test_one_rank_of_each_node_leads(world):
    assert (world.leaders is not None) == (world.rank == 0)


def test_the_world_is_made_once(world):
    """Whoever imports the backend beside a stage splits nothing a second time."""
    assert World.of_mpi() is World.of_mpi()


def test_a_part_of_the_ranks_has_a_world_of_its_own(world):
    part = world.comm.Split(world.rank % 2)
    half = World.of(part)

    assert (half.rank, half.size) == (world.rank // 2, part.size)
    assert half.inside.size == half.local_size == part.size
    half.free()
    part.Free()
