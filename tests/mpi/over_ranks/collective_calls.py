"""Collectives as data: what is asked for, how torch.distributed is asked, and what one process says must come out.

A `Call` says everything: its seed makes what every rank puts in, so each rank computes what it must get. A `Case` is
the call on one rank, and can be asked of several backends. Tests and benchmarks/soak.py draw from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
COMPLEX = (torch.complex64, torch.complex128)
REDUCED = (*FLOATS, *INTEGERS, torch.bool, *COMPLEX)
ONLY_MOVED = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)  # torch cannot add them
GLOO_CANNOT = (torch.int16, *ONLY_MOVED)

BITWISE = ("BAND", "BOR", "BXOR")
PREMUL_SUM, FACTOR = "PREMUL_SUM", 0.375
COMBINE: dict[str, Callable[..., Tensor]] = {
    "SUM": torch.add,
    "AVG": torch.add,
    PREMUL_SUM: torch.add,
    "PRODUCT": torch.mul,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
    "BAND": torch.bitwise_and,
    "BOR": torch.bitwise_or,
    "BXOR": torch.bitwise_xor,
}
LAYOUTS = ("contiguous", "offset", "holes", "transposed")
AROUND = 77  # fills the memory around a tensor that is a part of a larger one


@dataclass(frozen=True)
class Call:
    """One collective, as every member of its group asks for it."""

    name: str
    shape: tuple[int, ...] = (37,)
    """Of what one rank has for another. Uneven collectives add rows to its first dimension."""
    dtype: torch.dtype = torch.float32
    op: str = "SUM"
    root: int = 0
    """Rank within the group, modulo its size."""
    layout: str = "contiguous"
    is_async: bool = False
    seed: int = 0

    @property
    def collective(self) -> Collective:
        return COLLECTIVES[self.name]


@dataclass(frozen=True)
class Collective:
    """What rank r of n gives and gets, and how torch is asked for it."""

    given: Callable[[Call, int, int], list[Tensor]]
    wanted: Callable[[Call, int, int], list[Tensor]]
    start: Callable[[Call, ProcessGroup, list[Tensor], list[Tensor]], dist.Work | None]
    in_place: bool = False
    reduces: bool = False
    in_gloo: bool = True


@dataclass(frozen=True)
class Case:
    """A call on one rank: what it gives, and what it must get by the arithmetic of one process."""

    call: Call
    given: list[Tensor]
    wanted: list[Tensor]

    @classmethod
    def of(cls, call: Call, rank: int, size: int) -> Case:
        return cls(call, call.collective.given(call, rank, size), call.collective.wanted(call, rank, size))

    def ask(self, group: ProcessGroup, layout: str | None = None) -> Asked:
        """Ask for it; a blocking call has ended when this returns."""
        layout = self.call.layout if layout is None else layout
        inputs = [laid_out(tensor, layout) for tensor in self.given]
        outputs = [laid_out(torch.zeros_like(tensor), layout) for tensor in self.wanted]
        if self.call.collective.in_place:
            outputs = inputs
        return Asked(self, inputs, outputs, self.call.collective.start(self.call, group, inputs, outputs))


@dataclass(frozen=True)
class Asked:
    """A call under way. `outputs` hold the result once `wait` has returned."""

    case: Case
    inputs: list[Tensor]
    outputs: list[Tensor]
    work: dist.Work | None

    def wait(self) -> None:
        if self.work is not None:
            self.work.wait()


def gloo_can(call: Call, size: int) -> bool:
    """Whether gloo of torch 2.13 does it. Scalars and tensors of no elements can crash its reduce_scatter_single."""
    if not call.collective.in_gloo or call.dtype in GLOO_CANNOT or call.op == PREMUL_SUM:
        return False
    if call.name == "ring" and size == 1:
        return False  # no message to oneself
    if call.dtype.is_complex and call.name in ("gather", "reduce_scatter"):
        return False
    if call.dtype == torch.bool and call.collective.reduces and call.op == "SUM":
        return False  # it adds the bytes: a bool of 2 comes out
    return call.shape != () and 0 not in call.shape


def to_the_bit(call: Call) -> bool:
    """Whether arithmetic in the order of the ranks leaves one result: who multiplies, or divides how, is not said."""
    return call.op != PREMUL_SUM and not (call.op == "AVG" and call.dtype.is_complex)


def ops_of(dtype: torch.dtype) -> tuple[str, ...]:
    """The reductions that torch defines for a type."""
    if dtype.is_complex:
        return ("SUM", "AVG", PREMUL_SUM)
    if dtype.is_floating_point:
        return ("SUM", "AVG", PREMUL_SUM, "PRODUCT", "MIN", "MAX")
    return ("SUM", "PRODUCT", "MIN", "MAX", *BITWISE)


# What goes in.


def part(call: Call, source: int, to: int = 0, rows: int = 0) -> Tensor:
    """What rank `source` has for rank `to`: small numbers, so that integers and products tell something."""
    shape = (call.shape[0] + rows, *call.shape[1:]) if call.shape else ()
    generator = torch.Generator().manual_seed(call.seed * 4096 + source * 64 + to)
    if call.dtype in ONLY_MOVED:
        numbers = torch.randint(0, 256, (*shape, call.dtype.itemsize), generator=generator, dtype=torch.uint8)
        return numbers.view(call.dtype).reshape(shape)
    if call.dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=call.dtype)
    if call.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(call.dtype)
    return torch.randint(0, 2 if call.dtype == torch.bool else 9, shape, generator=generator).to(call.dtype)


def laid_out(values: Tensor, layout: str) -> Tensor:
    """A copy of the values in memory of another layout, within a larger tensor where that has one."""
    if layout == "contiguous" or values.dim() == 0:
        return values.clone()
    if layout == "transposed":
        return values.movedim(0, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 0)
    if layout == "offset":
        around = _around(values, values.numel() + 5)
        inside = around[3 : 3 + values.numel()].view(values.shape)
    else:
        around = _around(values, *values.shape, 2)
        inside = around[..., 0]
    return inside.copy_(values)


def neighbours_untouched(tensor: Tensor) -> bool:
    """Whether the memory around a tensor that `laid_out` made is as it was."""
    if tensor._base is None or tensor.dtype in ONLY_MOVED:
        return True
    around = tensor._base.clone()
    around.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(AROUND)
    return bool((around == torch.tensor(AROUND).to(around.dtype)).all())


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal shape, type and bits: a NaN equals itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(as_bytes(one), as_bytes(other))


def as_bytes(tensor: Tensor) -> Tensor:
    """Its memory in one row. (A single element with a stride is contiguous for torch, and yet has no bytes.)"""
    return tensor.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)


def rounding(call: Call, size: int) -> float:
    """How far apart two orders of a reduction may be, where no sum or product of `size` numbers passes 4 * 2^size."""
    if not call.collective.reduces or not (call.dtype.is_floating_point or call.dtype.is_complex):
        return 0.0
    return 0.0 if call.op in ("MIN", "MAX") else size * torch.finfo(call.dtype).eps


def reduction(op: str) -> ReduceOp:
    return dist._make_nccl_premul_sum(FACTOR) if op == PREMUL_SUM else getattr(ReduceOp, op)


def reduced(call: Call, parts: list[Tensor]) -> Tensor:
    """The parts from the first to the last, by the call's operation."""
    wide = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in parts]
    if call.op == PREMUL_SUM:
        wide = [t * FACTOR for t in wide]
    total = functools.reduce(COMBINE[call.op], wide)
    return (total / len(parts) if call.op == "AVG" else total).to(call.dtype)


