"""What torch.distributed offers beside plain collectives, on the mpi4py backend: messages, objects, coalesced and
functional forms, sparse tensors, works and their errors.

By hand:  mpirun -n 3 python -m pytest -p no:cacheprovider tests/mpi/over_ranks/ranks_calls.py
"""

from __future__ import annotations

import warnings
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn.functional as differentiable
from against_gloo import both_backends
from collective_calls import Call, part, reduced
from torch import Tensor
from torch.distributed import ReduceOp
from torch.distributed.distributed_c10d import _coalescing_manager

pytestmark = pytest.mark.usefixtures("backends")
NUMBERS = Call("all_reduce", shape=(12,), seed=1)


@pytest.fixture(scope="module")
def backends(world):
    with both_backends(world) as groups:
        yield groups


@pytest.fixture
def given(world) -> list[Tensor]:
    """What each rank puts in."""
    return [part(NUMBERS, rank) for rank in range(world.size)]


@pytest.fixture
def mine(given, world) -> Tensor:
    return given[world.rank].clone()


def total(given: list[Tensor]) -> Tensor:
    return reduced(NUMBERS, given)


# Messages.


def test_messages_are_told_apart_by_their_tags(world):
    if world.rank == 0:
        works = [dist.isend(torch.full((3,), float(tag)), peer, tag=tag) for peer in others(world) for tag in (5, 6, 7)]
        for work in works:
            work.wait()
    else:
        received = {tag: torch.zeros(3) for tag in (7, 5, 6)}
        works = [dist.irecv(tensor, 0, tag=tag) for tag, tensor in received.items()]
        for work in works:
            work.wait()

        assert all((tensor == tag).all() for tag, tensor in received.items())


def test_messages_of_one_tag_arrive_in_order(world):
    if world.rank == 0:
        for number in range(10):
            for peer in others(world):
                dist.send(torch.tensor([number]), peer)
    else:
        received = []
        for _ in range(10):
            tensor = torch.zeros(1, dtype=torch.int64)
            assert dist.recv(tensor, 0) == 0
            received.append(int(tensor))

        assert received == list(range(10))


def test_a_receive_from_anybody_takes_the_tag_asked_for(world):
    if world.rank == 0:
        seen = []
        for _ in others(world):
            tensor = torch.zeros(1)
            source = dist.recv(tensor, tag=3)
            assert tensor.item() == source
            seen.append(source)
        assert sorted(seen) == list(others(world))
    else:
        dist.send(torch.tensor([float(world.rank)]), 0, tag=3)


def test_a_rank_sends_to_itself_where_the_call_is_async(world):
    received = torch.zeros(2)

    send = dist.isend(torch.ones(2), world.rank)
    dist.irecv(received, world.rank).wait()
    send.wait()

    assert (received == 1).all()


def test_a_batch_goes_everywhere_whatever_its_order(world):
    """Sends before receives on odd ranks, the other way round on even ones; large, so that none goes unreceived."""
    size = 300_000
    received = {peer: torch.zeros(size) for peer in others(world)}
    sends = [dist.P2POp(dist.isend, torch.full((size,), float(world.rank)), peer) for peer in others(world)]
    receives = [dist.P2POp(dist.irecv, tensor, peer) for peer, tensor in received.items()]

    if sends:
        for work in dist.batch_isend_irecv(sends + receives if world.rank % 2 else receives + sends):
            work.wait()

    assert all((tensor == peer).all() for peer, tensor in received.items())


def test_messages_between_members_of_a_group_go_by_their_rank_in_it(world):
    members = list(range(world.size))[-2:]
    group = dist.new_group(members)
    if world.rank in members and len(members) == 2:
        tensor = torch.zeros(1)
        if group.rank() == 0:
            dist.send(torch.ones(1), group=group, group_dst=1)
        else:
            assert dist.recv(tensor, group=group) == members[0]
            assert tensor.item() == 1


def others(world) -> list[int]:
    return [rank for rank in range(world.size) if rank != world.rank]


