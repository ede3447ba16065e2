"""Collectives between ranks that share memory.

A tensor goes through in pieces that stay in the cache. While one piece is put in, the one before it is reduced and the
one before that is taken out; after each such step there is one barrier. Every rank reduces a slice of each piece, in
rank order, and puts in only what others need: an all-reduce moves 2(n−1)/n of the tensor through the memory.

Which slot a piece uses alternates, over all collectives of a group, so the barrier within a step is all that is needed:
nobody can be two pieces ahead.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hpcllm.parallel.mpi.buffers import bounds, fold
from hpcllm.parallel.mpi.memory import NodeMemory

SMALL_BYTES = 32 * 2**10  # up to which every rank reduces the whole tensor: one barrier in place of two

Stage = Callable[[int, int], object]
"""Does one thing with a piece: called with its index in the tensor, and its number, which chooses the slot."""


class InNode:
    """All ranks of a group on one node. Tensors are contiguous and flat; `words` say what is called, on every rank."""

    def __init__(self, memory: NodeMemory) -> None:
        self._memory = memory
        self._rank, self._size = memory.rank, memory.size

    def all_reduce(self, flat: Tensor, op: Any, words: str) -> None:
        """Every rank ends with the total."""
        if 0 < flat.numel() * flat.element_size() <= min(SMALL_BYTES, self._memory.piece_bytes):
            self._all_reduce_small(flat, op, words)
            return
        pieces = flat.split(self._length(flat))

        def reduce(index: int, number: int) -> None:
            own = self.reduce_slice(pieces[index], number, op)
            own.copy_(self._memory.made(flat.dtype, self._rank, number)[: own.numel()])

        self._run(
            len(pieces),
            words,
            lambda index, number: self.put(pieces[index], number),
            reduce,
            lambda index, number: self.take(pieces[index], number),
        )

    def _all_reduce_small(self, flat: Tensor, op: Any, words: str) -> None:
        numel = flat.numel()

        def reduce(_: int, number: int) -> None:
            parts = [self._memory.given(flat.dtype, rank, number)[:numel] for rank in range(self._size)]
            fold(op, parts, flat, scratch=flat)

        self._run(1, words, lambda _, number: self._put(flat, number), reduce)

    def reduce(self, flat: Tensor, op: Any, root: int, words: str) -> None:
        """The root ends with the total; the others' tensors stay."""
        pieces = flat.split(self._length(flat))

        def take(index: int, number: int) -> None:
            if self._rank == root:
                self.take(pieces[index], number, own=True)

        self._run(
            len(pieces),
            words,
            lambda index, number: self.put(pieces[index], number),
            lambda index, number: self.reduce_slice(pieces[index], number, op),
            take,
        )

    def reduce_scatter(self, inputs: Sequence[Tensor], output: Tensor, op: Any, words: str) -> None:
        """Rank r ends with the total of inputs[r]. `output` may be this rank's own input."""
        most = max(tensor.numel() for tensor in inputs)
        length = max(1, self._length(output) // self._size)

        def put(index: int, number: int) -> None:
            given = self._memory.given(output.dtype, self._rank, number)
            for rank, tensor in enumerate(inputs):
                if rank != self._rank:
                    part = tensor[index * length : (index + 1) * length]
                    given[rank * length : rank * length + part.numel()].copy_(part)

        def reduce(index: int, number: int) -> None:
            part = output[index * length : (index + 1) * length]
            own = inputs[self._rank][index * length : (index + 1) * length]
            start = self._rank * length
            self._fold_given(own, part, slice(start, start + part.numel()), number, op)

        self._run(-(-most // length), words, put, reduce)

    def all_gather(self, outputs: Sequence[Tensor], input: Tensor, words: str) -> None:
        """Every rank ends with every rank's input; `input` may be this rank's own output."""
        own = outputs[self._rank]
        if own.data_ptr() != input.data_ptr():
            own.copy_(input)
        length = self._length(input)

        def take(index: int, number: int) -> None:
            for rank, output in enumerate(outputs):
                if rank != self._rank:
                    part = output[index * length : (index + 1) * length]
                    part.copy_(self._memory.given(input.dtype, rank, number)[: part.numel()])

        most = max(output.numel() for output in outputs)
        self._run(
            -(-most // length),
            words,
            lambda index, number: self._put(input[index * length : (index + 1) * length], number),
            take,
        )

    def broadcast(self, flat: Tensor, root: int, words: str) -> None:
        """Every rank ends with the root's tensor."""
        pieces = flat.split(self._length(flat))

        def put(index: int, number: int) -> None:
            if self._rank == root:
                self._put(pieces[index], number)

        def take(index: int, number: int) -> None:
            if self._rank != root:
                pieces[index].copy_(self._memory.given(flat.dtype, root, number)[: pieces[index].numel()])

        self._run(len(pieces), words, put, take)

    def barrier(self, words: str) -> None:
        """Wait for all ranks."""
        self._run(1, words)

    # One piece.

    def put(self, piece: Tensor, number: int) -> None:
        """Put in what other ranks will reduce: all but the rank's own slice."""
        start, end = bounds(piece.numel(), self._size)[self._rank : self._rank + 2]
        given = self._memory.given(piece.dtype, self._rank, number)
        given[:start].copy_(piece[:start])
        given[end : piece.numel()].copy_(piece[end:])

    def reduce_slice(self, piece: Tensor, number: int, op: Any) -> Tensor:
        """Reduce this rank's slice into the memory. Returns the slice as it was."""
        start, end = bounds(piece.numel(), self._size)[self._rank : self._rank + 2]
        made = self._memory.made(piece.dtype, self._rank, number)[: end - start]
        self._fold_given(piece[start:end], made, slice(start, end), number, op)
        return piece[start:end]

    def take(self, piece: Tensor, number: int, *, own: bool = False) -> None:
        """Take out the slices that the other ranks reduced."""
        edges = bounds(piece.numel(), self._size)
        for rank in range(self._size):
            if rank != self._rank or own:
                part = piece[edges[rank] : edges[rank + 1]]
                part.copy_(self._memory.made(piece.dtype, rank, number)[: part.numel()])

    def _put(self, part: Tensor, number: int) -> None:
        self._memory.given(part.dtype, self._rank, number)[: part.numel()].copy_(part)

    def _fold_given(self, own: Tensor, out: Tensor, at: slice, number: int, op: Any) -> None:
        """Reduce what all ranks put in at `at`, in rank order, this rank's part being `own`."""
        parts = [self._memory.given(out.dtype, rank, number)[at] for rank in range(self._size)]
        scratch = parts[0] if self._rank else parts[1]  # another rank's, which is for this one alone
        parts[self._rank] = own
        fold(op, parts, out, scratch)

    def _length(self, like: Tensor) -> int:
        return self._memory.piece_bytes // like.element_size()

    def _run(self, pieces: int, words: str, *stages: Stage) -> None:
        """All stages over all pieces, each stage one piece behind the one before it. Raises CollectiveMismatch."""
        first = self._memory.begin(max(1, pieces))
        self._memory.say(words, first)
        for step in range(max(1, pieces + len(stages) - 1)):
            for behind, stage in enumerate(stages):
                if 0 <= step - behind < pieces:
                    stage(step - behind, first + step - behind)
            if step < max(1, pieces + len(stages) - 2):
                self._memory.barrier()
            if step == 0:
                self._memory.check(first)
