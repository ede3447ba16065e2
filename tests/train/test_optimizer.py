"""Learning rate, weight decay and clipping. Run: pytest tests/train"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpcllm.job.model_spec import ModelSpec
from hpcllm.job.spec import Optimizer, Schedule, Train
from hpcllm.model.build import build
from hpcllm.parallel.world import World
from hpcllm.train.optimizer import adamw, clip, learning_rate


def settings(name: str, warmup_steps: int = 10) -> Train:
    schedule = Schedule.model_validate({"name": name, "warmup_steps": warmup_steps, "minimum": "10%"})
    return Train(steps=110, global_batch=1, optimizer=Optimizer(learning_rate=1.0), schedule=schedule)


@pytest.mark.parametrize(
    ("name", "halfway", "last"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_the_rate_rises_in_a_line_and_falls_to_the_minimum_at_the_last_step(
    name: str, halfway: float, last: float
) -> None:
    rates = {step: learning_rate(step, settings(name)) for step in (1, 5, 10, 60, 110)}

    assert rates == pytest.approx({1: 0.1, 5: 0.5, 10: 1.0, 60: halfway, 110: last})


def test_a_cosine_falls_slowest_at_its_ends() -> None:
    falls = [learning_rate(step, settings("cosine")) - learning_rate(step + 1, settings("cosine")) for step in (10, 60)]

    assert 0 < falls[0] < falls[1] / 10


def test_no_warmup_begins_near_the_highest_rate_and_all_warmup_ends_at_it() -> None:
    assert learning_rate(1, settings("linear", warmup_steps=0)) == pytest.approx(1 - 0.9 / 110)
    assert learning_rate(110, settings("cosine", warmup_steps=110)) == 1.0


def test_only_matrices_decay() -> None:
    spec = ModelSpec(layers=1, width=8, heads=2, feed_forward=8, context=4)
    model = build(spec, 20)

    decayed, others = adamw(model, Optimizer(weight_decay=0.3), World.alone()).param_groups

    names = {parameter: name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert {names[p] for p in others["params"] if p.dim() == 2} == {"embedding.positions"}
    assert "embedding.tokens.weight" in {names[p] for p in decayed["params"]}


@pytest.mark.parametrize(("max_norm", "after"), [(1.0, 1.0), (100.0, 5.0), (0.0, 5.0)])
def test_gradients_are_scaled_down_together_and_their_norm_is_returned(max_norm: float, after: float) -> None:
    model = nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])

    norm = clip(model, max_norm)

    assert norm.item() == 5
    assert torch.hypot(model.weight.grad, model.bias.grad).item() == pytest.approx(after, rel=1e-5)
    assert (model.weight.grad / model.bias.grad).item() == pytest.approx(0.75)
