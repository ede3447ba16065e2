"""What a program may hand to a collective, and what torch's options say."""

# mypy: allow-untyped-calls

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ReduceOp

from hpcllm.parallel.mpi.buffers import BITWISE, REDUCTIONS


def operation(opts: Any, tensors: list[Tensor]) -> tuple[Any, Any]:
    """The reduction that torch's options name, and what each rank multiplies its tensor by before (None: nothing).

    Raises ValueError for a reduction that cannot be done.
    """
    op, factor = (ReduceOp.SUM if opts is None else opts.reduceOp.op), None
    if op == ReduceOp.PREMUL_SUM:
        op, factor = ReduceOp.SUM, opts.reduceOp.__getstate__()[1]
        _floating("a pre-multiplied sum", tensors)
    if op not in REDUCTIONS:
        raise ValueError(f"mpi4py backend: found {op}; it reduces by {', '.join(known.name for known in REDUCTIONS)}")
    if op == ReduceOp.AVG:
        _floating("AVG", tensors)
    if op in BITWISE and any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise ValueError(f"mpi4py backend: {op.name} of {tensors[0].dtype}; it is for integers and bool")
    return op, factor


def _floating(what: str, tensors: list[Tensor]) -> None:
    if not all(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise ValueError(f"mpi4py backend: {what} of {tensors[0].dtype}; reduce by SUM and divide")


def timeout_s(opts: Any, usual: timedelta) -> float:
    """What the call allows, or the group; torch's options hold a negative time where nothing was said."""
    own = None if opts is None else opts.timeout
    return (usual if own is None or own <= timedelta(0) else own).total_seconds()


def checked(tensors: list[Tensor], *, sparse: bool = False) -> list[Tensor]:
    """The tensors, if they can be moved. Raises ValueError."""
    layouts = (torch.strided, torch.sparse_coo) if sparse else (torch.strided,)
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.layout not in layouts:
            raise ValueError(
                f"mpi4py backend: found a {tensor.layout} tensor on {tensor.device}; it moves dense CPU tensors, and "
                "all-reduces sparse_coo ones (nccl moves those on a GPU)"
            )
    return tensors


def same(one: Tensor, other: Tensor, times: int | None = 1) -> None:
    """Raises ValueError unless `other` has the type of `one`, and `times` its size (None: any size)."""
    if one.dtype != other.dtype:
        raise ValueError(f"mpi4py backend: found tensors of {one.dtype} and {other.dtype} where one type belongs")
    if times is not None and other.numel() != one.numel() * times:
        wanted = one.numel() * times
        raise ValueError(f"mpi4py backend: found a tensor of {other.numel()} elements where {wanted} belong")
