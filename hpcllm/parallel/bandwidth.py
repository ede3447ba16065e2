"""How fast the ranks talk: all-reduce over all of them, and messages between pairs of nodes. Seconds, not minutes."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from mpi4py import MPI

from hpcllm.parallel.links import Link
from hpcllm.parallel.traffic import carrier, sent_bytes

ALL_REDUCE_BYTES = (8, 2**10, 2**16, 2**20, 2**22, 2**24)
LINK_BYTES = 4 * 2**20
LINK_TRIES = 2
MAX_PARTNERS = 8  # of one node, so that a thousand nodes take no longer than nine
REPEAT_S = 0.1
LINK_PINGS = 10
LINKS_S, MIN_ROUNDS = 3.0, 3  # of rounds as many as fit, but enough to tell a node from its partners
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


def measure_all_reduce(
    comm: MPI.Comm, sizes: Sequence[int] = ALL_REDUCE_BYTES, within_s: float = math.inf
) -> tuple[list[AllReduce], list[int]]:
    """Times by size, as far as they fit into that time, and the ranks on which a sum was wrong."""
    times: list[AllReduce] = []
    right, spent_s = True, 0.0
    for num_bytes in sizes:
        if times and spent_s + 2 * times[-1].seconds * num_bytes / times[-1].bytes > within_s:
            break  # all ranks together, since times are the slowest one's
        mine = np.full(num_bytes // 8, comm.rank + 1.0)
        total = np.zeros_like(mine)
        once = _timed(comm, mine, total, 1)
        right = right and bool((total == comm.size * (comm.size + 1) / 2).all())
        calls = max(1, min(50, int(REPEAT_S / once)))
        times.append(AllReduce(num_bytes, _timed(comm, mine, total, calls)))
        spent_s += once + calls * times[-1].seconds
    return times, [rank for rank, well in enumerate(comm.allgather(right)) if not well]


def _timed(comm: MPI.Comm, mine: np.ndarray, total: np.ndarray, calls: int) -> float:
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(calls):
        comm.Allreduce(mine, total)
    return float(comm.allreduce((time.perf_counter() - start) / calls, MPI.MAX))


def measure_links(leaders: MPI.Comm) -> tuple[list[Link], list[str]]:
    """Rates between the leaders of the nodes, in rounds in which every node talks to one partner.

    And the IP interface of each node that carried it, where one did: then MPI goes over TCP.
    """
    mine, before, start = [], sent_bytes(), time.perf_counter()
    for number, pairs in enumerate(rounds(leaders.size, MAX_PARTNERS)):
        if number >= MIN_ROUNDS and leaders.allreduce(time.perf_counter() - start, MPI.MAX) > LINKS_S:
            break
        for pair in pairs:
            if leaders.rank in pair:
                partner = pair[1] if leaders.rank == pair[0] else pair[0]
                mine.append(_measure_link(leaders, pair, partner))
    carried = carrier(before, sent_bytes(), len(mine) * LINK_TRIES * LINK_BYTES)
    everybody = leaders.allgather((mine, carried))
    of_pair: dict[tuple[int, int], list[Link]] = defaultdict(list)
    for link in (link for links, _ in everybody for link in links):
        of_pair[link.nodes].append(link)
    return [_as_both_say(of_pair[pair]) for pair in sorted(of_pair)], [name for _, name in everybody]


def _as_both_say(links: Sequence[Link]) -> Link:
    """One link by what its two ends found: the lower rate, and the latency that one of them measured."""
    latency = next((link.latency_s for link in links if link.latency_s is not None), None)
    return Link(links[0].nodes, min(link.bytes_per_s for link in links), latency)


def _measure_link(comm: MPI.Comm, pair: tuple[int, int], partner: int) -> Link:
    rate = LINK_BYTES / _exchange_s(comm, partner)
    return Link(pair, rate, _latency_s(comm, partner, first=comm.rank == pair[0]))


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


def _latency_s(comm: MPI.Comm, partner: int, first: bool) -> float | None:
    """Half of the quickest round trip of a small message; the one that answers knows nothing."""
    word = np.zeros(1)
    if first:
        return min(_round_trip_s(comm, word, partner) for _ in range(LINK_PINGS)) / 2
    _answer(comm, word, partner, LINK_PINGS)
    return None


def measure_inside(inside: MPI.Comm) -> float | None:
    """Bytes a second each way between the first two ranks of a node, on both of them; None where there are no two."""
    return LINK_BYTES / _exchange_s(inside, 1 - inside.rank) if inside.rank < 2 <= inside.size else None


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
            _answer(leaders, word, 0, ROUND_TRIPS)
    found: float | None = leaders.bcast(median(halves) if halves else None)
    return found


def _round_trip_s(leaders: MPI.Comm, word: np.ndarray, node: int) -> float:
    start = time.perf_counter()
    leaders.Send(word, node)
    leaders.Recv(word, node)
    return time.perf_counter() - start


def _answer(comm: MPI.Comm, word: np.ndarray, partner: int, times: int) -> None:
    for _ in range(times):
        comm.Recv(word, partner)
        comm.Send(word, partner)
