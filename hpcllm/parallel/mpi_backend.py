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
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor
from torch._C._distributed_c10d import DebugLevel, get_debug_level
from torch.distributed import ReduceOp

from hpcllm.parallel.mpi_buffers import BITWISE, REDUCTIONS, flat_rows, flat_view, spec, together
from hpcllm.parallel.mpi_paths import find_paths
from hpcllm.parallel.mpi_waiting import Call, CollectiveMismatch, CollectiveTimeout
from hpcllm.parallel.mpi_work import Collective, Finished, Message, Together

NAME = "mpi4py"
GRACE_S = 5.0  # for the others to fail by themselves, before a failed rank ends them

_alive: set[MpiProcessGroup] = set()


class MpiProcessGroup(dist.ProcessGroup):
    """A process group over one MPI communicator. Made by `init_process_group("mpi4py")` and `new_group`."""

    def __init__(self, comm: MPI.Intracomm, timeout: timedelta) -> None:
        super().__init__(comm.rank, comm.size)  # type: ignore[call-arg]  # the form for subclasses
        self._comm = comm  # for messages that the program sends
        self._collectives = comm.Dup()
        self._paths = find_paths(self._collectives)
        self._timeout = timeout
        self._number = 0  # of collectives asked for
        self._checks = get_debug_level() == DebugLevel.DETAIL
        self._broken: Exception | None = None
        self._asked: deque[Collective] = deque()
        self._wake = threading.Semaphore(0)
        self._put_off = False
        self._closing = False
        self._running = threading.Lock()
        self._beside_compute = False
        self._messages: list[Message] = []
        self._together: list[dist.Work] | None = None
        self._group_name, self._group_desc = "", ""
        self._start_thread()

    # Collectives. torch calls them with lists of one tensor (or of several, where it coalesces).

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        op, factor = _operation(opts, tensors)
        return self._ask("all_reduce", opts, tensors, lambda: _each(self._all_reduce, tensors, op=op, factor=factor))

    allreduce_coalesced = allreduce

    def reduce(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        op, factor = _operation(opts, tensors)
        return self._ask(
            "reduce",
            opts,
            tensors,
            lambda: _each(self._reduce, tensors, op=op, factor=factor, root=opts.rootRank),
        )

    def broadcast(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        return self._ask("broadcast", opts, tensors, lambda: _each(self._broadcast, tensors, root=opts.rootRank))

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        every = [tensor for row in outputs for tensor in row]
        return self._ask("all_gather", opts, every, lambda: _each(self._all_gather, outputs, inputs))

    def allgather_coalesced(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        by_input = [list(column) for column in zip(*outputs, strict=True)]  # outputs hold a list for each rank
        return self.allgather(by_input, inputs, opts)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.all_gather_single_coalesced([output], [input], opts)

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask("all_gather", opts, outputs, lambda: _each(self._all_gather_single, outputs, inputs))

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> dist.Work:
        op, factor = _operation(opts, outputs)
        return self._ask(
            "reduce_scatter",
            opts,
            outputs,
            lambda: _each(self._reduce_scatter, outputs, inputs, op=op, factor=factor),
        )

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> dist.Work:
        op, factor = _operation(opts, outputs)
        return self._ask(
            "reduce_scatter",
            opts,
            outputs,
            lambda: _each(self._reduce_scatter_single, outputs, inputs, op=op, factor=factor),
        )

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> dist.Work:
        rows = outputs or [[] for _ in inputs]  # empty but on the root
        every = [tensor for row in rows for tensor in row]
        return self._ask("gather", opts, every, lambda: _each(self._gather, rows, inputs, root=opts.rootRank))

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> dist.Work:
        rows = inputs or [[] for _ in outputs]
        return self._ask("scatter", opts, outputs, lambda: _each(self._scatter, outputs, rows, root=opts.rootRank))

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask("all_to_all", opts, outputs, lambda: self._all_to_all(outputs, inputs))

    def all_to_all_single(
        self, output: Tensor, input: Tensor, output_splits: list[int], input_splits: list[int], opts: Any = None
    ) -> dist.Work:
        def run() -> None:
            _same(output, input, None)
            self._all_to_all(self._rows(output, output_splits), self._rows(input, input_splits))

        return self._ask("all_to_all", opts, [output], run)

    def barrier(self, opts: Any = None) -> dist.Work:
        return self._ask("barrier", opts, [], self._barrier)

    def monitored_barrier(self, timeout: timedelta | None = None, wait_all_ranks: bool = False) -> None:
        """A barrier whose error names the ranks that did not come. (`dist.monitored_barrier` takes gloo alone.)"""
        self._ask("barrier", _Blocking(timeout or self._timeout), [], self._barrier).wait()

    # The names that torch had for some of them before 2.13.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    # Messages from one rank to another go past the thread, so that a receive never holds up the send that it waits for.

    def send(self, tensors: list[Tensor], destination: int, tag: int) -> dist.Work:
        flat = _checked(tensors)[0].detach().contiguous()
        return self._sent(self._comm.Isend(spec(flat), destination, tag), flat, None, f"send to rank {destination}")

    def recv(self, tensors: list[Tensor], source: int, tag: int) -> dist.Work:
        tensor = _checked(tensors)[0].detach()
        flat = tensor.contiguous()
        who = "any rank" if source == MPI.ANY_SOURCE else f"rank {source}"
        return self._sent(self._comm.Irecv(spec(flat), source, tag), flat, tensor, f"receive from {who}, tag {tag}")

    def recv_anysource(self, tensors: list[Tensor], tag: int) -> dist.Work:
        return self.recv(tensors, MPI.ANY_SOURCE, tag)

    def _sent(self, request: MPI.Request, flat: Tensor, received: Tensor | None, words: str) -> dist.Work:
        words = f"{words} of group {self._title}"
        message = Message(request, flat, received, words, self._timeout.total_seconds(), _begin_all)
        self._messages = [other for other in self._messages if not other.is_completed()] + [message]
        return self._kept(message)

    # Several calls that are waited for as one.

    def _start_coalescing(self, device: torch.device) -> None:
        self._together = []

    def _end_coalescing(self, device: torch.device) -> dist.Work:
        works, self._together = self._together or [], None
        return Together(works)

    def _kept(self, work: dist.Work) -> dist.Work:
        if self._together is not None:
            self._together.append(work)
        return work

    # What is done with one tensor, in the group's thread or in the caller's.

    def _all_reduce(self, tensor: Tensor, op: Any, factor: Any) -> None:
        if tensor.layout == torch.sparse_coo:
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
        counts = [torch.zeros_like(numbers) for _ in range(self.size())]
        self._all_gather(counts, numbers)
        indices = [mine.indices().new_empty(mine.indices().shape[0], int(count)) for count in counts]
        values = [mine.values().new_empty(int(count), *mine.values().shape[1:]) for count in counts]
        self._all_gather(indices, mine.indices())
        self._all_gather(values, mine.values())
        entries = torch.cat(indices, dim=1), torch.cat(values)
        return torch.sparse_coo_tensor(*entries, tensor.shape, check_invariants=False).coalesce()

    def _reduce(self, tensor: Tensor, op: Any, factor: Any, root: int) -> None:
        with flat_view(tensor) as own:
            words = self._say(f"reduce to {root}", op, own)
            flat = own if factor is None else own * factor
            if self._paths.in_node:
                self._paths.in_node.reduce(flat, op, root, words)
            else:
                self._paths.network.reduce(flat, op, root)
            if factor is not None and self.rank() == root:
                own.copy_(flat)

    def _reduce_scatter_single(self, output: Tensor, input: Tensor, op: Any, factor: Any) -> None:
        _same(output, input, self.size())
        self._reduce_scatter(output, list(input.contiguous().view(self.size(), -1)), op, factor)

    def _reduce_scatter(self, output: Tensor, inputs: list[Tensor], op: Any, factor: Any) -> None:
        parts = [tensor.reshape(-1) if factor is None else tensor.reshape(-1) * factor for tensor in inputs]
        counts = [part.numel() for part in parts]
        _same(parts[self.rank()], output)
        words = self._say("reduce_scatter", op, output, counts)
        with flat_view(output) as flat:
            if self._paths.in_node:
                self._paths.in_node.reduce_scatter(parts, flat, op, words)
            else:
                self._paths.network.reduce_scatter(parts, flat, op)

    def _broadcast(self, tensor: Tensor, root: int) -> None:
        with flat_view(tensor) as flat:
            words = self._say(f"broadcast from {root}", None, flat)
            if self._paths.in_node:
                self._paths.in_node.broadcast(flat, root, words)
            else:
                self._paths.network.broadcast(flat, root)

    def _all_gather_single(self, output: Tensor, input: Tensor) -> None:
        _same(input, output, self.size())
        with flat_view(output) as flat:
            self._gather_everywhere(list(flat.view(self.size(), -1)), flat, input.contiguous().view(-1))

    def _all_gather(self, outputs: list[Tensor], input: Tensor) -> None:
        _same(input, outputs[self.rank()])
        with flat_rows(outputs, input) as (flat, counts):
            self._gather_everywhere(list(flat.split(counts)), flat, input.contiguous().view(-1))

    def _gather_everywhere(self, rows: list[Tensor], flat: Tensor, mine: Tensor) -> None:
        """Every rank's tensor into its row; `mine` may be its own already (FSDP hands in a part of the output)."""
        counts = [row.numel() for row in rows]
        words = self._say("all_gather", None, mine, counts)
        if self._paths.in_node:
            self._paths.in_node.all_gather(rows, mine, words)
            return
        if rows[self.rank()].data_ptr() != mine.data_ptr():
            rows[self.rank()].copy_(mine)
        self._paths.network.all_gather(flat, counts)

    def _gather(self, outputs: list[Tensor], input: Tensor, root: int) -> None:
        self._say(f"gather to {root}", None, input, [])
        if self.rank() != root:
            self._paths.network.gather(input.contiguous(), None, None, root)
            return
        with flat_rows(outputs, input) as (flat, counts):
            self._paths.network.gather(input.contiguous(), flat, counts, root)

    def _scatter(self, output: Tensor, inputs: list[Tensor], root: int) -> None:
        self._say(f"scatter from {root}", None, output, [])
        with flat_view(output) as flat:
            mine = self.rank() == root
            counts = [tensor.numel() for tensor in inputs] if mine else None
            self._paths.network.scatter(together(inputs) if mine else None, counts, flat, root)

    def _all_to_all(self, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        self._say("all_to_all", None, inputs[0], [])
        counts = [tensor.numel() for tensor in inputs]
        with flat_rows(outputs, inputs[0]) as (flat, output_counts):
            self._paths.network.all_to_all(together(inputs), counts, flat, output_counts)

    def _barrier(self) -> None:
        words = self._say("barrier", None, None)
        if self._paths.in_node:
            self._paths.in_node.barrier(words)
        else:
            self._paths.network.barrier()

    def _rows(self, tensor: Tensor, sizes: list[int]) -> list[Tensor]:
        """A tensor cut along its first dimension: one part a rank, equal ones where no sizes are given."""
        if not sizes and tensor.shape[0] % self.size():
            raise ValueError(f"all_to_all: {tensor.shape[0]} rows cannot be cut into {self.size()} equal parts")
        return list(tensor.split(sizes or [tensor.shape[0] // self.size()] * self.size()))

    def _say(self, name: str, op: Any, like: Tensor | None, counts: list[int] | None = None) -> str:
        """A collective in words, the same on all ranks. With TORCH_DISTRIBUTED_DEBUG=DETAIL they are compared."""
        size = "" if like is None else f" {str(like.dtype)[6:]} {[like.numel()] if counts is None else counts}"
        words = f"{name}{'' if op is None else f' by {op.name}'}{size}"
        if self._checks:
            self._paths.network.check(words)
        return words

    # Who does it, and when.

    def _ask(self, name: str, opts: Any, tensors: list[Tensor], run: Callable[[], object]) -> dist.Work:
        """A blocking call is run by its caller, at once; any other by the group's thread, or by who waits for it first.

        The Work is done, or raises in wait(), when it has run. All is run in the order in which it was asked for.
        """
        _checked(tensors, sparse=name == "all_reduce")
        self._number += 1
        call = Call(name, self._number, self._title, _timeout_s(opts, self._timeout))
        if opts is not None and not opts.asyncOp:
            return self._kept(self._at_once(call, tensors, run))
        collective = Collective(lambda: self._run(call, run), tensors, self._lend_a_hand)
        self._asked.append(collective)
        if self._overlaps or not _during_backward():
            self._wake.release()
        elif not self._put_off:
            self._put_off = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end_of_backward)
        return self._kept(collective)

    @property
    def _overlaps(self) -> bool:
        """Whether anything is gained by running a collective beside the backward pass that asked for it.

        Nothing is where all goes through memory and the thread has no core of its own: the same core would do both,
        and change between them at every piece.
        """
        return not (self._paths.in_node and self._paths.wait.shares_its_core)

    def _begin(self) -> None:
        """Let the thread run what was put off."""
        if self._put_off:
            self._put_off = False
            self._wake.release(max(1, len(self._asked)))

    def _end_of_backward(self) -> None:
        """Run what was put off: at once where this group alone has something, and no order of groups can be wrong."""
        if any(group._asked for group in _alive if group is not self):
            _begin_all()
            return
        self._put_off = False
        while self._lend_a_hand():
            pass

    def _at_once(self, call: Call, tensors: list[Tensor], run: Callable[[], object]) -> dist.Work:
        while self._lend_a_hand():
            pass
        try:
            with self._running, torch.inference_mode():
                self._run(call, run)
        except Exception as error:  # wait() raises it, as it does those of the thread
            return Finished(tensors, error)
        return Finished(tensors)

    def _lend_a_hand(self) -> bool:
        """A thread that has to wait runs what is next itself. False if there is nothing."""
        _begin_all(but=self)
        with self._paths.wait.hurried():
            return self._run_next(beside_compute=False)

    def _run_next(self, *, beside_compute: bool) -> bool:
        """Run what was asked for first and is not begun; False if there is nothing."""
        with self._running:
            if not self._asked:
                return False
            self._beside_compute = beside_compute
            self._asked.popleft().start()
            self._beside_compute = False
        return True

    def _run(self, call: Call, run: Callable[[], object]) -> None:
        with self._paths.wait.during(call, beside_compute=self._beside_compute):
            if self._broken is not None:
                raise RuntimeError(f"mpi4py backend: {call}: this group is broken since: {self._broken}")
            try:
                run()
            except (CollectiveTimeout, CollectiveMismatch, MPI.Exception) as error:
                self._broken = error  # the ranks are no longer at the same place
                raise

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
        while not self._closing:
            self._wake.acquire()
            self._run_next(beside_compute=True)

    def is_busy(self) -> bool:
        """Whether a collective was asked for and has not ended."""
        return bool(self._asked) or self._running.locked()

    def shutdown(self) -> None:
        """Finish what was asked for and free the communicator; all ranks of the group call it."""
        if self in _alive:
            while self._lend_a_hand():
                pass
            _alive.remove(self)
            self._closing = True
            self._wake.release()
            self._thread.join()
            if self._broken is None:  # freeing is a collective too
                self._paths.free()
                self._collectives.Free()
                self._comm.Free()

    abort = shutdown

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout = timeout

    def _get_sequence_number_for_group(self) -> int:
        return self._number

    @property
    def _title(self) -> str:
        return self._group_desc or self._group_name or "default"

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
        return True

    def split_group(self, ranks: list[int], timeout: timedelta | None = None, **named: Any) -> MpiProcessGroup | None:
        """A group of some ranks of this one, made by them alone; None on a rank that is not among them.

        `dist.split_group` asks for an accelerator (torch 2.13); this is what it would call.
        """
        if self.rank() not in ranks:
            return None
        comm = self._comm.Create_group(self._comm.group.Incl(ranks), _tag(named.get("group_name") or ""))
        group = MpiProcessGroup(comm, timeout or self._timeout)
        group._set_group_name(named.get("group_name") or "")
        group._set_group_desc(named.get("group_desc") or "")
        return group

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
    comm = world.Create_group(world.group.Incl(ranks), _tag(options.group_id)) if ranks else world.Dup()
    return MpiProcessGroup(comm, options.timeout)


def _tag(name: str) -> int:
    """Tells apart groups that are made at the same time."""
    return zlib.crc32(name.encode()) % 2**15


def _during_backward() -> bool:
    running: int = torch._C._current_graph_task_id()
    return running != -1


def _begin_all(but: MpiProcessGroup | None = None) -> None:
    """Before a rank waits for anything: others may wait for what it has put off."""
    for group in tuple(_alive):
        if group is not but:
            group._begin()


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


def _operation(opts: Any, tensors: list[Tensor]) -> tuple[Any, Any]:
    """The reduction that torch's options name, and what each rank multiplies its tensor by before (None: nothing).

    Raises ValueError for a reduction that cannot be done.
    """
    op, factor = (ReduceOp.SUM if opts is None else opts.reduceOp.op), None
    if op == ReduceOp.PREMUL_SUM:
        op, factor = ReduceOp.SUM, opts.reduceOp.__getstate__()[1]
        _floating("a pre-multiplied sum", tensors)
    if op not in REDUCTIONS:
        raise ValueError(f"mpi4py backend: found {op}; it reduces by {', '.join(known.name for known in REDUCTIONS)}")
    if op == ReduceOp.AVG:
        _floating("AVG", tensors)
    if op in BITWISE and any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise ValueError(f"mpi4py backend: {op.name} of {tensors[0].dtype}; it is for integers and bool")
    return op, factor


def _floating(what: str, tensors: list[Tensor]) -> None:
    if not all(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        raise ValueError(f"mpi4py backend: {what} of {tensors[0].dtype}; reduce by SUM and divide")


def _timeout_s(opts: Any, usual: timedelta) -> float:
    """What the call allows, or the group; torch's options hold a negative time where nothing was said."""
    own = None if opts is None else opts.timeout
    return (usual if own is None or own <= timedelta(0) else own).total_seconds()


@dataclass(frozen=True)
class _Blocking:
    """Options of a call that its caller waits for."""

    timeout: timedelta
    asyncOp: bool = False  # noqa: N815  # torch's name


def _checked(tensors: list[Tensor], *, sparse: bool = False) -> list[Tensor]:
    layouts = (torch.strided, torch.sparse_coo) if sparse else (torch.strided,)
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.layout not in layouts:
            raise ValueError(
                f"mpi4py backend: found a {tensor.layout} tensor on {tensor.device}; it moves dense CPU tensors, and "
                "all-reduces sparse_coo ones (nccl moves those on a GPU)"
            )
    return tensors


def _same(one: Tensor, other: Tensor, times: int | None = 1) -> None:
    """Raises ValueError unless `other` has the type of `one`, and `times` its size (None: any size)."""
    if one.dtype != other.dtype:
        raise ValueError(f"mpi4py backend: found tensors of {one.dtype} and {other.dtype} where one type belongs")
    if times is not None and other.numel() != one.numel() * times:
        wanted = one.numel() * times
        raise ValueError(f"mpi4py backend: found a tensor of {other.numel()} elements where {wanted} belong")


dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])
atexit.register(_at_exit)