def _around(like: Tensor, *shape: int) -> Tensor:
    return torch.full(shape, AROUND).to(like.dtype)


# How torch is asked.


def _all_reduce(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.all_reduce(outputs[0], reduction(call.op), group, call.is_async)


def _reduce(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.reduce(outputs[0], None, reduction(call.op), group, call.is_async, group_dst=call.root % group.size())


def _broadcast(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.broadcast(outputs[0], None, group, call.is_async, group_src=call.root % group.size())


def _all_gather(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.all_gather(outputs, inputs[0], group, call.is_async)


def _all_gather_single(
    call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]
) -> dist.Work | None:
    return dist.all_gather_single(outputs[0], inputs[0], group, call.is_async)


def _gather(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.gather(inputs[0], outputs or None, None, group, call.is_async, group_dst=call.root % group.size())


def _scatter(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.scatter(outputs[0], inputs or None, None, group, call.is_async, group_src=call.root % group.size())


def _reduce_scatter(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.reduce_scatter(outputs[0], inputs, reduction(call.op), group, call.is_async)


def _reduce_scatter_single(
    call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]
) -> dist.Work | None:
    return dist.reduce_scatter_single(outputs[0], inputs[0], reduction(call.op), group, call.is_async)


def _all_to_all(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    return dist.all_to_all(outputs, inputs, group, call.is_async)


def _all_to_all_single(
    call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]
) -> dist.Work | None:
    return dist.all_to_all_single(outputs[0], inputs[0], group=group, async_op=call.is_async)


def _all_to_all_single_uneven(
    call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]
) -> dist.Work | None:
    rows = [call.shape[0] + group.rank() + to for to in range(group.size())]
    return dist.all_to_all_single(outputs[0], inputs[0], rows, rows, group, call.is_async)


def _ring(call: Call, group: ProcessGroup, inputs: list[Tensor], outputs: list[Tensor]) -> dist.Work | None:
    """Each sends to the next and receives from the one before, in one batch."""
    right, left, tag = (group.rank() + 1) % group.size(), (group.rank() - 1) % group.size(), call.seed % 1000
    receive = dist.P2POp(dist.irecv, outputs[0], group=group, tag=tag, group_peer=left)
    send = dist.P2POp(dist.isend, inputs[0], group=group, tag=tag, group_peer=right)
    works = _All(dist.batch_isend_irecv([send, receive] if call.seed % 2 else [receive, send]))
    return works if call.is_async else works.wait()


class _All:
    """Several works to wait for as one."""

    def __init__(self, works: list[dist.Work]) -> None:
        self._works = works

    def wait(self) -> None:
        for work in self._works:
            work.wait()


# What rank r of n gives, and what it must get. Uneven: rank r has r more rows, in all_to_all r+t more for rank t.


def _mine(call: Call, r: int, n: int) -> list[Tensor]:
    return [part(call, r)]


def _for_each(call: Call, r: int, n: int) -> list[Tensor]:
    return [part(call, r, to) for to in range(n)]


def _from_each(call: Call, r: int, n: int) -> list[Tensor]:
    return [part(call, source, r) for source in range(n)]


def _all(call: Call, r: int, n: int) -> list[Tensor]:
    return [part(call, source) for source in range(n)]


def _total(call: Call, r: int, n: int) -> list[Tensor]:
    return [reduced(call, _all(call, r, n))]


def _my_total(call: Call, r: int, n: int) -> list[Tensor]:
    return [reduced(call, _from_each(call, r, n))]


def _on_root(give: Callable[[Call, int, int], list[Tensor]]) -> Callable[[Call, int, int], list[Tensor]]:
    return lambda call, r, n: give(call, r, n) if r == call.root % n else []


def _as_one(
    combine: Callable[[list[Tensor]], Tensor], give: Callable[[Call, int, int], list[Tensor]]
) -> Callable[[Call, int, int], list[Tensor]]:
    return lambda call, r, n: [combine(give(call, r, n))]


def _cat(tensors: list[Tensor]) -> Tensor:
    """One after the other along the first dimension; scalars have none, and make one."""
    return torch.cat([tensor.view(1) if tensor.dim() == 0 else tensor for tensor in tensors])


def _uneven_for_each(call: Call, r: int, n: int) -> list[Tensor]:
    return [part(call, r, to, rows=r + to) for to in range(n)]


def _uneven_from_each(call: Call, r: int, n: int) -> list[Tensor]:
    return [part(call, source, r, rows=source + r) for source in range(n)]


COLLECTIVES: dict[str, Collective] = {
    "all_reduce": Collective(_mine, _total, _all_reduce, in_place=True, reduces=True),
    "reduce": Collective(_mine, _on_root(_total), _reduce, in_place=True, reduces=True),
    "broadcast": Collective(_mine, lambda call, r, n: [part(call, call.root % n)], _broadcast, in_place=True),
    "all_gather": Collective(_mine, _all, _all_gather),
    "all_gather_uneven": Collective(
        lambda call, r, n: [part(call, r, rows=r)],
        lambda call, r, n: [part(call, source, rows=source) for source in range(n)],
        _all_gather,
        in_gloo=False,
    ),
    "all_gather_single": Collective(_mine, _as_one(_cat, _all), _all_gather_single),
    "all_gather_single_stacked": Collective(_mine, _as_one(torch.stack, _all), _all_gather_single, in_gloo=False),
    "gather": Collective(_mine, _on_root(_all), _gather),
    "scatter": Collective(_on_root(_for_each), lambda call, r, n: [part(call, call.root % n, r)], _scatter),
    "reduce_scatter": Collective(_for_each, _my_total, _reduce_scatter, reduces=True),
    "reduce_scatter_uneven": Collective(
        lambda call, r, n: [part(call, r, to, rows=to) for to in range(n)],
        lambda call, r, n: [reduced(call, [part(call, source, r, rows=r) for source in range(n)])],
        _reduce_scatter,
        reduces=True,
        in_gloo=False,
    ),
    "reduce_scatter_single": Collective(_as_one(_cat, _for_each), _my_total, _reduce_scatter_single, reduces=True),
    "reduce_scatter_single_stacked": Collective(
        _as_one(torch.stack, _for_each), _my_total, _reduce_scatter_single, reduces=True, in_gloo=False
    ),
    "all_to_all": Collective(_for_each, _from_each, _all_to_all),
    "all_to_all_uneven": Collective(_uneven_for_each, _uneven_from_each, _all_to_all, in_gloo=False),
    "all_to_all_single": Collective(_as_one(_cat, _for_each), _as_one(_cat, _from_each), _all_to_all_single),
    "all_to_all_single_uneven": Collective(
        _as_one(torch.cat, _uneven_for_each), _as_one(torch.cat, _uneven_from_each), _all_to_all_single_uneven
    ),
    "ring": Collective(_mine, lambda call, r, n: [part(call, (r - 1) % n)], _ring),
}
UNEVEN = tuple(name for name in COLLECTIVES if name.endswith("_uneven"))
REDUCING = tuple(name for name, collective in COLLECTIVES.items() if collective.reduces)
