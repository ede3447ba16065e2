"""The ranks as MPI has them: who am I, on which node, and how do I reach the others.

Three communicators are enough for everything that goes by nodes: all ranks (`comm`), those of this node (`inside`),
and those that have this local rank on every node (`across`; of local rank 0 they are the `leaders`).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """All ranks of a stage, or of a group of them, seen from one."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    """Number of this rank's node, by the order of the lowest rank on each."""
    nodes: int
    hosts: tuple[str, ...]
    """Host name of each node."""
    comm: MPI.Intracomm | None
    """None: one process without MPI."""
    inside: MPI.Intracomm | None = None
    """The ranks of this node, by local rank."""
    across: MPI.Intracomm | None = None
    """The ranks with this local rank, one of each node that has so many, by node."""

    @classmethod
    def alone(cls) -> World:
        """One process, without MPI."""
        return cls(0, 1, 0, 1, 0, 1, (socket.gethostname(),), None)

    @classmethod
    def of_mpi(cls) -> World:
        """Every rank that MPI started. All ranks make it together, once; whoever asks again is given the same."""
        return _of_mpi()

    @classmethod
    def of(cls, comm: MPI.Intracomm) -> World:
        """The ranks of a communicator, which all of them call. `free` gives back what it made.

        Ranks of one node are those that can share memory, not those of equal names. Three collectives: that split, the
        names of the nodes, and the communicator across them.
        """
        from mpi4py import MPI

        inside = ranks_of_node(comm)
        (leader,) = MPI.Group.Translate_ranks(inside.group, [0], comm.group)
        places = comm.allgather((leader, socket.gethostname()))
        leaders = sorted({place[0] for place in places})
        hosts = tuple(places[rank][1] for rank in leaders)
        across = MPI.Intracomm(comm.Split(inside.rank, comm.rank))
        local = (inside.rank, inside.size, leaders.index(leader), len(leaders))
        return cls(comm.rank, comm.size, *local, hosts, comm, inside, across)

    @property
    def leaders(self) -> MPI.Intracomm | None:
        """One rank of each node, the lowest; None on every other rank."""
        return self.across if self.local_rank == 0 else None

    def free(self) -> None:
        """Give back the communicators that `of` made; all ranks call it."""
        for comm in (self.inside, self.across):
            if comm is not None:
                comm.Free()

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


def ranks_of_node(comm: MPI.Intracomm) -> MPI.Intracomm:
    """Those of `comm` that share memory with this rank, in the same order."""
    from mpi4py import MPI

    return MPI.Intracomm(comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank))


@cache
def _of_mpi() -> World:
    """A process belongs to one MPI world, which never changes."""
    from mpi4py import MPI

    return World.of(MPI.COMM_WORLD)
