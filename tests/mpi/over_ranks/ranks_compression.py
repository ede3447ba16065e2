"""Gradients in bf16 between ranks: training goes where it goes in fp32."""

import pytest
import torch
from torch import Tensor, nn

from hpcllm.parallel.compression import compress_gradients
from hpcllm.parallel.strategy import data_parallel

pytestmark = pytest.mark.usefixtures("group")
STEPS = 60


def losses(world, kind: str) -> list[float]:
    """Of a small regression by plain SGD, whose steps are as large as its gradients are."""
    torch.manual_seed(5)
    model = data_parallel(nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1)), world)
    compress_gradients(model, kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(4))
    mine, targets = (part.tensor_split(world.size)[world.rank] for part in (inputs, inputs.sum(1, keepdim=True)))
    return [step(model, optimizer, mine, targets) for _ in range(STEPS)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> float:
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("kind", ["bf16", "bf16-feedback"])
def test_compressed_gradients_converge_as_fp32_ones_do(world, kind):
    exact, compressed = losses(world, "none"), losses(world, kind)

    assert exact[-1] < 0.2 * exact[0]
    assert compressed[-1] == pytest.approx(exact[-1], rel=0.03)


@pytest.mark.parametrize("kind", ["bf16", "bf16-feedback"])
def test_two_equal_trainings_give_equal_bits(world, kind):
    assert losses(world, kind) == losses(world, kind)


def average_of_a_constant_gradient(world, kind: str, steps: int) -> float:
    """Of 1 + 2⁻¹⁰, which bf16 rounds to 1: what the ranks get on average."""
    model = data_parallel(nn.Linear(1, 1, bias=False), world)
    compress_gradients(model, kind)
    total = 0.0
    for _ in range(steps):
        model(torch.full((1, 1), 1 + 2.0**-10)).sum().backward()
        total += next(model.parameters()).grad.item()
        model.zero_grad()
    return total / steps


def test_feedback_sends_later_what_rounding_loses(world):
    assert average_of_a_constant_gradient(world, "bf16", 16) == 1.0
    assert average_of_a_constant_gradient(world, "bf16-feedback", 16) == pytest.approx(1 + 2.0**-10, abs=2.0**-11)
