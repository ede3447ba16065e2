"""Gradients that travel as bf16: half of the bytes of DDP's all-reduce, by a communication hook.

| train.gradient_compression | sent | rounding |
|---|---|---|
| none | fp32 | none |
| bf16 | the gradient in bf16 | of every step is lost |
| bf16-feedback | the gradient and what earlier steps have lost of it, in bf16 | is sent with a later step |

Error feedback: Seide et al. 2014, §3 (1-bit SGD); Karimireddy et al. 2019 for why it converges as SGD does. What a
rank has lost is kept in fp32, 4 bytes a parameter, and in no checkpoint: a training that goes on from one begins with
nothing lost, so it gives up the rounding of one step. The sum over the ranks is rounded to bf16 once more, which no
feedback sees; it is the same on all ranks, so their weights stay equal.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from hpcllm.errors import UserError

WIRE = torch.bfloat16


def compress_gradients(model: nn.Module, kind: str) -> None:
    """Let a model that `data_parallel` gave exchange its gradients as `train.gradient_compression` has it.

    One rank exchanges none. Raises UserError for a sharded model, whose gradients go another way.
    """
    if kind == "none" or not dist.is_initialized():
        return
    if not isinstance(model, DistributedDataParallel):
        raise UserError(f"train.gradient_compression: found {kind}; it goes with the strategies ddp and zero1")
    model.register_comm_hook(HOOKS[kind](), _send)


class Rounding:
    """The nearest bf16 of each gradient."""

    def sent(self, bucket: GradBucket) -> Tensor:
        """What goes out in place of the bucket."""
        return bucket.buffer().to(WIRE)


class ErrorFeedback:
    """The nearest bf16 of each gradient and what was lost of it before."""

    def __init__(self) -> None:
        # By parameter: DDP cuts its buckets anew after the first step.
        self.lost: dict[Tensor, Tensor] = {}

    def sent(self, bucket: GradBucket) -> Tensor:
        """What goes out in place of the bucket; the rest is kept. Together they are the gradient, to the bit."""
        parameters, gradients = bucket.parameters(), bucket.buffer()
        sent, sizes = torch.empty_like(gradients, dtype=WIRE), [parameter.numel() for parameter in parameters]
        for parameter, gradient, part in zip(parameters, gradients.split(sizes), sent.split(sizes), strict=True):
            if parameter not in self.lost:
                self.lost[parameter] = torch.zeros_like(gradient)
            split_off(gradient.add_(self.lost[parameter]), part, self.lost[parameter])
        return sent


HOOKS: dict[str, Callable[[], Rounding | ErrorFeedback]] = {"bf16": Rounding, "bf16-feedback": ErrorFeedback}


def split_off(gradient: Tensor, sent: Tensor, lost: Tensor) -> None:
    """Cut fp32 numbers into their nearest bf16 and the rest, which fp32 holds exactly: of 24 bits the lower 16."""
    torch.sub(gradient, sent.copy_(gradient), out=lost)


def _send(state: Rounding | ErrorFeedback, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations as text
    """The communication hook: the average over all ranks, in the bucket's own memory and type."""
    gradients: Tensor = bucket.buffer()
    work = dist.all_reduce(state.sent(bucket), async_op=True)

    def average(summed: Future[list[Tensor]]) -> Tensor:
        gradients.copy_(summed.value()[0])
        return gradients.div_(dist.get_world_size())

    return work.get_future().then(average)
