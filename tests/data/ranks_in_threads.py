"""Ranks without MPI: threads that meet at a barrier, for tests of what every rank must agree on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hpcllm.parallel.world import World


class _Comm:
    """The collectives of mpi4py that World uses."""

    def __init__(self, rank: int, meeting: threading.Barrier, table: list[Any]) -> None:
        self._rank, self._meeting, self._table = rank, meeting, table

    def Barrier(self) -> None:  # noqa: N802
        self._meeting.wait(timeout=60)

    def allgather(self, value: Any) -> list[Any]:
        self._table[self._rank] = value
        self.Barrier()
        everything = list(self._table)
        self.Barrier()
        return everything

    def bcast(self, value: Any, root: int) -> Any:
        return self.allgather(value)[root]


def on_ranks(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What `work(world)` returns on each of so many ranks at once."""
    meeting, table = threading.Barrier(size), [None] * size
    worlds = [World(r, size, r, size, 0, 1, ("here",), _Comm(r, meeting, table)) for r in range(size)]  # type: ignore[arg-type]
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(work, worlds))
