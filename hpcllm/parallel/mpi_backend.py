"""torch.distributed over MPI, from PyPI's own torch: a process group written in Python on mpi4py.

    import hpcllm.parallel.mpi_backend  # registers the backend
    dist.init_process_group("mpi4py")   # in each rank that mpirun or srun started

This is the group as torch sees it; its parts are in `mpi/`. Data go through shared memory inside a node, over MPI
between nodes (`mpi/paths.py`); collectives are run by their callers, or beside what they compute (`mpi/turns.py`).

**Reductions are ours, not MPI's.** Ranks exchange slices, each adds its slice *in rank order* (of several nodes with
several ranks: inside each node first), and hands it round. The volume is that of a ring, 2(n−1)/n of the tensor in and
out of each rank; and the bits of a result depend on the inputs and the placement of the ranks alone. 16-bit floats
travel in 16 bits and are added in 32.

It needs MPI_THREAD_MULTIPLE and takes CPU tensors. A collective that takes longer than the group's timeout ends, and
names the ranks that did not come. A rank that dies of an exception ends the others too.
"""

# The methods are torch's, which documents them, overloads them in its stubs, and types few of its functions:
# ruff: noqa: D102
# mypy: allow-untyped-calls
# mypy: disable-error-code="override, assignment"

from __future__ import annotations

import atexit
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor
from torch._C._distributed_c10d import DebugLevel, get_debug_level

