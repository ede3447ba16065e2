"""Groups of the mpi4py backend as torch makes them: new, enumerated, split, in meshes, in flight together, made anew.

By hand:  mpirun -n 4 python -m pytest -p no:cacheprovider tests/mpi/over_ranks/ranks_groups.py
"""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from against_gloo import both_backends
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

pytestmark = pytest.mark.usefixtures("backends")
MESHES = {1: [(1, 1), (1, 1, 1)], 2: [(1, 2), (2, 1), (1, 2, 1)], 3: [(3, 1), (1, 1, 3)], 4: [(2, 2), (2, 1, 2)]}


@pytest.fixture(scope="module")
def backends(world):
    with both_backends(world) as groups:
        yield groups


def sum_of_ranks(group: dist.ProcessGroup | None = None) -> int:
    tensor = torch.tensor([dist.get_rank()])
    dist.all_reduce(tensor, group=group)
    return int(tensor)


def test_a_group_knows_its_members_and_its_backend(world):
    ranks = list(range(0, world.size, 2))
    group = dist.new_group(ranks, group_desc="even ones")

    if world.rank in ranks:
        assert dist.get_process_group_ranks(group) == ranks
        assert dist.get_rank(group) == ranks.index(world.rank)
        assert dist.get_group_rank(group, world.rank) == ranks.index(world.rank)
        assert dist.get_world_size(group) == len(ranks)
        assert dist.get_backend(group) == "mpi4py"
        assert group.group_desc == "even ones"
        assert sum_of_ranks(group) == sum(ranks)
        dist.destroy_process_group(group)
    else:
        assert group == dist.GroupMember.NON_GROUP_MEMBER


def test_members_alone_make_a_group_where_they_say_so(world):
    mine = [rank for rank in range(world.size) if rank % 2 == world.rank % 2]

    group = dist.new_group(mine, use_local_synchronization=True)

    assert sum_of_ranks(group) == sum(mine)
    dist.destroy_process_group(group)


def test_subgroups_of_equal_size(world):
    size = 2 if world.size % 2 == 0 else 1

    mine, groups = dist.new_subgroups(group_size=size)

    start = world.rank // size * size
    assert len(groups) == world.size // size
    assert sum_of_ranks(mine) == sum(range(start, start + size))
    dist.destroy_process_group(mine)


def test_subgroups_that_are_enumerated_may_leave_a_rank_out(world):
    members = [[0], list(range(1, world.size - 1))][: 2 if world.size > 2 else 1]

    mine, _ = dist.new_subgroups_by_enumeration(members)

    home = [ranks for ranks in members if world.rank in ranks]
    assert (mine is None) == (not home)
    if mine is not None:
        assert sum_of_ranks(mine) == sum(home[0])
        dist.destroy_process_group(mine)


def test_a_group_is_split_as_torch_asks_for_it(world):
    """`dist.split_group` itself wants an accelerator (torch 2.13); this is what it calls."""
    group = dist.group.WORLD
    assert group.supports_splitting
    mine = [rank for rank in range(world.size) if rank % 2 == world.rank % 2]

    part = group.split_group(mine, timeout=timedelta(seconds=30), group_name=f"half {world.rank % 2}")
    tensor = torch.tensor([world.rank])
    part.allreduce([tensor]).wait()

    assert (part.rank(), part.size()) == (mine.index(world.rank), len(mine))
    assert part.group_name == f"half {world.rank % 2}"
    assert int(tensor) == sum(mine)
    part.shutdown()


def test_meshes_of_two_and_three_dimensions(world):
    for shape in MESHES[world.size]:
        names = ("replicate", "shard", "tensor")[: len(shape)]
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        grid = torch.arange(world.size).view(shape)

        for dimension, name in enumerate(names):
            place = list(mesh.get_coordinate())
            place[dimension] = slice(None)
            members = grid[tuple(place)].tolist()
            assert sum_of_ranks(mesh.get_group(name)) == sum(members)
            assert dist.get_process_group_ranks(mesh[name].get_group()) == members


