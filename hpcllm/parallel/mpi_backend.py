"""torch.distributed over MPI, from PyPI's own torch: a process group written in Python on mpi4py.

    import hpcllm.parallel.mpi_backend  # registers the backend
    dist.init_process_group("mpi4py")   # in each rank that mpirun or srun started

Every group has an MPI communicator of its own and one thread that runs blocking MPI calls in the order in which they
were asked for; mpi4py gives the interpreter free meanwhile. A collective returns a `Work` at once, with a future
that the thread fulfils, so that DDP overlaps communication with its backward pass.

**Reductions are ours, not MPI's.** Ranks exchange slices, each adds its slice *in rank order*, and the slices are
gathered. The volume is that of a ring, 2(n−1)/n of the tensor in and out of each rank; and the bits of a result depend
on nothing but the inputs: not on the MPI library, the size of the message or the placement of ranks. 16-bit floats
travel in 16 bits and are added in 32.

It needs MPI_THREAD_MULTIPLE and takes CPU tensors; a collective has no timeout. A rank that dies of an exception ends
the others too, which would otherwise wait for it for ever.
"""

# The methods are torch's, which documents them, overloads them in its stubs, and types few of its functions:
# ruff: noqa: D102
# mypy: allow-untyped-calls
# mypy: disable-error-code="override, assignment"

from __future__ import annotations

import atexit
import queue
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor
from torch.distributed import ReduceOp

from hpcllm.parallel.mpi_buffers import REDUCTIONS, even, flat_rows, flat_view, fold, joined, spec
from hpcllm.parallel.mpi_work import Collective, Message

NAME = "mpi4py"
PIECE_BYTES = 4 * 2**20  # of a tensor that is reduced at a time: scratch memory stays in the cache and is used again
GRACE_S = 5.0  # for the others to fail by themselves, before a failed rank ends them

_alive: set[MpiProcessGroup] = set()


