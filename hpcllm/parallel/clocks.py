"""How far the clocks of the nodes are apart."""

from __future__ import annotations

import time

from mpi4py import MPI

PINGS = 5


def clock_offsets(leaders: MPI.Comm) -> list[float]:
    """Seconds that each node's clock is ahead of node 0's, by the quickest of a few pings (NTP's formula)."""
    if leaders.rank:
        for _ in range(PINGS):
            leaders.recv(source=0)
            leaders.send(time.time(), 0)
    offsets = [0.0, *(_offset(leaders, node) for node in range(1, leaders.size))] if leaders.rank == 0 else []
    everybody: list[float] = leaders.bcast(offsets)
    return everybody


def _offset(leaders: MPI.Comm, node: int) -> float:
    pings: list[tuple[float, float]] = []
    for _ in range(PINGS):
        start = time.time()
        leaders.send(None, node)
        theirs = leaders.recv(source=node)
        end = time.time()
        pings.append((end - start, theirs - (start + end) / 2))
    return min(pings)[1]
