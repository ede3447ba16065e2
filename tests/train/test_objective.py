"""The loss against its definition. Run: pytest tests/train"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpcllm.data.loader import IGNORED, Batch
from hpcllm.parallel.world import World
from hpcllm.train import objective
from hpcllm.train.objective import cross_entropy, mean_loss


def some_targets() -> torch.Tensor:
    return torch.tensor([[3, 1, IGNORED], [0, 6, 2]])


def test_it_is_the_negative_log_probability_of_the_targets_that_count() -> None:
    logits = torch.zeros(2, 3, 7)

    assert cross_entropy(logits, some_targets()).item() == pytest.approx(5 * math.log(7))


def test_an_ignored_target_has_no_gradient() -> None:
    logits = torch.randn(2, 3, 7, requires_grad=True)

    cross_entropy(logits, some_targets(), label_smoothing=0.1).backward()

    assert logits.grad is not None
    assert logits.grad[0, 2].abs().sum() == 0
    assert (logits.grad.abs().sum(-1) > 0).sum() == 5


def test_label_smoothing_spreads_its_share_over_the_vocabulary() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(1, 4, 7), torch.tensor([[1, 2, 3, 4]])
    smoothed = 0.9 * functional.one_hot(targets, 7) + 0.1 / 7

    expected = -(smoothed * logits.log_softmax(-1)).sum()

    torch.testing.assert_close(cross_entropy(logits, targets, 0.1), expected)


def test_pieces_give_the_loss_and_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7)
    results = []
    for piece in (10**9, 14):
        monkeypatch.setattr(objective, "PIECE_LOGITS", piece)
        x = logits.clone().requires_grad_()
        loss = cross_entropy(x, some_targets(), label_smoothing=0.1)
        loss.backward()
        results.append((loss, x.grad))

    torch.testing.assert_close(results[1], results[0])


def test_bf16_logits_give_a_loss_in_fp32() -> None:
    assert cross_entropy(torch.zeros(2, 3, 7, dtype=torch.bfloat16), some_targets()).dtype == torch.float32


def test_the_mean_weighs_every_target_the_same_however_batches_are_cut() -> None:
    torch.manual_seed(0)
    model = nn.Embedding(7, 7)
    rows = [Batch((torch.tensor([[1, 2, 3]]),), some_targets()[i : i + 1]) for i in range(2)]
    together = Batch((torch.tensor([[1, 2, 3], [1, 2, 3]]),), some_targets())

    apart = mean_loss(model, rows, World.alone(), "fp32")

    assert apart == pytest.approx(mean_loss(model, [together], World.alone(), "fp32"))
    assert model.training