# Objects.


def test_objects_of_unequal_size_are_gathered(world):
    everybody: list[object] = [None] * world.size
    at_last: list[object] | None = [None] * world.size if world.rank == world.size - 1 else None

    dist.all_gather_object(everybody, {"rank": world.rank, "text": "x" * 100 * world.rank})
    dist.gather_object("y" * world.rank, at_last, dst=world.size - 1)

    assert everybody == [{"rank": rank, "text": "x" * 100 * rank} for rank in range(world.size)]
    assert at_last is None or at_last == ["y" * rank for rank in range(world.size)]


def test_objects_are_scattered_and_broadcast(world):
    root = world.size - 1
    words = [f"for {rank}" for rank in range(world.size)] if world.rank == root else [None] * world.size
    scattered: list[object] = [None]
    several = [1, "two", None] if world.rank == root else [None] * 3

    dist.scatter_object_list(scattered, words, src=root)
    dist.broadcast_object_list(several, src=root)

    assert scattered == [f"for {world.rank}"]
    assert several == [1, "two", None]


def test_objects_are_sent(world):
    if world.rank == 0:
        for peer in others(world):
            dist.send_object_list(["to", peer], peer)
    else:
        objects: list[object] = [None, None]
        assert dist.recv_object_list(objects, src=0) == 0
        assert objects == ["to", world.rank]


# Coalesced forms.


@pytest.mark.parametrize("is_async", [False, True])
def test_coalesced_all_reduces(world, given, mine, is_async):
    tensors = [mine.clone(), mine.clone().view(3, 4), mine[:1].clone()]

    with _coalescing_manager(async_ops=is_async) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor, ReduceOp.MAX)
    if is_async:
        manager.wait()

    largest = torch.stack(given).amax(0)
    assert all(torch.equal(tensor.view(-1), largest[: tensor.numel()]) for tensor in tensors)


@pytest.mark.parametrize("is_async", [False, True])
def test_coalesced_gathers_and_scatters(world, given, mine, is_async):
    gathered = [torch.zeros(12 * world.size), torch.zeros(world.size)]
    scattered = [torch.zeros(12), torch.zeros(3)]

    with _coalescing_manager(async_ops=is_async) as manager:
        dist.all_gather_single(gathered[0], mine)
        dist.all_gather_single(gathered[1], mine[:1])
    if is_async:
        manager.wait()
    with _coalescing_manager(async_ops=is_async) as manager:
        dist.reduce_scatter_single(scattered[0], gathered[0])
        dist.reduce_scatter_single(scattered[1], gathered[0][: 3 * world.size].clone())
    if is_async:
        manager.wait()

    assert torch.equal(gathered[0], torch.cat(given))
    assert torch.equal(gathered[1], torch.cat([tensor[:1] for tensor in given]))
    assert torch.allclose(scattered[0], given[world.rank] * world.size)
    assert torch.allclose(scattered[1], torch.cat(given)[3 * world.rank :][:3] * world.size)


def test_coalesced_calls_of_other_kinds_and_messages(world, given, mine):
    """With a device, torch hands each call to the backend as it is made, between two marks."""
    root, received, group = mine.clone(), torch.zeros(12), dist.new_group()

    with _coalescing_manager(group, torch.device("cpu"), async_ops=True) as manager:
        dist.broadcast(root, 0, group, async_op=True)
        dist.isend(mine, (world.rank + 1) % world.size, group)
        dist.irecv(received, (world.rank - 1) % world.size, group)
    manager.wait()

    assert torch.equal(root, given[0])
    assert torch.equal(received, given[world.rank - 1])


def test_the_older_coalesced_functions(world, given, mine):
    tensors = [mine.clone(), mine[:5].clone()]
    gathered = [[torch.zeros(12), torch.zeros(5)] for _ in given]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)

        dist.all_gather_coalesced(gathered, tensors)
        dist.all_reduce_coalesced(tensors)
        future = dist.all_reduce_coalesced([mine], ReduceOp.MIN, async_op=True)
        future.wait()

    assert all(
        torch.equal(whole, put) and torch.equal(first, put[:5])
        for (whole, first), put in zip(gathered, given, strict=True)
    )
    assert torch.equal(tensors[0], total(given))
    assert torch.equal(tensors[1], total(given)[:5])
    assert torch.equal(mine, torch.stack(given).amin(0))


