"""Calls that take turns on all ranks, and how many times as fast one is: the median ratio and its 95 % interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Any

CONFIDENCE = 0.95
FEWEST, MOST = 11, 400  # turns

Call = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """Of times, theirs over ours: above 1 ours is faster."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio_of(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """The median over the pairs. Raises ValueError for fewer than six, which no interval of 95 % can be had from."""
    ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
    skip = _outside(len(ratios))
    return Ratio(median(ratios), ratios[skip], ratios[-1 - skip])


def _outside(count: int) -> int:
    """How many of the sorted values lie below the interval, and as many above.

    The median lies between the k-th smallest and the k-th largest with probability 1 − 2·P(Binomial(n, ½) < k),
    whatever the distribution (Conover, Practical Nonparametric Statistics, §3.2); the largest such k is taken.
    """
    tail, skip = 0.0, 0
    for k in range(count // 2 + 1):
        tail += comb(count, k) / 2**count
        if 2 * tail > 1 - CONFIDENCE:
            break
        skip = k + 1
    if not skip:
        raise ValueError(f"found {count} pairs; a 95 % interval of the median needs at least 6")
    return skip - 1


def take_turns(calls: Mapping[str, Call], repeats: int, world: Any, for_s: float) -> dict[str, list[float]]:
    """Seconds of each call, of the slowest rank, turn by turn, on all ranks of a `World`, for about `for_s` in all.

    A turn is every call `repeats` times in a row, and begins with another of them than the turn before.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for name in names:
        _timed_s(calls[name], 1, world)  # makes connections, touches memory
    turn_s = min(sum(_timed_s(calls[name], repeats, world) * repeats for name in names) for _ in range(2))
    for turn in range(world.broadcast(max(FEWEST, min(MOST, int(for_s / turn_s))))):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            times[name].append(_timed_s(calls[name], repeats, world))
    return {name: [max(of_ranks) for of_ranks in zip(*world.all_gather(times[name]), strict=True)] for name in names}


def _timed_s(call: Call, repeats: int, world: Any) -> float:
    world.barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
