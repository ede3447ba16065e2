"""Training over ranks: the numbers of one process that sees the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hpcllm.errors import UserError
from hpcllm.parallel.strategy import bare, data_parallel, no_sync

pytestmark = pytest.mark.usefixtures("group")
STEPS, BATCH = 4, 24


def a_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 1))


def the_data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(4))
    return inputs, inputs.sum(1, keepdim=True)


def train(model: nn.Module, rank: int, size: int, micro_batches: int = 1) -> list[float]:
    """Losses of a few steps; each rank takes its share of the same batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs, targets = (tensor.tensor_split(size)[rank].chunk(micro_batches) for tensor in the_data())
    return [step(model, optimizer, list(zip(inputs, targets, strict=True))) for _ in range(STEPS)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> float:
    for x, y in batches[:-1]:
        with no_sync(model):
            (nn.functional.mse_loss(model(x), y) / len(batches)).backward()
    x, y = batches[-1]
    (nn.functional.mse_loss(model(x), y) / len(batches)).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        inputs, targets = the_data()
        return nn.functional.mse_loss(model(inputs), targets).item()


def test_ddp_trains_as_one_process_does(world):
    losses = train(data_parallel(a_model(), world), world.rank, world.size)

    assert losses == pytest.approx(train(a_model(), 0, 1), rel=1e-5)
    assert losses[-1] < losses[0]


def test_ddp_trains_as_over_gloo(world):
    gloo = dist.new_group(backend="gloo")
    theirs = nn.parallel.DistributedDataParallel(a_model(), process_group=gloo)

    losses = train(data_parallel(a_model(), world), world.rank, world.size)

    expected = train(theirs, world.rank, world.size)
    assert losses == (expected if world.size == 2 else pytest.approx(expected, rel=1e-6))


def test_accumulated_micro_batches_are_one_batch(world):
    losses = train(data_parallel(a_model(), world), world.rank, world.size, micro_batches=2)

    assert losses == pytest.approx(train(a_model(), 0, 1), rel=1e-5)


def test_two_equal_trainings_give_equal_bits(world):
    losses = [train(data_parallel(a_model(), world), world.rank, world.size) for _ in range(2)]

    assert losses[0] == losses[1]


def test_unequal_weights_become_rank_zeros(world):
    model = a_model()
    with torch.no_grad():
        model[0].weight += world.rank

    wrapped = data_parallel(model, world)

    assert torch.equal(bare(wrapped)[0].weight, a_model()[0].weight)


def test_fully_shard_trains_as_one_process_does(world):
    model = a_model()
    mesh = init_device_mesh("cpu", (world.size,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)

    losses = train(model, world.rank, world.size)

    assert losses == pytest.approx(train(a_model(), 0, 1), rel=1e-5)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    assert world.rank != 0 or whole["0.weight"].shape == (48, 6)


def test_hsdp_trains_as_one_process_does(world):
    if world.size != 4:
        return
    model = a_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))

    assert train(model, world.rank, world.size) == pytest.approx(train(a_model(), 0, 1), rel=1e-5)


def test_an_unknown_strategy_is_the_users_mistake(world):
    with pytest.raises(UserError, match="strategy: found 'pipeline'"):
        data_parallel(a_model(), world, "pipeline")
