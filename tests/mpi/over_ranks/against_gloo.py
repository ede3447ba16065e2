"""A call asked of the mpi4py backend, and what must be said of its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from collective_calls import (
    Asked,
    Call,
    Case,
    gloo_can,
    neighbours_untouched,
    rounding,
    same_bits,
    to_the_bit,
)
from torch import Tensor
from torch.distributed import ProcessGroup

from hpcllm.parallel.strategy import init_torch
from hpcllm.parallel.world import World


@contextmanager
def both_backends(world: World) -> Iterator[tuple[ProcessGroup, ProcessGroup]]:
    """All ranks in a default group of the mpi4py backend, and in one of gloo. A single rank has them too."""
    init_torch(world)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD, dist.new_group(backend="gloo")
    dist.destroy_process_group()


def assert_agrees(call: Call, ours: ProcessGroup, gloo: ProcessGroup) -> None:
    """The call gives what one process computes, to the bit, and what gloo gives, within rounding.

    Both have been asked before anything is asserted, so that no rank waits for one that failed.
    """
    asked = Case.of(call, ours.rank(), ours.size()).ask(ours)
    asked.wait()
    theirs = ask_gloo(asked.case, gloo)
    assert (asked.work is not None) == call.is_async
    assert_as_computed(asked)
    assert_near(asked, theirs, ours.size())


def ask_gloo(case: Case, gloo: ProcessGroup) -> list[Tensor] | None:
    """What gloo gives for the same values in contiguous tensors. None: it cannot do this."""
    if not gloo_can(case.call, gloo.size()):
        return None
    asked = case.ask(gloo, layout="contiguous")
    asked.wait()
    return asked.outputs


def assert_as_computed(asked: Asked) -> None:
    """What came out is what one process computes; what went in, and what lies around, is as it was."""
    call, case = asked.case.call, asked.case
    for output, want in zip(asked.outputs, case.wanted, strict=bool(case.wanted)):
        if to_the_bit(call):
            assert same_bits(output, want), f"{call}: found {output}, expected {want}"
        else:
            assert_close(output, want, call, rounding(call, 2))
    assert all(neighbours_untouched(tensor) for tensor in asked.outputs), f"{call} wrote beside its output"
    if not call.collective.in_place:
        assert all(map(same_bits, asked.inputs, case.given)), f"{call} changed its input"


def assert_near(asked: Asked, theirs: list[Tensor] | None, size: int) -> None:
    """What came out is what gloo gave: the same bits, but for the order in which floats are added."""
    call, tolerance = asked.case.call, rounding(asked.case.call, size)
    for output, reference, _ in zip(asked.outputs, theirs or [], asked.case.wanted, strict=False):
        if tolerance:
            assert_close(output, reference, call, tolerance)
        else:
            assert same_bits(output, reference), f"{call}: found {output}, gloo gives {reference}"


def assert_close(found: Tensor, wanted: Tensor, call: Call, tolerance: float) -> None:
    torch.testing.assert_close(
        found, wanted, rtol=tolerance, atol=8 * tolerance, msg=lambda text: f"{call}: {text}", equal_nan=True
    )
