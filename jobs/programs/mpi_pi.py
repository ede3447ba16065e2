"""Pi by the midpoint rule: each rank sums its share of the intervals, and rank 0 hears the total."""

import math

from mpi4py import MPI

INTERVALS = 1_000_000

world = MPI.COMM_WORLD
width = 1.0 / INTERVALS
middles = (width * (i + 0.5) for i in range(world.rank, INTERVALS, world.size))
share = width * sum(4.0 / (1.0 + x * x) for x in middles)
total = world.reduce(share)
hosts = world.gather(MPI.Get_processor_name())
if world.rank == 0:
    print(f"pi {total:.12f} (error {abs(total - math.pi):.1e}) by {world.size} ranks on {len(set(hosts))} nodes")
