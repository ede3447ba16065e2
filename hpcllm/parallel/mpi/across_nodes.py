"""All-reduce between nodes of several ranks: inside each node through its memory, between nodes over the network.

As many ranks of each node talk to other nodes as the smallest node has; they are the leaders. Each leader reduces one
slice of a piece over its node, all-reduces it with the leaders of the same slice on the other nodes, and leaves it to
the ranks of its node. So the network carries each byte once a node, not once a rank, over several ranks at a time.
The order of a reduction is that of the ranks inside a node, then that of the nodes.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from mpi4py import MPI
from torch import Tensor
from torch.distributed import ReduceOp

from hpcllm.parallel.mpi.buffers import bounds, fold
from hpcllm.parallel.mpi.memory import NodeMemory
from hpcllm.parallel.mpi.over_network import OverNetwork
from hpcllm.parallel.mpi.waiting import Wait


class AcrossNodes:
    """The ranks of several nodes, at least two on one of them."""

    def __init__(
        self, memory: NodeMemory, leaders: MPI.Intracomm | None, num_leaders: int, num_ranks: int, wait: Wait
    ) -> None:
        """`leaders`: of this rank's slice, one a node; None on a rank that is no leader. `num_ranks`: of all nodes."""
        self._memory = memory
        self._num_leaders = num_leaders
        self._network = None if leaders is None else OverNetwork(leaders, wait)
        self._ranks = num_ranks

    def all_reduce(self, flat: Tensor, op: Any) -> None:
        """Every rank ends with the total."""
        average, inner = op == ReduceOp.AVG, ReduceOp.SUM if op == ReduceOp.AVG else op
        for piece in flat.split(self._memory.piece_bytes // flat.element_size()):
            number, numel = self._memory.begin(1), piece.numel()
            self._memory.given(piece.dtype, self._memory.rank, number)[:numel].copy_(piece)
            self._memory.barrier()
            if self._network is not None:
                self._reduce_slice(numel, piece.dtype, number, inner, self._ranks if average else 1)
            self._memory.barrier()
            self._take(piece, number)

    def _reduce_slice(self, numel: int, dtype: Any, number: int, op: Any, divisor: int) -> None:
        start, end = bounds(numel, self._num_leaders)[self._memory.rank : self._memory.rank + 2]
        made = self._memory.made(dtype, self._memory.rank, number)[: end - start]
        parts = [self._memory.given(dtype, rank, number)[start:end] for rank in range(self._memory.size)]
        fold(op, parts, made, scratch=parts[0])
        assert self._network is not None
        self._network.all_reduce(made, op)
        if divisor > 1:
            made.div_(divisor)

    def _take(self, piece: Tensor, number: int) -> None:
        edges = bounds(piece.numel(), self._num_leaders)
        for leader in range(self._num_leaders):
            part = piece[edges[leader] : edges[leader + 1]]
            part.copy_(self._memory.made(piece.dtype, leader, number)[: part.numel()])
