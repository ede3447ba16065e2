"""The ranks as MPI has them: who am I, on which node, and how do I reach the others."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """All ranks of a stage, seen from one of them."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    """Number of this rank's node, by the order of the lowest rank on each."""
    nodes: int
    hosts: tuple[str, ...]
    """Host name of each node."""
    comm: MPI.Comm | None
    """None: one process without MPI."""

    @classmethod
    def alone(cls) -> World:
        """One process, without MPI."""
        return cls(0, 1, 0, 1, 0, 1, (socket.gethostname(),), None)

    @classmethod
    def of_mpi(cls) -> World:
        """Every rank that MPI started. Ranks of one node are those that can share memory, not those of equal names."""
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        shared = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
        leader = shared.bcast(comm.rank)
        places = comm.allgather((leader, socket.gethostname()))
        leaders = sorted({place[0] for place in places})
        hosts = tuple(places[rank][1] for rank in leaders)
        return cls(comm.rank, comm.size, shared.rank, shared.size, leaders.index(leader), len(leaders), hosts, comm)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.comm is not None:
            self.comm.Barrier()

    def broadcast(self, value: T, root: int = 0) -> T:
        """The root's value, on every rank (pickled by MPI between our own processes)."""
        return value if self.comm is None else self.comm.bcast(value, root)

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank."""
        return [value] if self.comm is None else self.comm.allgather(value)

    def all_reduce_sum(self, value: Any) -> Any:
        """The sum of a number (or numpy array) over all ranks, on every rank."""
        return value if self.comm is None else self.comm.allreduce(value)
