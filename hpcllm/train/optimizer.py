"""AdamW, its learning rate as a pure function of the step, and clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hpcllm.job import spec
from hpcllm.parallel.strategy import updated_pieces
from hpcllm.parallel.world import World


def adamw(model: nn.Module, settings: spec.Optimizer, world: World) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), by torch's fused kernel, of what this rank updates of the model.

    `model` is as `data_parallel` gave it. Weight decay is for matrices only.
    Norms and biases are no matrices; positions are left alone too, since zero is no place in particular.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for piece in updated_pieces(model, world):
        is_decayed = len(piece.shape) >= 2 and not piece.name.endswith("positions")
        (decayed if is_decayed else others).append(piece.parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)


def learning_rate(step: int, settings: spec.Train) -> float:
    """Of the step-th optimizer step, 1…steps: a line up to the highest rate, then down to `minimum` of it at the last.

    cosine: Loshchilov & Hutter 2017 (SGDR, equation 5, without restarts). The warm-up: Goyal et al. 2017, §2.2.
    """
    highest, schedule = settings.optimizer.learning_rate, settings.schedule
    if step <= schedule.warmup_steps:
        return highest * step / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / (settings.steps - schedule.warmup_steps)
    left = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}[schedule.name]
    return highest * (schedule.minimum + (1 - schedule.minimum) * left)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """For the next step, of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients down together to a norm of at most max_norm (0 leaves them). Returns the norm before.

    Pascanu et al. 2013, algorithm 1.
    """
    parameters = list(model.parameters())
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if isinstance(norm, DTensor):  # of sharded gradients: each rank has its share of the sum of squares
        norm = norm.full_tensor()
    if max_norm > 0:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
