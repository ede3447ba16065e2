"""Every collective of the mpi4py backend against the same computation in one process.

Every rank knows what every rank puts in (`contributions`), so each computes what must come out.
"""

import functools
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ReduceOp

from hpcllm.parallel.mpi import over_network
from hpcllm.parallel.world import World

pytestmark = pytest.mark.usefixtures("group")

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
ARITHMETIC = {
    ReduceOp.SUM: torch.add,
    ReduceOp.PRODUCT: torch.mul,
    ReduceOp.MIN: torch.minimum,
    ReduceOp.MAX: torch.maximum,
}
BITWISE = {ReduceOp.BAND: torch.bitwise_and, ReduceOp.BOR: torch.bitwise_or, ReduceOp.BXOR: torch.bitwise_xor}


@pytest.fixture(scope="module", autouse=True)
def group(world: World):
    """Unlike training, a single rank gets a process group too."""
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True) if world.size == 1 else None
    if store is None:
        from hpcllm.parallel.strategy import init_torch

        init_torch(world)
    else:
        dist.init_process_group("mpi4py", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def contributions(world: World, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """What each rank puts in."""
    generator = torch.Generator().manual_seed(7)
    if dtype.is_floating_point:
        return [torch.randn(shape, generator=generator).to(dtype) for _ in range(world.size)]
    return [torch.randint(0, 5, shape, generator=generator).to(dtype) for _ in range(world.size)]


def in_rank_order(combine, tensors: list[Tensor]) -> Tensor:
    """Reduced from rank 0 upwards; 16-bit floats in 32 bits and rounded once."""
    wide = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
    return functools.reduce(combine, wide)


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=str)
@pytest.mark.parametrize("op", ARITHMETIC, ids=lambda op: op.name)
def test_all_reduce_gives_the_bits_of_a_reduction_in_rank_order(world, op, dtype):
    given = contributions(world, 37, dtype=dtype)
    tensor = given[world.rank].clone()

    dist.all_reduce(tensor, op)

    assert torch.equal(tensor, in_rank_order(ARITHMETIC[op], given).to(dtype))


@pytest.mark.parametrize("op", BITWISE, ids=lambda op: op.name)
def test_integers_reduce_bit_by_bit(world, op):
    given = contributions(world, 9, dtype=torch.int32)
    tensor = given[world.rank].clone()

    dist.all_reduce(tensor, op)

    assert torch.equal(tensor, functools.reduce(BITWISE[op], given))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_average_is_rounded_once(world, dtype):
    given = contributions(world, 11, dtype=dtype)
    tensor = given[world.rank].clone()

    dist.all_reduce(tensor, ReduceOp.AVG)

    assert torch.equal(tensor, (in_rank_order(torch.add, given) / world.size).to(dtype))


def test_booleans_are_or_and_and(world):
    mine = torch.tensor([world.rank == 0, True, False])
    either, both = mine.clone(), mine.clone()

    dist.all_reduce(either, ReduceOp.MAX)
    dist.all_reduce(both, ReduceOp.MIN)

    assert either.tolist() == [True, True, False]
    assert both.tolist() == [world.size == 1, True, False]


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 1000])
def test_the_bits_do_not_depend_on_how_a_tensor_is_cut(world, size, monkeypatch):
    given = contributions(world, size)
    whole, cut = given[world.rank].clone(), given[world.rank].clone()

    dist.all_reduce(whole)
    monkeypatch.setattr(over_network, "PIECE_BYTES", 4 * 24)
    dist.all_reduce(cut)

    assert torch.equal(whole, in_rank_order(torch.add, given))
    assert torch.equal(cut, whole)


def test_equal_calls_give_equal_bits(world):
    given = contributions(world, 1000)[world.rank]

    results = [given.clone() for _ in range(12)]
    for result in results:
        dist.all_reduce(result)

    assert all(torch.equal(result, results[0]) for result in results)


def test_a_tensor_with_holes_is_reduced_and_its_neighbours_are_left_alone(world):
    given = contributions(world, 6, 4)
    around = given[world.rank].clone()

    dist.all_reduce(around[:, ::2])

    assert torch.equal(around[:, ::2], in_rank_order(torch.add, given)[:, ::2])
    assert torch.equal(around[:, 1::2], given[world.rank][:, 1::2])


def test_parameters_and_scalars_are_reduced_in_place(world):
    parameter = torch.nn.Parameter(torch.tensor(1.0))

    with torch.no_grad():
        dist.all_reduce(parameter)

    assert parameter.item() == world.size
    assert parameter.requires_grad


