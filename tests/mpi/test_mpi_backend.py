"""The mpi4py backend on real ranks. What holds on the ranks stands in over_ranks/."""

import pytest

pytestmark = pytest.mark.mpi

ONE_RANK_FAILS = """
import torch, torch.distributed as dist
from hpcllm.parallel.strategy import init_torch
from hpcllm.parallel.world import World
from hpcllm.parallel import mpi_backend
mpi_backend.GRACE_S = 0.2
world = World.of_mpi()
init_torch(world)
if world.rank == 1:
    raise ValueError("only rank 1 fails")
dist.all_reduce(torch.ones(1))
"""

WITHOUT_THREADS = """
import mpi4py
mpi4py.rc.thread_level = "serialized"
from hpcllm.parallel.strategy import init_torch
from hpcllm.parallel.world import World
init_torch(World.of_mpi())
"""

WITHOUT_MPI = """
import torch.distributed as dist, hpcllm.parallel.mpi_backend
dist.init_process_group("mpi4py", store=dist.HashStore(), rank=1, world_size=2)
"""


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_collectives_and_training_agree_with_one_process(passes_on, ranks):
    training = ["ranks_data_parallel.py"] if ranks in (2, 4) else []
    nodes = ["ranks_across_nodes.py"] if ranks > 2 else []

    passes_on(ranks, "ranks_world.py", "ranks_collectives.py", *training, *nodes)


def test_one_failing_rank_ends_those_that_wait_for_it(mpirun):
    ended = mpirun(2, "-c", ONE_RANK_FAILS, timeout_s=60)

    assert ended.returncode != 0
    assert "only rank 1 fails" in ended.stderr
    assert "rank 1 failed and others wait for it: ending all" in ended.stderr


def test_an_mpi_without_threads_is_refused(mpirun):
    ended = mpirun(1, "-c", WITHOUT_THREADS)

    assert ended.returncode != 0
    assert "started without MPI_THREAD_MULTIPLE" in ended.stderr


def test_ranks_that_mpi_does_not_know_are_refused(mpirun):
    ended = mpirun(1, "-c", WITHOUT_MPI)

    assert "torch calls this rank 1 of 2, MPI calls it 0 of 1; start the ranks by mpirun or srun" in ended.stderr