from hpcllm.parallel.mpi.arguments import checked, operation, same, timeout_s
from hpcllm.parallel.mpi.buffers import spec
from hpcllm.parallel.mpi.operations import Operations
from hpcllm.parallel.mpi.paths import find_paths
from hpcllm.parallel.mpi.turns import Turns, begin_all, busy
from hpcllm.parallel.mpi.waiting import Call
from hpcllm.parallel.mpi.work import Message, Together

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
        self._turns = Turns(self._paths.wait, in_memory=self._paths.in_node is not None)
        compares = get_debug_level() == DebugLevel.DETAIL
        self._do = Operations(self._paths, comm.rank, comm.size, compares=compares)
        self._timeout = timeout
        self._number = 0  # of collectives asked for
        self._messages: list[Message] = []
        self._together: list[dist.Work] | None = None
        self._group_name, self._group_desc = "", ""
        _alive.add(self)

    # Collectives. torch calls them with lists of one tensor (or of several, where it coalesces).

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask_to_reduce("all_reduce", opts, tensors, self._do.all_reduce, tensors)

    allreduce_coalesced = allreduce

    def reduce(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        return self._ask_to_reduce("reduce", opts, tensors, self._do.reduce, tensors, root=opts.rootRank)

    def broadcast(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        return self._ask("broadcast", opts, tensors, lambda: _each(self._do.broadcast, tensors, root=opts.rootRank))

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        every = [tensor for row in outputs for tensor in row]
        return self._ask("all_gather", opts, every, lambda: _each(self._do.all_gather, outputs, inputs))

    def allgather_coalesced(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        by_input = [list(column) for column in zip(*outputs, strict=True)]  # outputs hold a list for each rank
        return self.allgather(by_input, inputs, opts)

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.all_gather_single_coalesced([output], [input], opts)

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask("all_gather", opts, outputs, lambda: _each(self._do.all_gather_single, outputs, inputs))

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> dist.Work:
        return self._ask_to_reduce("reduce_scatter", opts, outputs, self._do.reduce_scatter, outputs, inputs)

    def reduce_scatter_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> dist.Work:
        return self._ask_to_reduce("reduce_scatter", opts, outputs, self._do.reduce_scatter_single, outputs, inputs)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> dist.Work:
        rows = outputs or [[] for _ in inputs]  # empty but on the root
        every = [tensor for row in rows for tensor in row]
        return self._ask("gather", opts, every, lambda: _each(self._do.gather, rows, inputs, root=opts.rootRank))

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> dist.Work:
        rows = inputs or [[] for _ in outputs]
        return self._ask("scatter", opts, outputs, lambda: _each(self._do.scatter, outputs, rows, root=opts.rootRank))

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._ask("all_to_all", opts, outputs, lambda: self._do.all_to_all(outputs, inputs))

    def all_to_all_single(
        self, output: Tensor, input: Tensor, output_splits: list[int], input_splits: list[int], opts: Any = None
    ) -> dist.Work:
        def run() -> None:
            same(output, input, None)
            self._do.all_to_all(self._do.rows(output, output_splits), self._do.rows(input, input_splits))

        return self._ask("all_to_all", opts, [output], run)

    def barrier(self, opts: Any = None) -> dist.Work:
        return self._ask("barrier", opts, [], self._do.barrier)

    def monitored_barrier(self, timeout: timedelta | None = None, wait_all_ranks: bool = False) -> None:
        """A barrier whose error names the ranks that did not come. (`dist.monitored_barrier` takes gloo alone.)"""
        self._ask("barrier", _Blocking(timeout or self._timeout), [], self._do.barrier).wait()

    # The names that torch had for some of them before 2.13.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    # Messages from one rank to another go past the thread, so that a receive never holds up the send that it waits for.

    def send(self, tensors: list[Tensor], destination: int, tag: int) -> dist.Work:
        flat = checked(tensors)[0].detach().contiguous()
        return self._sent(self._comm.Isend(spec(flat), destination, tag), flat, None, f"send to rank {destination}")

    def recv(self, tensors: list[Tensor], source: int, tag: int) -> dist.Work:
        tensor = checked(tensors)[0].detach()
        flat = tensor.contiguous()
        who = "any rank" if source == MPI.ANY_SOURCE else f"rank {source}"
        return self._sent(self._comm.Irecv(spec(flat), source, tag), flat, tensor, f"receive from {who}, tag {tag}")

    def recv_anysource(self, tensors: list[Tensor], tag: int) -> dist.Work:
        return self.recv(tensors, MPI.ANY_SOURCE, tag)

    def _sent(self, request: MPI.Request, flat: Tensor, received: Tensor | None, words: str) -> dist.Work:
        words = f"{words} of group {self._title}"
        message = Message(request, flat, received, words, self._timeout.total_seconds(), begin_all)
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

    def _ask_to_reduce(
        self,
        name: str,
        opts: Any,
        tensors: list[Tensor],
        run: Callable[..., None],
        *columns: Sequence[Any],
        **given: Any,
    ) -> dist.Work:
        op, factor = operation(opts, tensors)
        return self._ask(name, opts, tensors, lambda: _each(run, *columns, op=op, factor=factor, **given))

    def _ask(self, name: str, opts: Any, tensors: list[Tensor], run: Callable[[], object]) -> dist.Work:
        checked(tensors, sparse=name == "all_reduce")
        self._number += 1
        call = Call(name, self._number, self._title, timeout_s(opts, self._timeout))
        blocking = opts is not None and not opts.asyncOp
        return self._kept((self._turns.at_once if blocking else self._turns.later)(call, tensors, run))

    def shutdown(self) -> None:
        """Finish what was asked for and free the communicators; all ranks of the group call it.

        While an exception goes up, nothing is done: a program that ends of it ends the other ranks (`_at_exit`).
        """
        error_on_its_way = sys.exc_info()[0] is not None  # then others may never come to free anything
        if self in _alive and not error_on_its_way:
            _alive.remove(self)
            self._turns.end()
            if self._turns.broken is None:  # freeing is a collective too
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


def _at_exit() -> None:
    """Never let MPI_Finalize wait for ranks that wait for this one."""
    died = getattr(sys, "last_value", None) is not None  # of an exception that nobody caught
    if _alive and (died or busy()) and not (_all_ranks_end() and not busy()):
        rank = MPI.COMM_WORLD.rank
        print(f"mpi4py backend: rank {rank} failed and others wait for it: ending all", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)


def _all_ranks_end() -> bool:
    everybody = MPI.COMM_WORLD.Ibarrier()
    deadline = time.monotonic() + GRACE_S
    while not everybody.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass(frozen=True)
class _Blocking:
    """Options of a call that its caller waits for."""

    timeout: timedelta
    asyncOp: bool = False  # noqa: N815  # torch's name


def _each(run: Callable[..., None], *columns: Sequence[Any], **options: Any) -> None:
    for row in zip(*columns, strict=True):
        run(*row, **options)


dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])
atexit.register(_at_exit)