def test_many_asked_for_at_once_are_done_in_order(world):
    tensors = [torch.full((5,), float(number)) for number in range(20)]

    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in reversed(works):
        work.wait()

    assert [tensor[0].item() for tensor in tensors] == [number * world.size for number in range(20)]
    assert all(work.is_completed() for work in works)


def test_coalesced_calls_reduce_each_tensor(world):
    tensors = [torch.ones(3), torch.ones(2, 2)]

    with dist.distributed_c10d._coalescing_manager():
        for tensor in tensors:
            dist.all_reduce(tensor)

    assert all((tensor == world.size).all() for tensor in tensors)


@pytest.mark.parametrize("root", ["first", "last"])
def test_reduce_gives_the_root_the_sum_and_leaves_the_others(world, root):
    root = 0 if root == "first" else world.size - 1
    given = contributions(world, 10)
    tensor = given[world.rank].clone()

    dist.reduce(tensor, root)

    expected = in_rank_order(torch.add, given) if world.rank == root else given[world.rank]
    assert torch.equal(tensor, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64], ids=str)
def test_broadcast_gives_everybody_the_roots(world, dtype):
    root = world.size - 1
    given = contributions(world, 4, 3, dtype=dtype)
    tensor = given[world.rank].clone().t()  # not contiguous

    dist.broadcast(tensor, root)

    assert torch.equal(tensor, given[root].t())


def test_all_gather_gives_a_list_in_rank_order(world):
    given = contributions(world, 3, 2, dtype=torch.bfloat16)
    outputs = [torch.empty(3, 2, dtype=torch.bfloat16) for _ in given]

    dist.all_gather(outputs, given[world.rank].t().contiguous().t())

    assert all(torch.equal(output, expected) for output, expected in zip(outputs, given, strict=True))


def test_all_gather_takes_tensors_of_unequal_sizes(world):
    outputs = [torch.empty(rank) for rank in range(world.size)]

    dist.all_gather(outputs, torch.full((world.rank,), float(world.rank)))

    assert [output.tolist() for output in outputs] == [[float(rank)] * rank for rank in range(world.size)]


def test_all_gather_single_makes_one_tensor(world):
    given = contributions(world, 2, 3)
    output = torch.empty(2 * world.size, 3)

    dist.all_gather_single(output, given[world.rank])

    assert torch.equal(output, torch.cat(given))


def test_all_gather_single_takes_a_part_of_its_output(world):
    given = contributions(world, 5)
    output = torch.zeros(world.size, 5)
    output[world.rank] = given[world.rank]

    dist.all_gather_single(output, output[world.rank])

    assert torch.equal(output, torch.stack(given))


