"""How many times as fast, from pairs of times taken next to each other: the median ratio and its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

CONFIDENCE = 0.95


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
