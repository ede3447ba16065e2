"""One rank's pytest: it shares the ranks' world, and a failure of one ends them all."""

import sys
import traceback
from collections.abc import Iterator

import pytest

from hpcllm.parallel.strategy import torch_process_group
from hpcllm.parallel.world import World


@pytest.fixture(scope="session")
def world() -> World:
    return World.of_mpi()


@pytest.fixture(scope="module")
def group(world: World) -> Iterator[None]:
    """torch.distributed over all ranks, for a module."""
    with torch_process_group(world):
        yield


def pytest_exception_interact(call: pytest.CallInfo[None]) -> None:
    from mpi4py import MPI

    assert call.excinfo is not None
    text = "".join(traceback.format_exception(call.excinfo.value))
    print(f"rank {MPI.COMM_WORLD.rank}:\n{text}", file=sys.__stderr__, flush=True)
    MPI.COMM_WORLD.Abort(1)
