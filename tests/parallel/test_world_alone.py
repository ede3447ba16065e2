"""One process without MPI is a world too, and trains without a process group."""

import torch
from torch import nn

from hpcllm.parallel.strategy import bare, data_parallel, no_sync, torch_process_group
from hpcllm.parallel.world import World


def test_one_process_talks_to_itself():
    world = World.alone()
    world.barrier()

    assert (world.rank, world.size, world.nodes) == (0, 1, 1)
    assert world.broadcast("word") == "word"
    assert world.all_gather(3) == [3]
    assert world.all_reduce_sum(3) == 3


def test_one_process_trains_the_bare_model_without_a_process_group():
    model = nn.Linear(2, 1)

    with torch_process_group(World.alone()):
        wrapped = data_parallel(model, World.alone())
        with no_sync(wrapped):
            wrapped(torch.ones(1, 2)).sum().backward()
        assert not torch.distributed.is_initialized()

    assert wrapped is model
    assert bare(wrapped) is model
    assert model.weight.grad is not None
