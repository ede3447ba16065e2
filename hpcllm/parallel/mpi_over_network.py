"""Collectives by MPI messages alone, between ranks of any nodes.

Reductions are ours: ranks exchange slices, each adds its slice in rank order, and the slices are gathered. While one
piece of a tensor is added up, the next one is under way. Every MPI call is one that can be waited for with patience.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from hpcllm.parallel.mpi_buffers import even, fold, spec
from hpcllm.parallel.mpi_waiting import CollectiveMismatch, Wait

PIECE_BYTES = 4 * 2**20  # of a tensor that is reduced at a time: its parts stay in the cache
SMALL_BYTES = 32 * 2**10  # of all ranks together, up to which everybody gets and reduces everything
WORDS_BYTES = 128


class OverNetwork:
    """The ranks of one communicator. Tensors are contiguous and flat."""

    def __init__(self, comm: MPI.Intracomm, wait: Wait) -> None:
        self._comm = comm
        self._wait = wait
        self._rank, self._size = comm.rank, comm.size

    def check(self, words: str) -> None:
        """That all ranks are about to do the same. Raises CollectiveMismatch with what each does."""
        mine = bytearray(words.encode()[:WORDS_BYTES].ljust(WORDS_BYTES))
        everybody = bytearray(WORDS_BYTES * self._size)
        self._do(self._comm.Iallgather([mine, MPI.BYTE], [everybody, MPI.BYTE]))
        said = [bytes(everybody[at : at + WORDS_BYTES]) for at in range(0, len(everybody), WORDS_BYTES)]
        if said != [bytes(mine)] * self._size:
            raise CollectiveMismatch([text.decode(errors="replace").strip() for text in said])

    def all_reduce(self, flat: Tensor, op: Any) -> None:
        """Every rank ends with the total."""
        if flat.numel() * flat.element_size() * self._size <= SMALL_BYTES:
            self._all_reduce_small(flat, op)
            return
        pieces = flat.split(_length(flat))
        under_way: tuple[Tensor, MPI.Request] | None = None
        gathering: MPI.Request | None = None
        for index, piece in enumerate(pieces):
            received, request = under_way or self._exchange(piece)
            under_way = self._exchange(pieces[index + 1]) if index + 1 < len(pieces) else None
            self._do(request)
            counts = even(piece.numel(), self._size)
            self._fold(piece.split(counts)[self._rank], received, piece.split(counts)[self._rank], op)
            if gathering is not None:
                self._do(gathering)
            gathering = self._comm.Iallgatherv(MPI.IN_PLACE, spec(piece, counts))
        if gathering is not None:
            self._do(gathering)

    def _all_reduce_small(self, flat: Tensor, op: Any) -> None:
        everybody = flat.new_empty(self._size, flat.numel())
        self._do(self._comm.Iallgather(spec(flat), spec(everybody)))
        fold(op, list(everybody), flat, scratch=everybody[0])

    def reduce(self, flat: Tensor, op: Any, root: int) -> None:
        """The root ends with the total; the others' tensors stay."""
        for piece in flat.split(_length(flat)):
            counts = even(piece.numel(), self._size)
            received, request = self._exchange(piece)
            self._do(request)
            own = piece.split(counts)[self._rank]
            total = torch.empty_like(own)
            self._fold(own, received, total, op)
            self._do(self._comm.Igatherv(spec(total), spec(piece, counts) if self._rank == root else None, root))

    def reduce_scatter(self, inputs: Tensor, counts: Sequence[int], output: Tensor, op: Any) -> None:
        """Rank r ends with the total of the r-th part of `inputs`. `output` may be this rank's own part."""
        starts = [sum(counts[:rank]) for rank in range(self._size)]
        length = max(1, _length(output) // self._size)
        for start in range(0, max(counts), length):
            sizes = [max(0, min(length, count - start)) for count in counts]
            received, request = self._exchange(inputs, sizes, [at + start for at in starts])
            self._do(request)
            own = inputs[starts[self._rank] + start :][: sizes[self._rank]]
            self._fold(own, received, output[start : start + sizes[self._rank]], op)

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

    def _exchange(
        self, flat: Tensor, counts: Sequence[int] | None = None, starts: Sequence[int] | None = None
    ) -> tuple[Tensor, MPI.Request]:
        """Slice r of `flat` on its way to rank r, and what comes for this rank: a row from each other rank."""
        counts = counts or even(flat.numel(), self._size)
        starts = starts or [sum(counts[:rank]) for rank in range(self._size)]
        mine = counts[self._rank]
        received = flat.new_empty(self._size - 1, mine)
        sent = [count if rank != self._rank else 0 for rank, count in enumerate(counts)]
        taken = [mine if rank != self._rank else 0 for rank in range(self._size)]
        return received, self._comm.Ialltoallv(spec(flat, sent, list(starts)), spec(received, taken))

    def _fold(self, own: Tensor, received: Tensor, out: Tensor, op: Any) -> None:
        parts = [*received[: self._rank], own, *received[self._rank :]]
        fold(op, parts, out, scratch=received[0] if self._size > 1 else own)

    def _do(self, request: MPI.Request) -> None:
        self._wait.complete(request)


def _length(flat: Tensor) -> int:
    return PIECE_BYTES // flat.element_size()