class MpiProcessGroup(dist.ProcessGroup):
    """A process group over one MPI communicator. Made by `init_process_group("mpi4py")` and `new_group`."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        super().__init__(comm.rank, comm.size)  # type: ignore[call-arg]  # the form for subclasses
        self._comm = comm
        self._asked: queue.Queue[Collective | None] = queue.Queue()
        self._messages: list[Message] = []
        self._group_name, self._group_desc = "", ""
        self._start_thread()

    # Collectives. torch calls them with lists of one tensor (or of several, where it coalesces).

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        op = _operation(opts, tensors)
        return self._ask(lambda: _each(self._all_reduce, tensors, op=op), tensors)

    allreduce_coalesced = allreduce

    def reduce(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        op = _operation(opts, tensors)
        return self._ask(lambda: _each(self._reduce, tensors, op=op, root=opts.rootRank), tensors)

    def broadcast(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        return self._ask(lambda: _each(self._broadcast, tensors, root=opts.rootRank), tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask(lambda: _each(self._all_gather, outputs, inputs), [t for row in outputs for t in row])

    def allgather_coalesced(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        by_input = [list(column) for column in zip(*outputs, strict=True)]  # outputs hold a list for each rank
        return self.allgather(by_input, inputs)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.all_gather_single_coalesced([output], [input])

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask(lambda: _each(self._all_gather_single, outputs, inputs), outputs)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> dist.Work:
        op = _operation(opts, outputs)
        return self._ask(lambda: _each(self._reduce_scatter, outputs, inputs, op=op), outputs)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> dist.Work:
        op = _operation(opts, outputs)
        return self._ask(lambda: _each(self._reduce_scatter_single, outputs, inputs, op=op), outputs)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> dist.Work:
        rows = outputs or [[] for _ in inputs]  # empty but on the root
        return self._ask(
            lambda: _each(self._gather, rows, inputs, root=opts.rootRank), [t for row in rows for t in row]
        )

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> dist.Work:
        rows = inputs or [[] for _ in outputs]
        return self._ask(lambda: _each(self._scatter, outputs, rows, root=opts.rootRank), outputs)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask(lambda: self._all_to_all(outputs, inputs), outputs)

    def all_to_all_single(
        self, output: Tensor, input: Tensor, output_splits: list[int], input_splits: list[int], opts: Any = None
    ) -> dist.Work:
        outputs, inputs = self._rows(output, output_splits), self._rows(input, input_splits)
        return self._ask(lambda: self._all_to_all(outputs, inputs), [output])

    def barrier(self, opts: Any = None) -> dist.Work:
        return self._ask(self._comm.Barrier, [])

    # The names that torch had for some of them before 2.13.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    # Messages from one rank to another go past the thread, so that a receive never holds up the send that it waits for.

    def send(self, tensors: list[Tensor], destination: int, tag: int) -> dist.Work:
        flat = _checked(tensors)[0].detach().contiguous()
        return self._sent(Message(self._comm.Isend(spec(flat), destination, tag), flat))

    def recv(self, tensors: list[Tensor], source: int, tag: int) -> dist.Work:
        tensor = _checked(tensors)[0].detach()
        flat = tensor.contiguous()
        return self._sent(Message(self._comm.Irecv(spec(flat), source, tag), flat, tensor))

    def recv_anysource(self, tensors: list[Tensor], tag: int) -> dist.Work:
        return self.recv(tensors, MPI.ANY_SOURCE, tag)

    def _sent(self, message: Message) -> dist.Work:
        self._messages = [other for other in self._messages if not other.is_completed()] + [message]
        return message

    # What the thread does.

    def _all_reduce(self, tensor: Tensor, op: Any) -> None:
        with flat_view(tensor) as flat:
            for piece in flat.split(_piece(flat)):
                counts = even(piece.numel(), self.size())
                self._reduce_slices(piece, counts, op, out=piece.split(counts)[self.rank()])
                self._comm.Allgatherv(MPI.IN_PLACE, spec(piece, counts))

    def _reduce(self, tensor: Tensor, op: Any, root: int) -> None:
        with flat_view(tensor) as flat:
            for piece in flat.split(_piece(flat)):
                counts = even(piece.numel(), self.size())
                mine = piece.new_empty(counts[self.rank()])
                self._reduce_slices(piece, counts, op, out=mine)
                self._comm.Gatherv(spec(mine), spec(piece, counts) if self.rank() == root else None, root)

    def _reduce_scatter_single(self, output: Tensor, input: Tensor, op: Any) -> None:
        _same_size(input, output.numel() * self.size())
        flat_input = input.contiguous().view(-1)
        with flat_view(output) as flat:
            start = 0
            for piece in flat.split(max(1, _piece(flat) // self.size())):
                starts = [rank * flat.numel() + start for rank in range(self.size())]
                self._reduce_slices(flat_input, [piece.numel()] * self.size(), op, piece, starts)
                start += piece.numel()

    def _reduce_scatter(self, output: Tensor, inputs: list[Tensor], op: Any) -> None:
        counts = [tensor.numel() for tensor in inputs]
        with flat_view(output) as flat:
            self._reduce_slices(joined(inputs), counts, op, out=flat)

    def _reduce_slices(
        self, flat: Tensor, counts: list[int], op: Any, out: Tensor, starts: list[int] | None = None
    ) -> None:
        """Reduce slice r of `flat` over the ranks into `out` of rank r. `out` may be that slice; the others stay."""
        size, rank, mine = self.size(), self.rank(), counts[self.rank()]
        starts = starts or [sum(counts[:peer]) for peer in range(size)]
        own = flat[starts[rank] : starts[rank] + mine]
        received = flat.new_empty(size - 1, mine)
        sent = [count if peer != rank else 0 for peer, count in enumerate(counts)]
        taken = [mine if peer != rank else 0 for peer in range(size)]
        self._comm.Alltoallv(spec(flat, sent, starts), spec(received, taken))
        fold(op, [*received[:rank], own, *received[rank:]], out, scratch=received[0] if size > 1 else own)

    def _broadcast(self, tensor: Tensor, root: int) -> None:
        with flat_view(tensor) as flat:
            self._comm.Bcast(spec(flat), root)

    def _all_gather_single(self, output: Tensor, input: Tensor) -> None:
        _same_size(output, input.numel() * self.size())
        with flat_view(output) as flat:
            mine = flat.view(self.size(), -1)[self.rank()]
            if mine.data_ptr() != input.data_ptr():  # FSDP hands in a part of the output
                mine.copy_(input.reshape(-1))
            self._comm.Allgather(MPI.IN_PLACE, spec(flat))

    def _all_gather(self, outputs: list[Tensor], input: Tensor) -> None:
        with flat_rows(outputs) as (flat, counts):
            _same_size(input, counts[self.rank()])
            self._comm.Allgatherv(spec(input.contiguous()), spec(flat, counts))

    def _gather(self, outputs: list[Tensor], input: Tensor, root: int) -> None:
        if self.rank() != root:
            self._comm.Gatherv(spec(input.contiguous()), None, root)
            return
        with flat_rows(outputs) as (flat, counts):
            self._comm.Gatherv(spec(input.contiguous()), spec(flat, counts), root)

    def _scatter(self, output: Tensor, inputs: list[Tensor], root: int) -> None:
        counts = [tensor.numel() for tensor in inputs]
        with flat_view(output) as flat:
            source = spec(joined(inputs), counts) if self.rank() == root else None
            self._comm.Scatterv(source, spec(flat), root)

    def _all_to_all(self, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        counts = [tensor.numel() for tensor in inputs]
        with flat_rows(outputs) as (flat, output_counts):
            self._comm.Alltoallv(spec(joined(inputs), counts), spec(flat, output_counts))

    def _rows(self, tensor: Tensor, sizes: list[int]) -> list[Tensor]:
        """A tensor cut along its first dimension: one part a rank, equal ones where no sizes are given."""
        if not sizes and tensor.shape[0] % self.size():
            raise ValueError(f"all_to_all: {tensor.shape[0]} rows cannot be cut into {self.size()} equal parts")
        return list(tensor.split(sizes or tensor.shape[0] // self.size()))

    # The thread.

    def _ask(self, run: Callable[[], object], tensors: list[Tensor]) -> dist.Work:
        """Let the thread run it. The Work is done, or raises in wait(), when the thread has."""
        collective = Collective(run, _checked(tensors))
        self._asked.put(collective)
        return collective

    def _start_thread(self) -> None:
        threads, started = torch.get_num_threads(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="mpi4py-collectives", daemon=True)
        self._thread.start()
        started.wait()
        torch.set_num_threads(threads)  # the thread's own setting was also the default of threads to come
        _alive.add(self)

    def _serve(self, started: threading.Event) -> None:
        torch.set_num_threads(1)  # the other cores are computing
        started.set()
        while (collective := self._asked.get()) is not None:
            collective.start()
            del collective  # or its tensors would live until the next one
            self._asked.task_done()

    def is_busy(self) -> bool:
        """Whether a collective was asked for and has not ended."""
        return self._asked.unfinished_tasks > int(not self._thread.is_alive())

    def shutdown(self) -> None:
        """Finish what was asked for and free the communicator; all ranks of the group call it."""
        if self in _alive:
            _alive.remove(self)
            self._asked.put(None)
            self._thread.join()
            self._comm.Free()

    abort = shutdown

    # What torch asks of a group besides.

    def getBackendName(self) -> str:  # noqa: N802
        return NAME

    def name(self) -> str:
        return NAME

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def _get_backend(self, device: torch.device) -> Any:
        return self

    @property
    def supports_splitting(self) -> bool:
        return False

    def _set_group_name(self, name: str) -> None:
        self._group_name = name

    def _set_group_desc(self, description: str) -> None:
        self._group_desc = description

    @property
    def group_name(self) -> Any:
        return self._group_name

    @property
    def group_desc(self) -> str:
        return self._group_desc

    def getGroupName(self) -> str:  # noqa: N802
        return self._group_name

    def getGroupDesc(self) -> str:  # noqa: N802
        return self._group_desc


def _create(options: Any, backend_options: Any) -> MpiProcessGroup:
    """What torch calls for a new group, on its members only."""
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise RuntimeError(
            "mpi4py backend: this MPI was started without MPI_THREAD_MULTIPLE, and collectives run in a thread of "
            "their own; leave mpi4py.rc.threads and mpi4py.rc.thread_level alone, or use an MPI built with threads"
        )
    world = MPI.COMM_WORLD
    ranks = list(options.global_ranks_in_group)
    if not ranks and (options.group_rank, options.group_size) != (world.rank, world.size):
        raise RuntimeError(
            f"mpi4py backend: torch calls this rank {options.group_rank} of {options.group_size}, MPI calls it "
            f"{world.rank} of {world.size}; start the ranks by mpirun or srun, and give them MPI's rank and size"
        )
    tag = zlib.crc32(options.group_id.encode()) % 2**15  # tells apart groups that are made at the same time
    return MpiProcessGroup(world.Create_group(world.group.Incl(ranks), tag) if ranks else world.Dup())


def _at_exit() -> None:
    """Never let MPI_Finalize wait for ranks that wait for this one."""
    died = getattr(sys, "last_value", None) is not None  # of an exception that nobody caught
    if _alive and (died or _busy()) and not (_all_ranks_end() and not _busy()):
        rank = MPI.COMM_WORLD.rank
        print(f"mpi4py backend: rank {rank} failed and others wait for it: ending all", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)


def _busy() -> bool:
    return any(group.is_busy() for group in _alive)


def _all_ranks_end() -> bool:
    everybody = MPI.COMM_WORLD.Ibarrier()
    deadline = time.monotonic() + GRACE_S
    while not everybody.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _each(run: Callable[..., None], *columns: Sequence[Any], **options: Any) -> None:
    for row in zip(*columns, strict=True):
        run(*row, **options)


def _operation(opts: Any, tensors: list[Tensor]) -> Any:
    """The reduction that torch's options name. Raises ValueError for one that cannot be done."""
    op = ReduceOp.SUM if opts is None else opts.reduceOp.op
    if op not in REDUCTIONS:
        raise ValueError(f"mpi4py backend: found {op}; it reduces by {', '.join(known.name for known in REDUCTIONS)}")
    if op == ReduceOp.AVG and not all(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise ValueError(f"mpi4py backend: AVG of {tensors[0].dtype}; reduce by SUM and divide")
    return op


def _checked(tensors: list[Tensor]) -> list[Tensor]:
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise ValueError(
                f"mpi4py backend: found a {tensor.layout} tensor on {tensor.device}; it moves dense CPU tensors "
                "(nccl moves those on a GPU)"
            )
    return tensors


def _same_size(tensor: Tensor, numel: int) -> None:
    if tensor.numel() != numel:
        raise ValueError(f"mpi4py backend: found a tensor of {tensor.numel()} elements where {numel} belong")


def _piece(flat: Tensor) -> int:
    return PIECE_BYTES // flat.element_size()


dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])
atexit.register(_at_exit)
