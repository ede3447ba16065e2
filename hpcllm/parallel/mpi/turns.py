"""Who runs a collective, and when: its caller, the group's own thread, or whoever waits for it first.

All collectives of a group are run one at a time, in the order in which they were asked for. A blocking call is run by
its caller. Others are run by the thread, beside what the program computes, until somebody waits for one: then that one
runs what is next itself, rather than sleep while the thread wakes.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from hpcllm.parallel.mpi.waiting import Call, Wait
from hpcllm.parallel.mpi.work import Collective, Finished

OURS = "hpcllm.parallel.mpi"  # how the names of the backend's modules begin

_alive: set[Turns] = set()


class Turns:
    """The order of one group's collectives."""

    def __init__(self, wait: Wait, *, in_memory: bool) -> None:
        """`in_memory`: all of the group's data go through the memory of a node."""
        self._wait = wait
        self._in_memory = in_memory
        self.broken: Exception | None = None
        """Why the ranks are no longer at the same place; nothing is run any more."""
        self._asked: deque[Collective] = deque()
        self._wake = threading.Semaphore(0)
        self._put_off: int | None = None
        """The backward pass at whose end begins what it asked for."""
        self._closing = False
        self._running = threading.Lock()
        self._beside_compute = False
        self._start_thread()

    def later(self, call: Call, tensors: list[Tensor], run: Callable[[], object]) -> dist.Work:
        """Ask for it. The Work is done, or raises in wait(), when it has run."""
        collective = Collective(lambda: self._run(call, run), tensors, self.lend_a_hand)
        self._asked.append(collective)
        backward = None if self._overlaps else _backward_of_reducer()
        if backward is None:
            self._wake.release()
        elif self._put_off != backward:
            self._put_off = backward
            torch.autograd.Variable._execution_engine.queue_callback(self._end_of_backward)
        return collective

    @property
    def _overlaps(self) -> bool:
        """Whether anything is gained by running a collective beside the backward pass that asked for it.

        Nothing is where all goes through memory and the thread has no core of its own: the same core would do both,
        and change between them at every piece.
        """
        return not (self._in_memory and self._wait.shares_its_core)

    def _begin(self) -> None:
        """Let the thread run what was put off."""
        if self._put_off is not None:
            self._put_off = None
            self._wake.release(max(1, len(self._asked)))

    def _end_of_backward(self) -> None:
        """Run what was put off: at once where this group alone has something, and no order of groups can be wrong."""
        if any(other._asked for other in _alive if other is not self):
            begin_all()
            return
        self._put_off = None
        while self.lend_a_hand():
            pass

    def at_once(self, call: Call, tensors: list[Tensor], run: Callable[[], object]) -> dist.Work:
        """Run it in this thread, behind all that was asked for before."""
        while self.lend_a_hand():
            pass
        try:
            with self._running, torch.inference_mode():
                self._run(call, run)
        except Exception as error:  # wait() raises it, as it does those of the thread
            return Finished(tensors, error)
        return Finished(tensors)

    def lend_a_hand(self) -> bool:
        """A thread that has to wait runs what is next itself. False if there is nothing."""
        begin_all(but=self)
        with self._wait.hurried():
            return self._run_next(beside_compute=False)

    def _run_next(self, *, beside_compute: bool) -> bool:
        """Run what was asked for first and is not begun; False if there is nothing."""
        with self._running:
            if not self._asked:
                return False
            self._beside_compute = beside_compute
            collective = self._asked.popleft()
            collective.run()
            self._beside_compute = False
        collective.finish()
        return True

    def _run(self, call: Call, run: Callable[[], object]) -> None:
        with self._wait.during(call, beside_compute=self._beside_compute):
            if self.broken is not None:
                raise RuntimeError(f"mpi4py backend: {call}: this group is broken since: {self.broken}")
            try:
                run()
            except (ValueError, TypeError):  # before anything was sent
                raise
            except Exception as error:  # the ranks may no longer be at the same place
                self.broken = error
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

    def end(self) -> None:
        """Finish what was asked for, and the thread."""
        while self.lend_a_hand():
            pass
        _alive.discard(self)
        self._closing = True
        self._wake.release()
        self._thread.join()


def _backward_of_reducer() -> int | None:
    """The backward pass in which DDP's reducer, which is C++, asks for a collective; None if anybody else does.

    The reducer looks at what it asked for when backward is over. A communication hook in Python may do so earlier.
    """
    backward: int = torch._C._current_graph_task_id()
    if backward == -1:
        return None
    asking = sys._getframe(1)
    while asking.f_back is not None and asking.f_globals["__name__"].startswith(OURS):
        asking = asking.f_back
    return backward if asking.f_code.co_name == "_engine_run_backward" else None


def begin_all(but: Turns | None = None) -> None:
    """Before a rank waits for anything: others may wait for what it has put off."""
    for turns in tuple(_alive):
        if turns is not but:
            turns._begin()


def busy() -> bool:
    """Whether any group has a collective that was asked for and has not ended."""
    return any(turns.is_busy() for turns in _alive)
