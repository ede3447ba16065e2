"""Tensors as MPI takes them, and how contributions of several ranks are reduced to one."""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor
from torch.distributed import ReduceOp

REDUCTIONS: dict[Any, Callable[..., Tensor]] = {
    ReduceOp.SUM: torch.add,
    ReduceOp.AVG: torch.add,
    ReduceOp.PRODUCT: torch.mul,
    ReduceOp.MIN: torch.minimum,
    ReduceOp.MAX: torch.maximum,
    ReduceOp.BAND: torch.bitwise_and,
    ReduceOp.BOR: torch.bitwise_or,
    ReduceOp.BXOR: torch.bitwise_xor,
}
BITWISE = (ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR)
ADDED_IN = {torch.float16: torch.float32, torch.bfloat16: torch.float32}

Spec = list[Any]  # what mpi4py calls a buffer specification: [memory, (counts, displacements), type]


@contextlib.contextmanager
def flat_view(tensor: Tensor) -> Iterator[Tensor]:
    """The elements in one row, to change in place: the tensor's own memory, or a copy that is copied back."""
    flat = tensor.contiguous().view(-1)
    yield flat
    if flat.data_ptr() != tensor.data_ptr():
        tensor.copy_(flat.view_as(tensor))


@contextlib.contextmanager
def flat_rows(tensors: list[Tensor], like: Tensor) -> Iterator[tuple[Tensor, list[int]]]:
    """One row to receive several tensors in, and their sizes; it is dealt out to them afterwards.

    Where they lie one behind the other already, it is their own memory.
    """
    counts = [tensor.numel() for tensor in tensors]
    row = _row(tensors)
    flat = like.new_empty(sum(counts)) if row is None else row
    yield flat, counts
    if row is None:
        for tensor, part in zip(tensors, flat.split(counts), strict=True):
            tensor.copy_(part.view_as(tensor))


def together(tensors: list[Tensor]) -> Tensor:
    """Several tensors in one row: their own memory, or a copy. There is at least one."""
    row = _row(tensors)
    return torch.cat([tensor.reshape(-1) for tensor in tensors]) if row is None else row


def apart(given: Tensor, taken: Tensor) -> Tensor:
    """What is sent, where it shares no memory with what is received: MPI does not allow that."""
    return given.clone() if given.untyped_storage().data_ptr() == taken.untyped_storage().data_ptr() else given


def _row(tensors: list[Tensor]) -> Tensor | None:
    """The memory of tensors that lie one behind the other in one storage; None where they do not."""
    first, numel = tensors[0], 0
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.data_ptr() != first.data_ptr() + numel * first.element_size():
            return None
        if tensor.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        numel += tensor.numel()
    return first.as_strided((numel,), (1,))


def spec(tensor: Tensor, counts: list[int] | None = None, starts: list[int] | None = None) -> Spec:
    """A contiguous tensor as MPI takes it, whole or cut into parts of `counts` elements. MPI sees bytes.

    The array keeps the tensor alive while MPI is at it; an address would not.
    """
    row = tensor.detach().as_strided((tensor.numel(),), (1,))  # one element may have any stride and be contiguous
    memory = row.view(torch.uint8).numpy()
    if counts is None:
        return [memory, MPI.BYTE]
    width = tensor.element_size()
    displacements = None if starts is None else [start * width for start in starts]
    return [memory, ([count * width for count in counts], displacements), MPI.BYTE]


def bounds(numel: int, parts: int) -> list[int]:
    """Where even parts begin, and where the last one ends."""
    return [numel * part // parts for part in range(parts + 1)]


def fold(op: Any, contributions: list[Tensor], out: Tensor, scratch: Tensor) -> None:
    """The contributions reduced from the first to the last. `out` may be one of them, for it is written last.

    `scratch` is the earliest contribution that another rank sent: nobody needs it once it is in the total.
    """
    wide = ADDED_IN.get(out.dtype)
    total = contributions[0] if wide is None else contributions[0].to(wide)
    for number, contribution in enumerate(contributions[1:], start=2):
        into = total if wide else out if number == len(contributions) else scratch
        total = REDUCTIONS[op](total, contribution, out=into)
    if op == ReduceOp.AVG:
        total = total.div_(len(contributions))
    if total is not out:
        out.copy_(total)
