"""ZeRO-1: every rank holds all weights, and the optimizer's state of its share of them alone.

Rajbhandari et al. 2020 (ZeRO, P_os). The weights are laid end to end in one row of memory, and the row is cut into as
many equal stretches as there are ranks. DDP averages the gradients as ever, beside the backward pass; then each rank
updates its stretch, and one all-gather gives every rank the others'. An all-gather moves half of what an all-reduce
moves, so a step moves half as much again as DDP's. (Reducing each gradient to its owner alone would save that half, but
DDP cuts its buckets anew after the first step, and a rank's share of the state cannot move with them.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hpcllm.parallel.pieces import Piece

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13


class ShardedOptimizer(DistributedDataParallel):
    """DDP of a model of whose weights this rank updates `pieces` alone; then all ranks call `share_weights`."""

    def __init__(self, model: nn.Module, rank: int, size: int, **options: Any) -> None:
        row = laid_end_to_end(model, size)
        super().__init__(model, **options)
        self._row = row
        self._mine = row.chunk(size)[rank]
        self._weights = dict(model.named_parameters())
        self.pieces = cut(self._weights, rank * len(self._mine), self._mine)

    @contextmanager
    def gradients_of_pieces(self) -> Iterator[None]:
        """Inside the block the pieces have their gradients, views of the model's."""
        for piece in self.pieces:
            gradient = self._weights[piece.name].grad
            piece.parameter.grad = None if gradient is None else piece.of(gradient).view_as(piece.parameter)
        yield
        for piece in self.pieces:
            piece.parameter.grad = None

    def share_weights(self) -> None:
        """Give every rank what the others updated."""
        _all_gather(self._row, self._mine)


def laid_end_to_end(model: nn.Module, size: int) -> Tensor:
    """Move the weights into one row, filled up with zeros to a multiple of `size`; each becomes a view of it."""
    weights = list(model.parameters())
    numel = sum(weight.numel() for weight in weights)
    row = weights[0].new_zeros(numel + -numel % size, requires_grad=False)
    start = 0
    for weight in weights:
        place = row[start : start + weight.numel()].view_as(weight)
        place.copy_(weight.detach())
        weight.data = place
        start += weight.numel()
    return row


def cut(weights: dict[str, nn.Parameter], begin: int, mine: Tensor) -> list[Piece]:
    """What lies in the stretch of the row that begins there, weight by weight. Pieces are views of it."""
    pieces, start = [], 0
    for name, weight in weights.items():
        low, high = max(start, begin), min(start + weight.numel(), begin + len(mine))
        if low < high:
            stretch = nn.Parameter(mine[low - begin : high - begin])
            pieces.append(Piece(name, tuple(weight.shape), low - start, stretch, is_first=True))
        start += prod(weight.shape)
    return pieces