# Functional and differentiable forms.


def test_functional_collectives(world, given, mine):
    group = dist.group.WORLD
    all_of_them = torch.cat(given)

    assert torch.equal(functional.all_reduce(mine, "sum", group), total(given))
    assert torch.allclose(functional.all_reduce(mine, "avg", group), total(given) / world.size)
    assert torch.equal(functional.broadcast(mine, world.size - 1, group), given[-1])
    assert torch.equal(functional.all_gather_single(mine, 0, group), all_of_them)
    assert torch.equal(
        functional.all_gather_single(mine.view(4, 3), 1, group), torch.cat([t.view(4, 3) for t in given], 1)
    )
    assert torch.allclose(functional.reduce_scatter_single(all_of_them, "sum", 0, group), mine * world.size)
    assert torch.equal(functional.all_to_all_single(all_of_them, None, None, group), mine.repeat(world.size))
    assert torch.equal(mine, given[world.rank])


def test_functional_collectives_with_uneven_splits(world):
    rows = [rank + world.rank for rank in range(world.size)]
    put = torch.full((sum(rows), 2), float(world.rank))

    got = functional.all_to_all_single(put, rows, rows, dist.group.WORLD)

    assert got[:, 0].tolist() == [float(peer) for peer in range(world.size) for _ in range(rows[peer])]


def test_functional_coalesced_collectives(world, given, mine):
    group = dist.group.WORLD

    sums = functional.all_reduce_coalesced([mine, mine[:2].clone()], "sum", group)
    gathered = functional.all_gather_single_coalesced([mine, mine[:2].clone()], group)
    parts = functional.reduce_scatter_single_coalesced([torch.cat(given)] * 2, "sum", [0, 0], group)

    assert torch.equal(sums[0], total(given))
    assert torch.equal(sums[1], total(given)[:2])
    assert torch.equal(gathered[0], torch.cat(given))
    assert torch.equal(gathered[1], torch.cat([t[:2] for t in given]))
    assert all(torch.allclose(tensor, mine * world.size) for tensor in parts)


def test_functional_collectives_have_gradients(world, mine):
    weight = mine.clone().requires_grad_()

    gathered = functional.all_gather_single_autograd(weight, 0, dist.group.WORLD)
    scattered = functional.reduce_scatter_single_autograd(gathered * (world.rank + 1), "sum", 0, dist.group.WORLD)
    scattered.sum().backward()

    assert torch.allclose(weight.grad, torch.full((12,), float(sum(range(1, world.size + 1)))))


@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional:FutureWarning")
def test_differentiable_collectives(world, given, mine):
    weight = mine.clone().requires_grad_()

    summed = differentiable.all_reduce(weight)
    gathered = differentiable.all_gather(weight)
    moved = differentiable.broadcast(weight, 0)
    (summed.sum() + sum(tensor.sum() for tensor in gathered) + moved.sum()).backward()

    assert torch.equal(summed.detach(), total(given))
    assert weight.grad is not None
    assert torch.allclose(weight.grad, torch.full((12,), 2.0 * world.size + (world.size if world.rank == 0 else 0)))


# Sparse tensors.


def test_sparse_tensors_are_summed(world, backends):
    """Each rank has an element of its own, and all have the last."""
    indices = torch.tensor([[world.rank, world.size]])
    sparse = torch.sparse_coo_tensor(
        indices, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), (world.size + 1, 2), check_invariants=True
    )
    theirs = sparse.clone()

    dist.all_reduce(sparse)
    dist.all_reduce(theirs, group=backends[1])

    assert sparse.is_sparse
    assert torch.equal(sparse.to_dense(), theirs.to_dense())


