"""What is sent of a gradient and what is kept."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hpcllm.errors import UserError
from hpcllm.parallel import compression
from hpcllm.parallel.compression import ErrorFeedback, compress_gradients, split_off

gradients = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20)


@dataclass
class Bucket:
    """A bucket of DDP's, of one parameter."""

    parameter: nn.Parameter
    gradient: Tensor

    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter]

    def buffer(self) -> Tensor:
        return self.gradient


@settings(deadline=None, max_examples=200)
@given(gradients)
def test_what_is_sent_and_what_is_kept_are_the_gradient_to_the_bit(values: list[float]):
    gradient = torch.from_numpy(np.array(values, np.float32))
    sent, lost = torch.empty_like(gradient, dtype=torch.bfloat16), torch.empty_like(gradient)

    split_off(gradient, sent, lost)

    assert torch.equal(sent.float() + lost, gradient)
    assert torch.equal(sent, gradient.bfloat16())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20))
def test_feedback_adds_what_was_lost_to_the_next_gradient(values: list[float]):
    feedback, parameter, before = ErrorFeedback(), nn.Parameter(torch.zeros(1)), torch.zeros(1)

    for value in values:
        gradient = torch.tensor([value])
        sent = feedback.sent(Bucket(parameter, gradient.clone()))
        assert torch.equal(sent.float() + feedback.lost[parameter], gradient + before)
        before = feedback.lost[parameter].clone()


def test_a_model_that_is_no_ddp_is_refused(monkeypatch):
    monkeypatch.setattr(compression.dist, "is_initialized", lambda: True)

    with pytest.raises(UserError, match="gradient_compression: found bf16; it goes with the strategies ddp and zero1"):
        compress_gradients(nn.Linear(1, 1), "bf16")


def test_one_rank_has_nothing_to_compress():
    compress_gradients(nn.Linear(1, 1), "bf16")