def test_two_dimensions_of_a_mesh_are_made_one(world):
    mesh = init_device_mesh("cpu", MESHES[world.size][-1], mesh_dim_names=("replicate", "shard", "tensor"))

    flat = mesh["replicate", "shard"]._flatten("data")

    assert sum_of_ranks(flat.get_group()) == sum(dist.get_process_group_ranks(flat.get_group()))


def test_distributed_tensors_change_their_placements(world):
    mesh = init_device_mesh("cpu", (world.size,))
    whole = torch.arange(10.0 * 6).view(10, 6)  # ten rows are not cut evenly by three or four

    sharded = distribute_tensor(whole, mesh, [Shard(0)])
    columns = sharded.redistribute(mesh, [Shard(1)])
    total = DTensor.from_local(whole, mesh, [Partial()]).redistribute(mesh, [Shard(0)])

    assert torch.equal(sharded.full_tensor(), whole)
    assert torch.equal(columns.redistribute(mesh, [Replicate()]).to_local(), whole)
    assert torch.equal(total.full_tensor(), whole * world.size)


def test_several_groups_are_in_flight_whatever_the_order_in_which_ranks_ask(world):
    groups = [dist.new_group() for _ in range(5)]
    numbers = {index: torch.full((1000,), float(index)) for index in range(len(groups))}

    order = [(index + world.rank * 2) % len(groups) for index in range(len(groups))]
    works = [dist.all_reduce(numbers[index], group=groups[index], async_op=True) for index in order]
    for work in works:
        work.wait()

    assert all((tensor == index * world.size).all() for index, tensor in numbers.items())
    for group in groups:
        dist.destroy_process_group(group)


def test_a_group_in_each_of_several_threads(world):
    groups = [dist.new_group() for _ in range(3)]
    sums = [0] * len(groups)

    def reduce_in(index: int) -> None:
        for _ in range(20):
            sums[index] += sum_of_ranks(groups[index])

    threads = [threading.Thread(target=reduce_in, args=(index,)) for index in range(len(groups))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sums == [20 * sum(range(world.size))] * len(groups)
    for group in groups:
        dist.destroy_process_group(group)


def test_overlapping_groups_are_in_flight_together(world):
    """Each pair of neighbours is a group: a chain that waits in a ring if one call holds up another."""
    pairs = [(rank, rank + 1) for rank in range(world.size - 1)]
    groups = {pair: dist.new_group(pair) for pair in pairs}
    mine = {pair: torch.ones(100) for pair in pairs if world.rank in pair}

    works = [dist.all_reduce(tensor, group=groups[pair], async_op=True) for pair, tensor in reversed(mine.items())]
    for work in works:
        work.wait()

    assert all((tensor == 2).all() for tensor in mine.values())
    for pair in mine:
        dist.destroy_process_group(groups[pair])


def test_groups_of_gloo_stand_beside_ours(world, backends):
    ours, gloo = backends

    assert (dist.get_backend(ours), dist.get_backend(gloo)) == ("mpi4py", "gloo")
    assert sum_of_ranks(ours) == sum_of_ranks(gloo)


def test_many_groups_are_made_and_destroyed(world):
    for number in range(30):
        members = [rank for rank in range(world.size) if (rank + number) % world.size != 0] or [0]
        group = dist.new_group(members)
        if world.rank in members:
            assert sum_of_ranks(group) == sum(members)
            dist.destroy_process_group(group)


def test_everything_is_destroyed_and_made_anew(world):
    store = dist.distributed_c10d._get_default_store()
    for number in range(3):
        dist.destroy_process_group()
        assert not dist.is_initialized()
        again = dist.PrefixStore(f"again {number}", store)
        dist.init_process_group("mpi4py", store=again, rank=world.rank, world_size=world.size)
        half = dist.new_group(list(range((world.size + 1) // 2)))

        assert sum_of_ranks() == sum(range(world.size))
        if world.rank < (world.size + 1) // 2:
            assert sum_of_ranks(half) == sum(range((world.size + 1) // 2))
