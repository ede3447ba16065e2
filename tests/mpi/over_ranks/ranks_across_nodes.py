"""All-reduce across nodes of several ranks. One machine stands for many: every two ranks are taken for a node."""

import functools

import pytest
import torch
import torch.distributed as dist
from mpi4py import MPI
from torch.distributed import ReduceOp

from hpcllm.parallel.mpi import across_nodes, paths
from hpcllm.parallel.strategy import init_torch


@pytest.fixture(scope="module", autouse=True)
def nodes_of_two(world):
    patch = pytest.MonkeyPatch()
    patch.setattr(paths, "ranks_of_node", lambda comm: comm.Split(MPI.COMM_WORLD.rank // 2, comm.rank))
    patch.setattr(paths, "ACROSS_NODES_BYTES", 2**14)  # so that a small tensor has several pieces
    init_torch(world)
    yield
    dist.destroy_process_group()
    patch.undo()


def given(world, numel, dtype):
    generator = torch.Generator().manual_seed(numel)
    return [torch.randint(-9, 9, (numel,), generator=generator).to(dtype) for _ in range(world.size)]


def test_the_group_goes_through_memory_and_over_the_network():
    assert isinstance(dist.group.WORLD._paths.across, across_nodes.AcrossNodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.float64], ids=str)
@pytest.mark.parametrize("numel", [0, 1, 7, 4096, 30_001])
def test_every_rank_gets_the_total(world, numel, dtype):
    tensors = given(world, numel, dtype)
    mine = tensors[world.rank].clone()

    dist.all_reduce(mine)

    assert torch.equal(mine, functools.reduce(torch.add, tensors))


@pytest.mark.parametrize("op", [ReduceOp.MAX, ReduceOp.MIN, ReduceOp.AVG], ids=lambda op: op.name)
def test_other_reductions_are_right_on_nodes_of_unequal_size(world, op):
    tensors = given(world, 5_000, torch.float64)
    mine = tensors[world.rank].clone()

    dist.all_reduce(mine, op)

    every = torch.stack(tensors)
    expected = {ReduceOp.MAX: every.amax(0), ReduceOp.MIN: every.amin(0), ReduceOp.AVG: every.mean(0)}[op]
    torch.testing.assert_close(mine, expected, rtol=1e-15, atol=1e-15)


def test_equal_inputs_give_equal_bits_on_all_ranks_and_again(world):
    generator = torch.Generator().manual_seed(world.rank)
    mine = torch.randn(20_000, generator=generator)
    first, second = mine.clone(), mine.clone()

    dist.all_reduce(first)
    dist.all_reduce(second, async_op=True).wait()

    others = [torch.empty_like(first) for _ in range(world.size)]
    dist.all_gather(others, first)
    assert torch.equal(first, second)
    assert all(torch.equal(first, other) for other in others)


def test_the_other_collectives_go_over_the_network(world):
    rows = torch.empty(world.size * 3)
    dist.all_gather_single(rows, torch.full((3,), float(world.rank)))
    part = torch.empty(3)
    dist.reduce_scatter_single(part, rows)

    assert rows.view(world.size, 3)[:, 0].tolist() == [float(rank) for rank in range(world.size)]
    assert part.tolist() == [float(world.rank * world.size)] * 3
