"""A trainer of somebody's own on the mpi4py backend, which trains for ever, until one of its ranks is lost.

    mpirun -n 2 python mpi_trainer.py FOLDER [VICTIM]        or srun --mpi=…

Each rank writes its node to FOLDER/RANK when it trains; then the rank VICTIM is killed, as by the kernel.
"""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch.nn.parallel import DistributedDataParallel

import hpcllm.parallel.mpi_backend  # noqa: F401  # registers it

world = MPI.COMM_WORLD
dist.init_process_group("mpi4py", store=dist.HashStore(), rank=world.rank, world_size=world.size)
model = DistributedDataParallel(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(100_000):
    loss = model(torch.randn(8, 64)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 5:
        Path(sys.argv[1], str(world.rank)).write_text(os.uname().nodename)
        if sys.argv[2:] == [str(world.rank)]:
            os.kill(os.getpid(), signal.SIGKILL)