# Works, futures, errors.


def test_a_work_tells_how_it_stands(world, mine, given):
    work = dist.all_reduce(mine, async_op=True)

    assert work.wait() in (True, None)
    assert work.is_completed()
    assert work.is_success()
    assert work.exception() is None
    assert torch.equal(work.result()[0], total(given))


def test_the_future_of_a_work_holds_the_tensors_and_calls_back(world, mine, given):
    halves = dist.all_reduce(mine, async_op=True).get_future().then(lambda future: future.value()[0] / 2)

    assert torch.equal(halves.wait(), total(given) / 2)


def test_a_work_that_nobody_waits_for_is_done_before_the_next_barrier(world, mine, given):
    dist.all_reduce(mine, async_op=True)
    dist.barrier()

    assert torch.equal(mine, total(given))


def test_a_tensor_may_be_let_go_while_its_collective_runs(world):
    work = dist.all_reduce(torch.ones(2_000_000), async_op=True)
    torch.randn(2_000_000)  # takes the memory, if it was given back

    assert (work.get_future().wait()[0] == world.size).all()


def test_barriers(world):
    dist.barrier()
    dist.barrier(async_op=True).wait()
    dist.barrier(dist.new_group())


def test_a_monitored_barrier_lets_all_through(world):
    """`dist.monitored_barrier` itself asks for the name gloo (torch 2.13); this is what it calls."""
    group = dist.group.WORLD

    group.monitored_barrier(timedelta(seconds=30))
    group.monitored_barrier(timedelta(seconds=30), wait_all_ranks=True)


@pytest.mark.parametrize("form", ["async", "blocking"])
def test_sizes_that_do_not_fit_are_an_error_and_the_group_goes_on(world, mine, given, form):
    too_large = torch.zeros(12 * world.size + 1)

    with pytest.raises(Exception, match=f"{12 * world.size + 1} elements where {12 * world.size} belong"):
        work = dist.all_gather_single(too_large, mine, async_op=form == "async")
        work.wait()

    dist.all_reduce(mine)
    assert torch.equal(mine, total(given))


def test_the_error_of_a_work_is_kept_and_reaches_its_future(world, mine):
    work = dist.reduce_scatter_single(torch.zeros(5), torch.zeros(5 * world.size + 1), async_op=True)

    with pytest.raises(Exception, match="elements where"):
        work.wait()
    with pytest.raises(Exception, match="elements where"):
        work.get_future().wait()
    assert work.is_completed()
    assert not work.is_success()
    assert "elements where" in str(work.exception())


def test_a_message_longer_than_its_receiver_is_an_error_of_wait(world):
    group = dist.new_group()
    sent = dist.isend(torch.zeros(100), (world.rank + 1) % world.size, group=group)
    received = dist.irecv(torch.zeros(3), (world.rank - 1) % world.size, group=group)

    with pytest.raises(Exception, match=r"(?i)truncat"):
        received.wait()
    sent.wait()


def test_types_that_do_not_match_an_operation_are_refused(world):
    for op, dtype in [(ReduceOp.BAND, torch.float32), (ReduceOp.AVG, torch.int32)]:
        with pytest.raises((ValueError, RuntimeError, TypeError), match=r"BAND|AVG|bitwise"):
            dist.all_reduce(torch.ones(4).to(dtype), op)


def test_outputs_of_another_type_than_the_input_are_refused(world, mine):
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        dist.all_gather_single(torch.zeros(12 * world.size, dtype=torch.float64), mine)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        dist.all_gather([torch.zeros(12, dtype=torch.int64) for _ in range(world.size)], mine)


def test_parameters_and_tensors_of_inference_mode_are_reduced(world, given, mine):
    parameter = torch.nn.Parameter(mine.clone())
    with torch.inference_mode():
        inferred = mine.clone()
        dist.all_reduce(inferred)
    with torch.no_grad():
        dist.all_reduce(parameter)

    assert torch.equal(inferred, total(given))
    assert torch.equal(parameter.detach(), total(given))
