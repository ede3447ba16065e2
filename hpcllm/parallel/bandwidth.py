"""How fast the ranks talk: all-reduce over all of them, and messages between pairs of nodes. Seconds, not minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from mpi4py import MPI

from hpcllm.parallel.checks import Link

ALL_REDUCE_BYTES = (8, 2**16, 2**22)
LINK_BYTES = 4 * 2**20
LINK_TRIES = 2
MAX_PARTNERS = 8  # of one node, so that a thousand nodes take no longer than nine
REPEAT_S = 0.2
PINGS = 5
ROUND_TRIPS = 200


@dataclass(frozen=True)
class AllReduce:
    """One size of message over all ranks."""

    bytes: int
    seconds: float
    """Of one call, on the slowest rank."""

    def bus_bytes_per_s(self, ranks: int) -> float:
        """What each rank's link carries: a ring sends every byte 2(n−1)/n times."""
        return 2 * (ranks - 1) / ranks * self.bytes / self.seconds


def measure_all_reduce(comm: MPI.Comm, sizes: Sequence[int] = ALL_REDUCE_BYTES) -> tuple[list[AllReduce], list[int]]:
    """Times by size, and the ranks on which a sum was wrong."""
    times, right = [], True
    for num_bytes in sizes:
        mine = np.full(num_bytes // 8, comm.rank + 1.0)
        total = np.zeros_like(mine)
        once = _timed(comm, mine, total, 1)
        right = right and bool((total == comm.size * (comm.size + 1) / 2).all())
        calls = max(1, min(50, int(REPEAT_S / once)))
        times.append(AllReduce(num_bytes, _timed(comm, mine, total, calls)))
    return times, [rank for rank, well in enumerate(comm.allgather(right)) if not well]


def _timed(comm: MPI.Comm, mine: np.ndarray, total: np.ndarray, calls: int) -> float:
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(calls):
        comm.Allreduce(mine, total)
    return float(comm.allreduce((time.perf_counter() - start) / calls, MPI.MAX))


def measure_links(leaders: MPI.Comm) -> list[Link]:
    """Rates between the leaders of the nodes, in rounds in which every node talks to one partner."""
    mine = []
    for pairs in rounds(leaders.size, MAX_PARTNERS):
        for pair in pairs:
            if leaders.rank in pair:
                partner = pair[1] if leaders.rank == pair[0] else pair[0]
                mine.append(Link(pair, LINK_BYTES / _exchange_s(leaders, partner)))
    slower: dict[tuple[int, int], float] = {}
    for link in (link for links in leaders.allgather(mine) for link in links):
        slower[link.nodes] = min(link.bytes_per_s, slower.get(link.nodes, link.bytes_per_s))
    return [Link(nodes, rate) for nodes, rate in sorted(slower.items())]


def _exchange_s(comm: MPI.Comm, partner: int) -> float:
    """Best time of a message each way. The first, a small one, waits for the partner and makes the connection."""
    sent, received = np.zeros(LINK_BYTES, np.uint8), np.empty(LINK_BYTES, np.uint8)
    comm.Sendrecv(sent[: 2**16], partner, recvbuf=received[: 2**16], source=partner)
    times = []
    for _ in range(LINK_TRIES):
        start = time.perf_counter()
        comm.Sendrecv(sent, partner, recvbuf=received, source=partner)
        times.append(time.perf_counter() - start)
    return min(times)


def wait_quietly(comm: MPI.Comm) -> None:
    """A barrier that leaves the cores to those that still measure; MPI's own would keep them busy."""
    everybody = comm.Ibarrier()
    while not everybody.Test():
        time.sleep(0.002)


def rounds(players: int, most: int) -> Iterator[list[tuple[int, int]]]:
    """A tournament: in each round everybody meets one other, after players − 1 rounds everybody has met all.

    The circle method: number 0 stays, the others turn by one place. With an odd number one rests in each round.
    """
    ring = list(range(players + players % 2))
    for _ in range(min(most, len(ring) - 1)):
        across = zip(ring[: len(ring) // 2], reversed(ring), strict=False)
        yield [(min(pair), max(pair)) for pair in across if max(pair) < players]
        ring = [ring[0], ring[-1], *ring[1:-1]]


def measure_latency(leaders: MPI.Comm) -> float | None:
    """Seconds of a small message one way: half of a round trip, the median over node 0's partners. None: one node."""
    word, halves = np.zeros(1), []
    for node in range(1, min(leaders.size, MAX_PARTNERS + 1)):
        if leaders.rank == 0:
            halves.append(min(_round_trip_s(leaders, word, node) for _ in range(ROUND_TRIPS)) / 2)
        elif leaders.rank == node:
            for _ in range(ROUND_TRIPS):
                leaders.Recv(word, 0)
                leaders.Send(word, 0)
    found: float | None = leaders.bcast(median(halves) if halves else None)
    return found


def _round_trip_s(leaders: MPI.Comm, word: np.ndarray, node: int) -> float:
    start = time.perf_counter()
    leaders.Send(word, node)
    leaders.Recv(word, node)
    return time.perf_counter() - start


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
