"""Every collective that torch documents for CPU tensors, in every form, against one process and against gloo.

By hand:  mpirun -n 3 python -m pytest -p no:cacheprovider tests/mpi/over_ranks/ranks_conformance.py
"""

from __future__ import annotations

import functools

import pytest
import torch
from against_gloo import assert_agrees, both_backends
from collective_calls import COLLECTIVES, LAYOUTS, ONLY_MOVED, REDUCED, REDUCING, UNEVEN, Call, ops_of

MOVING = tuple(name for name in COLLECTIVES if name not in REDUCING)
SHAPES = [(), (0,), (1,), (0, 3), (5, 0), (63,), (2, 3, 5), (1025,)]
EVEN = tuple(name for name in COLLECTIVES if name not in UNEVEN)


@pytest.fixture(scope="module")
def agrees(world):
    """agrees(call): it gives what one process computes and what gloo gives."""
    with both_backends(world) as (ours, gloo):
        yield functools.partial(assert_agrees, ours=ours, gloo=gloo)


def by_name(value: object) -> str | None:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | tuple) else None


@pytest.mark.parametrize(
    ("name", "dtype", "op"),
    [(name, dtype, op) for name in REDUCING for dtype in REDUCED for op in ops_of(dtype)],
    ids=by_name,
)
def test_every_reduction_of_every_type(agrees, name, dtype, op):
    agrees(Call(name, dtype=dtype, op=op, root=1, seed=3))


@pytest.mark.parametrize("dtype", REDUCED + ONLY_MOVED, ids=by_name)
@pytest.mark.parametrize("name", MOVING)
def test_every_type_is_moved_as_it_is(agrees, name, dtype):
    agrees(Call(name, dtype=dtype, root=1, seed=4))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_tensors_that_are_not_contiguous_are_taken_and_their_neighbours_left_alone(agrees, name, layout):
    agrees(Call(name, shape=(6, 5), layout=layout, root=1, seed=5))


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_single_element_that_has_a_stride_is_taken(agrees, name):
    agrees(Call(name, shape=(1,), layout="holes", root=1, seed=5))


@pytest.mark.parametrize("shape", SHAPES, ids=by_name)
@pytest.mark.parametrize("name", EVEN)
def test_scalars_and_tensors_of_no_elements_are_taken(agrees, name, shape):
    agrees(Call(name, shape=shape, root=1, seed=6))


@pytest.mark.parametrize("name", COLLECTIVES)
def test_an_async_call_gives_a_work_to_wait_for(agrees, name):
    agrees(Call(name, shape=(129,), is_async=True, root=1, seed=7))


@pytest.mark.parametrize("root", [1, 2, 3])
@pytest.mark.parametrize("name", ["reduce", "broadcast", "gather", "scatter"])
def test_every_rank_may_be_the_root(agrees, name, root):
    agrees(Call(name, root=root, seed=8))


@pytest.mark.parametrize("numel", [1024, 16385, 262_147])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_sizes_up_to_a_megabyte_and_odd_ones(agrees, name, numel):
    agrees(Call(name, shape=(numel,), seed=9, root=1))
