"""Each collective on one tensor: which way its data go, and how tensors of any layout become flat ones and back."""

# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ReduceOp

from hpcllm.parallel.mpi.arguments import same
from hpcllm.parallel.mpi.buffers import apart, flat_rows, flat_view, together
from hpcllm.parallel.mpi.paths import Paths


class Operations:
    """The collectives of one group, run by the thread that calls, in the same order on all ranks."""

    def __init__(self, paths: Paths, rank: int, size: int, *, compares: bool) -> None:
        """`compares`: let the ranks compare what they are about to do, each time."""
        self._paths = paths
        self.rank, self.size = rank, size
        self._checks = compares

    def all_reduce(self, tensor: Tensor, op: Any, factor: Any) -> None:
        """Every rank ends with the total; `factor`: what each multiplies its own by before, or None."""
        if tensor.layout == torch.sparse_coo:
            if op != ReduceOp.SUM or factor is not None:
                raise ValueError("mpi4py backend: sparse tensors are reduced by SUM alone")
            tensor.copy_(self._sparse_total(tensor))
            return
        with flat_view(tensor) as flat:
            words = self._say("all_reduce", op, flat)
            if factor is not None:
                flat.mul_(factor)
            if self._paths.in_node:
                self._paths.in_node.all_reduce(flat, op, words)
            else:
                (self._paths.across or self._paths.network).all_reduce(flat, op)

    def _sparse_total(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' entries: each rank gets all of them, and adds in rank order."""
        mine = tensor.coalesce()
        numbers = torch.tensor([mine._nnz()])
        counts = [torch.zeros_like(numbers) for _ in range(self.size)]
        self.all_gather(counts, numbers)
        indices = [mine.indices().new_empty(mine.indices().shape[0], int(count)) for count in counts]
        values = [mine.values().new_empty(int(count), *mine.values().shape[1:]) for count in counts]
        self.all_gather(indices, mine.indices())
        self.all_gather(values, mine.values())
        entries = torch.cat(indices, dim=1), torch.cat(values)
        return torch.sparse_coo_tensor(*entries, tensor.shape, check_invariants=False).coalesce()

    def reduce(self, tensor: Tensor, op: Any, factor: Any, root: int) -> None:
        """The root ends with the total."""
        with flat_view(tensor) as own:
            words = self._say(f"reduce to {root}", op, own)
            flat = own if factor is None else own * factor
            if self._paths.in_node:
                self._paths.in_node.reduce(flat, op, root, words)
            else:
                self._paths.network.reduce(flat, op, root)
            if factor is not None and self.rank == root:
                own.copy_(flat)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, op: Any, factor: Any) -> None:
        """Rank r ends with the total of the r-th part of `input`."""
        same(output, input, self.size)
        self.reduce_scatter(output, list(input.contiguous().view(self.size, -1)), op, factor)

    def reduce_scatter(self, output: Tensor, inputs: list[Tensor], op: Any, factor: Any) -> None:
        """Rank r ends with the total of inputs[r]."""
        parts = [tensor.reshape(-1) if factor is None else tensor.reshape(-1) * factor for tensor in inputs]
        counts = [part.numel() for part in parts]
        same(parts[self.rank], output)
        words = self._say("reduce_scatter", op, output, counts)
        with flat_view(output) as flat:
            if self._paths.in_node:
                self._paths.in_node.reduce_scatter(parts, flat, op, words)
            else:
                self._paths.network.reduce_scatter(parts, flat, op)

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Every rank ends with the root's tensor."""
        with flat_view(tensor) as flat:
            words = self._say(f"broadcast from {root}", None, flat)
            if self._paths.in_node:
                self._paths.in_node.broadcast(flat, root, words)
            else:
                self._paths.network.broadcast(flat, root)

    def all_gather_single(self, output: Tensor, input: Tensor) -> None:
        """Every rank ends with every rank's input, one behind the other."""
        same(input, output, self.size)
        with flat_view(output) as flat:
            self._gather_everywhere(list(flat.view(self.size, -1)), flat, input.contiguous().view(-1))

    def all_gather(self, outputs: list[Tensor], input: Tensor) -> None:
        """Every rank ends with every rank's input; sizes may differ."""
        same(input, outputs[self.rank])
        with flat_rows(outputs, input) as (flat, counts):
            self._gather_everywhere(list(flat.split(counts)), flat, input.contiguous().view(-1))

    def _gather_everywhere(self, rows: list[Tensor], flat: Tensor, mine: Tensor) -> None:
        """Every rank's tensor into its row; `mine` may be its own already (FSDP hands in a part of the output)."""
        counts = [row.numel() for row in rows]
        words = self._say("all_gather", None, mine, counts)
        if self._paths.in_node:
            self._paths.in_node.all_gather(rows, mine, words)
            return
        if rows[self.rank].data_ptr() != mine.data_ptr():
            rows[self.rank].copy_(mine)
        self._paths.network.all_gather(flat, counts)

    def gather(self, outputs: list[Tensor], input: Tensor, root: int) -> None:
        """The root ends with every rank's input."""
        if self.rank == root:
            same(input, outputs[root])
        self._say(f"gather to {root}", None, input, [])
        if self.rank != root:
            self._paths.network.gather(input.contiguous(), None, None, root)
            return
        with flat_rows(outputs, input) as (flat, counts):
            self._paths.network.gather(apart(input.contiguous(), flat), flat, counts, root)

    def scatter(self, output: Tensor, inputs: list[Tensor], root: int) -> None:
        """Rank r ends with the root's inputs[r]."""
        if self.rank == root:
            same(output, inputs[root])
        self._say(f"scatter from {root}", None, output, [])
        with flat_view(output) as flat:
            mine = self.rank == root
            counts = [tensor.numel() for tensor in inputs] if mine else None
            everybody = apart(together(inputs), flat) if mine else None
            self._paths.network.scatter(everybody, counts, flat, root)

    def all_to_all(self, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        """Rank r ends with inputs[r] of every rank."""
        self._say("all_to_all", None, inputs[0], [])
        counts = [tensor.numel() for tensor in inputs]
        with flat_rows(outputs, inputs[0]) as (flat, output_counts):
            self._paths.network.all_to_all(apart(together(inputs), flat), counts, flat, output_counts)

    def barrier(self) -> None:
        """Wait for all ranks."""
        words = self._say("barrier", None, None)
        if self._paths.in_node:
            self._paths.in_node.barrier(words)
        else:
            self._paths.network.barrier()

    def rows(self, tensor: Tensor, sizes: list[int]) -> list[Tensor]:
        """A tensor cut along its first dimension: one part a rank, equal ones where no sizes are given."""
        if not sizes and tensor.shape[0] % self.size:
            raise ValueError(f"all_to_all: {tensor.shape[0]} rows cannot be cut into {self.size} equal parts")
        return list(tensor.split(sizes or [tensor.shape[0] // self.size] * self.size))

    def _say(self, name: str, op: Any, like: Tensor | None, counts: list[int] | None = None) -> str:
        """A collective in words, the same on all ranks. With TORCH_DISTRIBUTED_DEBUG=DETAIL they are compared."""
        size = "" if like is None else f" {str(like.dtype)[6:]} {[like.numel()] if counts is None else counts}"
        words = f"{name}{'' if op is None else f' by {op.name}'}{size}"
        if self._checks:
            self._paths.network.check(words)
        return words
