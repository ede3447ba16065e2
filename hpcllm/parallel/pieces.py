"""Which part of each tensor of the model a rank holds, and how the parts come together.

However a model is spread, a rank's part of a tensor is a stretch of its elements in row-major order: all of it (DDP), a
block of its rows (FSDP, HSDP), or what a cut through all weights laid end to end leaves of it (ZeRO-1). So checkpoints
are whole tensors by name, and any strategy at any number of ranks goes on from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from hpcllm.parallel.world import World


@dataclass(frozen=True)
class Piece:
    """A stretch of one weight."""

    name: str
    """Of the weight in the model."""
    shape: tuple[int, ...]
    """Of the whole weight."""
    start: int
    """The first element of the stretch."""
    parameter: nn.Parameter
    """What an optimizer updates; under FSDP a DTensor."""
    is_first: bool
    """Of several ranks that hold the same stretch, this is the one that saves it."""

    def of(self, whole: Tensor) -> Tensor:
        """The same stretch of another tensor of the whole weight's shape, in one row."""
        return whole.reshape(-1)[self.start : self.start + local(self.parameter).numel()]


def pieces_of(model: nn.Module, world: World) -> list[Piece]:
    """What this rank holds of the model's weights."""
    return [_piece(name, parameter, world) for name, parameter in model.named_parameters()]


def local(tensor: Tensor) -> Tensor:
    """This rank's elements in one row, in their own memory."""
    mine: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return mine.detach().view(-1)


def _piece(name: str, parameter: nn.Parameter, world: World) -> Piece:
    shape = tuple(parameter.shape)
    if not isinstance(parameter, DTensor):
        return Piece(name, shape, 0, parameter, world.rank == 0)
    mesh = parameter.device_mesh
    _, first_row_and_column = compute_local_shape_and_global_offset(parameter.shape, mesh, parameter.placements)
    start = first_row_and_column[0] * prod(shape[1:])  # FSDP cuts the first dimension alone
    return Piece(name, shape, start, parameter, mesh.ndim == 1 or mesh.get_local_rank("replicate") == 0)


@dataclass(frozen=True)
class Part:
    """A stretch of a tensor that is to be saved."""

    name: str
    shape: tuple[int, ...]
    start: int
    elements: Tensor
    """In one row."""


def weight_parts(pieces: Iterable[Piece]) -> Iterator[Part]:
    """Of the weights: what this rank saves."""
    for piece in pieces:
        if piece.is_first:
            yield Part(piece.name, piece.shape, piece.start, local(piece.parameter))


def optimizer_parts(pieces: Iterable[Piece], state: Mapping[Tensor, Mapping[str, Tensor]]) -> Iterator[Part]:
    """Of the optimizer's state, `<weight>/exp_avg` and so on: what this rank saves."""
    for piece in pieces:
        for key, tensor in state[piece.parameter].items() if piece.is_first else ():
            is_count = tensor.dim() == 0  # of steps: one number a weight, the same on every rank
            shape, start = ((), 0) if is_count else (piece.shape, piece.start)
            yield Part(f"{piece.name}/{key}", shape, start, local(tensor))


def joined(parts: Iterable[Part], names: Iterable[str], world: World) -> dict[str, Tensor]:
    """The whole tensors of these names, on the CPU of rank 0; nothing on the others. All ranks call it.

    They come together one after another, so that no rank but the first holds more than one.
    """
    mine = {part.name: part for part in parts}
    whole = {name: _joined(mine.get(name), world) for name in names}
    return whole if world.rank == 0 else {}


def _joined(part: Part | None, world: World) -> Tensor:
    sent = None if part is None else (part.shape, part.start, part.elements.cpu().numpy())
    received = [sent] if world.comm is None else world.comm.gather(sent)
    found: list[tuple[tuple[int, ...], int, NDArray[np.float32]]] = [part for part in received or [] if part]
    if not found:
        return torch.empty(0)
    shape, _, elements = found[0]
    if elements.size < prod(shape):
        elements = np.empty(prod(shape), elements.dtype)
        for _, start, stretch in found:
            elements[start : start + stretch.size] = stretch
    return torch.from_numpy(elements.reshape(shape))