def test_all_gather_single_coalesced_makes_several(world):
    inputs = [torch.full((2,), float(world.rank)), torch.full((1,), -1.0)]
    outputs = [torch.empty(2 * world.size), torch.empty(world.size)]

    dist.group.WORLD.all_gather_single_coalesced(outputs, inputs).wait()

    assert outputs[0].view(-1, 2)[:, 0].tolist() == list(range(world.size))
    assert (outputs[1] == -1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reduce_scatter_single_gives_each_rank_its_part(world, dtype, monkeypatch):
    monkeypatch.setattr(over_network, "PIECE_BYTES", 64)
    given = contributions(world, world.size, 13, dtype=dtype)
    output = torch.empty(13, dtype=dtype)

    dist.reduce_scatter_single(output, given[world.rank])

    assert torch.equal(output, in_rank_order(torch.add, given).to(dtype)[world.rank])


def test_reduce_scatter_single_takes_an_output_inside_its_input(world, monkeypatch):
    monkeypatch.setattr(over_network, "PIECE_BYTES", 16)
    given = contributions(world, world.size, 7)
    mine = given[world.rank].clone()

    dist.reduce_scatter_single(mine[world.rank], mine, ReduceOp.AVG)

    assert torch.equal(mine[world.rank], (in_rank_order(torch.add, given) / world.size)[world.rank])


def test_reduce_scatter_takes_a_list_of_unequal_tensors(world):
    inputs = [torch.full((rank + 1,), float(rank)) for rank in range(world.size)]
    output = torch.empty(world.rank + 1)

    dist.reduce_scatter(output, inputs)

    assert output.tolist() == [float(world.rank * world.size)] * (world.rank + 1)


def test_gather_and_scatter_are_each_others_way_back(world):
    root = world.size - 1
    given = contributions(world, 4)
    gathered = [torch.empty(4) for _ in given] if world.rank == root else None
    back = torch.empty(4)

    dist.gather(given[world.rank], gathered, dst=root)
    dist.scatter(back, gathered, src=root)

    assert torch.equal(back, given[world.rank])
    if gathered is not None:
        assert torch.equal(torch.stack(gathered), torch.stack(given))


def test_all_to_all_is_a_transposition(world):
    inputs = [torch.tensor([float(world.rank), float(peer)]) for peer in range(world.size)]
    outputs = [torch.empty(2) for _ in inputs]

    dist.all_to_all(outputs, inputs)

    assert [output.tolist() for output in outputs] == [[peer, world.rank] for peer in range(world.size)]


def test_all_to_all_single_takes_unequal_parts(world):
    """Rank r sends r+1 rows to each."""
    rows = torch.full((world.size * (world.rank + 1), 2), float(world.rank))
    sizes = [peer + 1 for peer in range(world.size)]
    output = torch.empty(sum(sizes), 2)

    dist.all_to_all_single(output, rows, sizes, [world.rank + 1] * world.size)

    assert output[:, 0].tolist() == [float(peer) for peer in range(world.size) for _ in range(peer + 1)]


def test_all_to_all_single_takes_equal_parts(world):
    output = torch.empty(world.size)

    dist.all_to_all_single(output, torch.full((world.size,), float(world.rank)))

    assert output.tolist() == list(range(world.size))


def test_messages_go_round_in_a_ring(world):
    left, right = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    received = torch.zeros(3, 2)[:, 0]  # not contiguous
    sent = torch.full((3,), float(world.rank))

    ring = [dist.P2POp(dist.irecv, received, left), dist.P2POp(dist.isend, sent, right)]
    for work in dist.batch_isend_irecv(ring):
        work.wait()

    assert (received == left).all()


def test_a_receive_from_anybody_says_from_whom(world):
    if world.rank == 0:
        senders = {dist.recv(torch.empty(1)) for _ in range(world.size - 1)}
        assert senders == set(range(1, world.size))
    else:
        dist.send(torch.ones(1), 0)


def test_objects_travel(world):
    everybody: list[object] = [None] * world.size
    dist.all_gather_object(everybody, {"rank": world.rank})
    from_root = ["word" if world.rank == 0 else None]
    dist.broadcast_object_list(from_root, src=0)

    assert everybody == [{"rank": rank} for rank in range(world.size)]
    assert from_root == ["word"]


def test_groups_of_even_and_odd_ranks_reduce_apart(world):
    halves = [list(range(parity, world.size, 2)) for parity in (0, 1)]
    groups = [dist.new_group(ranks) for ranks in halves if ranks]
    tensor = torch.tensor([float(world.rank)])

    dist.all_reduce(tensor, group=groups[world.rank % 2])
    dist.destroy_process_group(groups[world.rank % 2])

    assert tensor.item() == sum(halves[world.rank % 2])


def test_two_groups_may_be_used_in_either_order(world):
    first, second = dist.new_group(), dist.new_group()
    a, b = torch.ones(4), torch.ones(4)

    order = [(a, first), (b, second)] if world.rank % 2 else [(b, second), (a, first)]
    for work in [dist.all_reduce(tensor, group=group, async_op=True) for tensor, group in order]:
        work.wait()

    assert (a == world.size).all()
    assert (b == world.size).all()


def test_a_mistake_is_raised_by_wait_and_the_group_goes_on(world):
    work = dist.all_gather_single(torch.empty(world.size * 3 + 1), torch.empty(3), async_op=True)
    with pytest.raises(Exception, match=f"{world.size * 3 + 1} elements where {world.size * 3} belong"):
        work.wait()
    tensor = torch.ones(1)
    dist.all_reduce(tensor)

    assert tensor.item() == world.size


def test_an_average_of_integers_is_refused(world):
    with pytest.raises(ValueError, match=r"AVG of torch.int64; reduce by SUM and divide"):
        dist.all_reduce(torch.ones(1, dtype=torch.int64), ReduceOp.AVG)


def test_a_sparse_tensor_is_refused(world):
    with pytest.raises(ValueError, match=r"sparse_coo tensor on cpu; it moves dense CPU tensors"):
        dist.group.WORLD.broadcast([torch.eye(2).to_sparse()], dist.BroadcastOptions())


def test_the_callers_threads_stay_as_they_were(world):
    before = torch.get_num_threads()

    group = dist.new_group()
    dist.destroy_process_group(group)

    assert torch.get_num_threads() == before


def test_a_destroyed_group_is_made_anew(world):
    store = dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()
    again = dist.PrefixStore("again", store)
    dist.init_process_group(
        "mpi4py", store=again, rank=world.rank, world_size=world.size, timeout=timedelta(seconds=30)
    )
    tensor = torch.ones(1)

    dist.all_reduce(tensor)

    assert tensor.item() == world.size
