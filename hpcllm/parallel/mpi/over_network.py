"""Collectives by MPI messages alone, between ranks of any nodes.

Reductions are ours: ranks exchange slices, each adds its slice in rank order, and sends the sum to all. That is
done piece by piece, one after the other: over TCP a piece is still in the cache when it is added up, and a second one
under way at the same time made it slower. Every MPI call is one that can be waited for with patience.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from hpcllm.parallel.mpi.buffers import fold, spec
from hpcllm.parallel.mpi.waiting import WORDS_BYTES, Wait, as_said, check_said

SLICE_BYTES = 768 * 2**10  # that a rank sends to another one at a time, of large tensors
PIECE_BYTES = 8 * 2**20  # that a rank sends to all others at a time, at most
SMALL_BYTES = 32 * 2**10  # of all ranks together, up to which everybody gets and reduces everything
EXCHANGE = 0  # a tag; the communicator is ours alone


class OverNetwork:
    """The ranks of one communicator, which nobody else sends messages on. Tensors are contiguous and flat."""

    def __init__(self, comm: MPI.Intracomm, wait: Wait) -> None:
        self._comm = comm
        self._wait = wait
        self._rank, self._size = comm.rank, comm.size
        self._unfinished: list[MPI.Request] = []
        self._others = [(comm.rank + step) % comm.size for step in range(1, comm.size)]  # not all to one at a time

    def check(self, words: str) -> None:
        """That all ranks are about to do the same. Raises CollectiveMismatch with what each does."""
        everybody = bytearray(WORDS_BYTES * self._size)
        self._do(self._comm.Iallgather([bytearray(as_said(words)), MPI.BYTE], [everybody, MPI.BYTE]))
        check_said([bytes(everybody[at : at + WORDS_BYTES]) for at in range(0, len(everybody), WORDS_BYTES)])

    def all_reduce(self, flat: Tensor, op: Any) -> None:
        """Every rank ends with the total."""
        if flat.numel() * flat.element_size() * self._size <= SMALL_BYTES:
            self._all_reduce_small(flat, op)
            return
        for piece in flat.split(self._length(flat)):
            slices = piece.tensor_split(self._size)
            mine = slices[self._rank]
            self._fold(mine, self._exchange(slices, mine.numel()), mine, op)
            self._do(*self._send_to_all(mine, slices))

    def _all_reduce_small(self, flat: Tensor, op: Any) -> None:
        everybody = flat.new_empty(self._size, flat.numel())
        self._do(self._comm.Iallgather(spec(flat), spec(everybody)))
        fold(op, list(everybody), flat, scratch=everybody[0])

    def reduce(self, flat: Tensor, op: Any, root: int) -> None:
        """The root ends with the total; the others' tensors stay."""
        for piece in flat.split(self._length(flat)):
            slices = piece.tensor_split(self._size)
            counts = [part.numel() for part in slices]
            own = slices[self._rank]
            total = torch.empty_like(own)
            self._fold(own, self._exchange(slices, own.numel()), total, op)
            self._do(self._comm.Igatherv(spec(total), spec(piece, counts) if self._rank == root else None, root))

    def reduce_scatter(self, inputs: Sequence[Tensor], output: Tensor, op: Any) -> None:
        """Rank r ends with the total of inputs[r]. `output` may be this rank's own input."""
        length = max(1, self._length(output) // self._size)
        for start in range(0, max(tensor.numel() for tensor in inputs), length):
            slices = [tensor[start : start + length] for tensor in inputs]
            out = output[start : start + length]
            self._fold(slices[self._rank], self._exchange(slices, out.numel()), out, op)

    def all_gather(self, flat: Tensor, counts: list[int]) -> None:
        """The parts of `flat` from every rank, of which this rank's own is in place."""
        self._do(self._comm.Iallgatherv(MPI.IN_PLACE, spec(flat, counts)))

    def broadcast(self, flat: Tensor, root: int) -> None:
        """Every rank ends with the root's tensor."""
        self._do(self._comm.Ibcast(spec(flat), root))

    def gather(self, flat: Tensor, everybody: Tensor | None, counts: list[int] | None, root: int) -> None:
        """Every rank's tensor, on the root, which alone gives `everybody` and `counts`."""
        self._do(self._comm.Igatherv(spec(flat), None if everybody is None else spec(everybody, counts), root))

    def scatter(self, everybody: Tensor | None, counts: list[int] | None, flat: Tensor, root: int) -> None:
        """Each rank's part, from the root, which alone gives `everybody` and `counts`."""
        self._do(self._comm.Iscatterv(None if everybody is None else spec(everybody, counts), spec(flat), root))

    def all_to_all(self, given: Tensor, counts: list[int], taken: Tensor, taken_counts: list[int]) -> None:
        """Part r of `given` to rank r, from every rank."""
        self._do(self._comm.Ialltoallv(spec(given, counts), spec(taken, taken_counts)))

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._do(self._comm.Ibarrier())

    def _exchange(self, slices: Sequence[Tensor], numel: int) -> Tensor:
        """Give rank r slice r, and return what the others have for this one: a row of `numel` elements from each."""
        received = slices[0].new_empty(self._size - 1, numel)
        rows = [*received[: self._rank], received[:0], *received[self._rank :]]
        requests = [self._comm.Irecv(spec(rows[peer]), peer, EXCHANGE) for peer in self._others]
        requests += [self._comm.Isend(spec(slices[peer]), peer, EXCHANGE) for peer in self._others]
        self._do(*requests)
        return received

    def _send_to_all(self, mine: Tensor, slices: Sequence[Tensor]) -> list[MPI.Request]:
        """This rank's slice to all others, and theirs into their places."""
        requests = [self._comm.Irecv(spec(slices[peer]), peer, EXCHANGE) for peer in self._others]
        return requests + [self._comm.Isend(spec(mine), peer, EXCHANGE) for peer in self._others]

    def _fold(self, own: Tensor, received: Tensor, out: Tensor, op: Any) -> None:
        parts = [*received[: self._rank], own, *received[self._rank :]]
        fold(op, parts, out, scratch=received[0] if self._size > 1 else own)

    def _do(self, *requests: MPI.Request) -> None:
        try:
            for request in requests:
                self._wait.complete(request)
        except Exception:
            self._unfinished += requests  # MPI may still write to what they hold
            raise

    def _length(self, flat: Tensor) -> int:
        return min(PIECE_BYTES, SLICE_BYTES * self._size) // flat.element_size()
