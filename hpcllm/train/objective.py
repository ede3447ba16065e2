"""Maximum likelihood: cross-entropy of the targets under the logits.

Shape suffixes: B sequences, T targets of a sequence, V vocabulary, N = B·T rows of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hpcllm.data.loader import IGNORED, Batch
from hpcllm.parallel.world import World
from hpcllm.train.precision import autocast

PIECE_LOGITS = 2**24  # numbers: 64 MiB in fp32

Loss = Callable[[Tensor, Batch], Tensor]
"""(logits, batch) -> the sum of the loss over the targets that count. The loop divides by their number."""


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The sum over all targets but IGNORED of −log p(target), in nats, in fp32 whatever the logits are in.

    Label smoothing ε: of the target's probability ε is spread over all V tokens (Szegedy et al. 2016, §7).
    Many rows are taken piece by piece, each computed again in the backward pass, so that no more than one piece is held
    in fp32 (GPT-2 124M, a micro-batch of 8: 64 MiB instead of 1.5 GiB).
    """
    logits_NV, targets_N = logits_BTV.flatten(0, 1), targets_BT.flatten()
    piece = partial(_piece, label_smoothing=label_smoothing)
    rows = max(1, PIECE_LOGITS // logits_NV.shape[1])
    if len(targets_N) <= rows:
        return piece(logits_NV, targets_N)
    pieces = zip(torch.split(logits_NV, rows), torch.split(targets_N, rows), strict=True)
    return torch.stack(
        [checkpoint(piece, *each, use_reentrant=False, preserve_rng_state=False) for each in pieces]
    ).sum()


def likelihood(label_smoothing: float) -> Loss:
    """The loss that training minimizes, unless it is given another."""
    return lambda logits_BTV, batch: cross_entropy(logits_BTV, batch.targets, label_smoothing)


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch], world: World, precision: str) -> float:
    """Nats per target over the batches of all ranks, each target counted once, without dropout or smoothing.

    Rank 0 has as many batches as any other rank.
    """
    model.eval()
    nats_and_targets = np.zeros(2)
    for batch in _in_step(model, batches, world):
        on_device = batch_on(batch, next(model.parameters()).device)
        with autocast(on_device.targets.device.type, precision):
            nats = cross_entropy(model(*on_device.inputs), on_device.targets)
        nats_and_targets += nats.item(), (batch.targets != IGNORED).sum().item()
    model.train()
    nats_sum, num_targets = world.all_reduce_sum(nats_and_targets)
    return float(nats_sum / num_targets)


def _in_step(model: nn.Module, batches: Iterable[Batch], world: World) -> Iterator[Batch]:
    """As many batches on every rank where the weights are sharded: each forward pass gathers them from all ranks.

    A rank that has none left takes rank 0's without a target that counts. At the end the weights are sharded again.
    """
    if not isinstance(model, FSDPModule):
        yield from batches
        return
    own = iter(batches)
    while (everybodys := world.broadcast(batch := next(own, None))) is not None:
        yield batch or Batch(everybodys.inputs, torch.full_like(everybodys.targets, IGNORED))
    model.reshard()


def batch_on(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    inputs = tuple(tensor.to(device, non_blocking=True) for tensor in batch.inputs)
    return Batch(inputs, batch.targets.to(device, non_blocking=True))


def _piece(logits_NV: Tensor, targets_N: Tensor, label_smoothing: float) -> Tensor:
    return functional.cross_entropy(
        logits_NV.float(), targets_N, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )
