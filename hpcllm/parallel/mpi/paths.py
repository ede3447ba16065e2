"""The ways that a group's data can go: through the memory of a node, over the network, or both."""

# mypy: allow-untyped-calls

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from mpi4py import MPI

from hpcllm.parallel.mpi.across_nodes import AcrossNodes
from hpcllm.parallel.mpi.in_node import InNode
from hpcllm.parallel.mpi.memory import NodeMemory, affordable, there_is_room
from hpcllm.parallel.mpi.over_network import OverNetwork
from hpcllm.parallel.mpi.waiting import Wait
from hpcllm.parallel.world import ranks_of_node

IN_NODE_BYTES = 512 * 2**10  # of a piece: two of them stay in a core's second-level cache
ACROSS_NODES_BYTES = 4 * 2**20  # of a piece that also goes over the network, where short messages are slow


@dataclass(frozen=True)
class Paths:
    """Of one group. `network` goes everywhere; the others are there where they are faster."""

    wait: Wait
    network: OverNetwork
    in_node: InNode | None = None
    across: AcrossNodes | None = None
    memory: NodeMemory | None = None
    leaders: MPI.Intracomm | None = None

    def free(self) -> None:
        """All ranks of the group together. The communicator is freed by who gave it."""
        if self.memory is not None:
            self.memory.free()
        if self.leaders is not None:
            self.leaders.Free()


def find_paths(comm: MPI.Intracomm) -> Paths:
    """What the ranks of `comm` have; messages on it are the paths' own. All of them call it together."""
    node = ranks_of_node(comm)
    places = comm.allgather((MPI.COMM_WORLD.rank, socket.gethostname(), node.size))
    names = [f"rank {rank} on {host}" for rank, host, _ in places]
    cores = set[int]().union(*node.allgather(os.sched_getaffinity(0)))
    wait = Wait(comm, names, len(cores) / node.size)
    smallest, largest = (which(size for _, _, size in places) for which in (min, max))
    try:
        return _with_memory(comm, node, smallest, largest, wait)
    finally:
        node.Free()


def _with_memory(comm: MPI.Intracomm, node: MPI.Intracomm, smallest: int, largest: int, wait: Wait) -> Paths:
    network = OverNetwork(comm, wait)
    one_node = largest == comm.size
    piece_bytes = affordable(IN_NODE_BYTES if one_node else ACROSS_NODES_BYTES, largest)
    if largest == 1 or not comm.allreduce(there_is_room(piece_bytes, node.size), MPI.LAND):
        return Paths(wait, network)
    memory = NodeMemory(node, wait, piece_bytes)
    if one_node:
        return Paths(wait, network, in_node=InNode(memory), memory=memory)
    split = comm.Split(node.rank if node.rank < smallest else MPI.UNDEFINED, comm.rank)
    leaders = split if isinstance(split, MPI.Intracomm) and split != MPI.COMM_NULL else None
    across = AcrossNodes(memory, leaders, smallest, comm.size, wait)
    return Paths(wait, network, across=across, memory=memory, leaders=leaders)
