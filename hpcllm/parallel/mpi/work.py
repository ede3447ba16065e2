"""What a call of torch.distributed gives back: a Work to wait for. Errors are raised by wait()."""

# torch documents these methods, and types few of its functions:
# ruff: noqa: D102
# mypy: allow-untyped-calls
# mypy: disable-error-code="override"

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor
from torch.futures import Future

from hpcllm.parallel.mpi.waiting import NAP_S, SPINS, TICK_S, CollectiveTimeout


class Collective(dist.Work):
    """A collective that was asked for. Its future holds the tensors, or the error.

    Who waits for it lends a hand: `run_next` runs what was asked for and is not begun, False if there is nothing.
    """

    def __init__(self, run: Callable[[], object], tensors: list[Tensor], run_next: Callable[[], bool]) -> None:
        super().__init__()
        self._error: Exception | None = None
        self._run_next = run_next
        self._asked: Future[None] = Future()
        self._run, self._tensors = run, tensors
        # Only what a callback raises becomes an error of the future that C++ sees (DDP); set_exception sets a value.
        self._done = self._asked.then(lambda _: self._outcome())

    def run(self) -> None:
        """Run it to its end, in the thread that calls; `finish` tells those that wait."""
        try:
            with torch.inference_mode():
                self._run()
        except Exception as error:
            self._error = error

    def finish(self) -> None:
        """Fulfil the future. What others have hung on it is run here, and may ask for collectives itself."""
        self._asked.set_result(None)

    def _outcome(self) -> list[Tensor]:
        if self._error is not None:
            raise self._error
        return self._tensors

    def wait(self, timeout: timedelta | None = None) -> bool:
        while not self._done.done() and self._run_next():
            pass
        try:
            self._done.wait()
        except RuntimeError as error:
            raise (self._error or error) from None
        return True

    def get_future(self) -> Future[list[Tensor]]:
        return self._done

    def result(self) -> list[Tensor]:
        return self._done.value()

    def is_completed(self) -> bool:
        return self._done.done()

    def is_success(self) -> bool:
        return self.is_completed() and self._error is None

    def exception(self) -> Exception | None:
        return self._error


class Finished(dist.Work):
    """A collective that the caller itself has run to its end, or to its error."""

    def __init__(self, tensors: list[Tensor], error: Exception | None = None) -> None:
        super().__init__()
        self._tensors, self._error = tensors, error

    def wait(self, timeout: timedelta | None = None) -> bool:
        if self._error is not None:
            raise self._error
        return True

    def get_future(self) -> Future[list[Tensor]]:
        done: Future[None] = Future()
        done.set_result(None)
        return done.then(lambda _: self.result())

    def result(self) -> list[Tensor]:
        self.wait()
        return self._tensors

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return self._error is None

    def exception(self) -> Exception | None:
        return self._error


class Together(dist.Work):
    """Several Works as one."""

    def __init__(self, works: Sequence[dist.Work]) -> None:
        super().__init__()
        self._works = works

    def wait(self, timeout: timedelta | None = None) -> bool:
        return all(work.wait() for work in self._works)

    def get_future(self) -> Future[list[Tensor]]:
        done: Future[list[Tensor]] = Future()
        done.set_result([])
        return done.then(lambda _: self.result())

    def result(self) -> list[Tensor]:
        self.wait()
        return [tensor for work in self._works for tensor in work.result()]

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def is_success(self) -> bool:
        return all(work.is_success() for work in self._works)

    def exception(self) -> Exception | None:
        return next((error for work in self._works if (error := work.exception()) is not None), None)


class Message(dist.Work):
    """A send or a receive under way. MPI drives it while anybody waits for anything."""

    def __init__(
        self,
        request: MPI.Request,
        flat: Tensor,
        received: Tensor | None,
        words: str,
        timeout_s: float,
        before_waiting: Callable[[], None],
    ) -> None:
        super().__init__()
        self._before_waiting = before_waiting
        self._request = request
        self._flat = flat  # MPI reads or writes it until the request is complete
        self._received = received
        self._status = MPI.Status()
        self._complete = False
        self._words, self._timeout_s = words, timeout_s

    def wait(self, timeout: timedelta | None = None) -> bool:
        self._before_waiting()
        allowed_s = timeout.total_seconds() if timeout is not None and timeout > timedelta(0) else self._timeout_s
        for _ in range(SPINS):
            if self.is_completed():
                return True
        start, nap_s = time.monotonic(), NAP_S
        while not self.is_completed():
            if time.monotonic() > start + allowed_s:
                raise CollectiveTimeout(f"mpi4py backend: {self._words}: not done within {allowed_s:g} s")
            time.sleep(nap_s)
            nap_s = min(nap_s * 1.1, TICK_S / 100)
        return True

    def is_completed(self) -> bool:
        if not self._complete and self._request.Test(self._status):  # a second test would forget who sent it
            self._complete = True
            self._finish()
        return self._complete

    def is_success(self) -> bool:
        return self.is_completed()

    def exception(self) -> Exception | None:
        return None

    def _finish(self) -> None:
        if self._received is not None and self._received.data_ptr() != self._flat.data_ptr():
            self._received.copy_(self._flat)
        self._received = None

    def _source_rank(self) -> int:
        return self._status.Get_source()
