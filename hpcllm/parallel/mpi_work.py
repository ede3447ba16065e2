"""What a call of torch.distributed gives back: a Work to wait for. Errors are raised by wait()."""

# torch documents these methods, and types few of its functions:
# ruff: noqa: D102
# mypy: allow-untyped-calls
# mypy: disable-error-code="override"

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor
from torch.futures import Future


class Collective(dist.Work):
    """A collective that was asked for. Its future holds the tensors, or the error."""

    def __init__(self, run: Callable[[], object], tensors: list[Tensor]) -> None:
        super().__init__()
        self._error: Exception | None = None
        self._asked: Future[None] = Future()
        # Only what a callback raises becomes an error of the future that C++ sees (DDP); set_exception sets a value.
        self._done = self._asked.then(lambda _: self._run(run, tensors))

    def start(self) -> None:
        """Run it, in the thread that calls."""
        self._asked.set_result(None)

    def _run(self, run: Callable[[], object], tensors: list[Tensor]) -> list[Tensor]:
        try:
            with torch.inference_mode():
                run()
        except Exception as error:
            self._error = error
            raise
        return tensors

    def wait(self, timeout: timedelta | None = None) -> bool:
        try:
            self._done.wait()
        except RuntimeError as error:
            raise (self._error or error) from None
        return True

    def get_future(self) -> Future[list[Tensor]]:
        return self._done

    def is_completed(self) -> bool:
        return self._done.done()

    def exception(self) -> Exception | None:
        return self._error


class Message(dist.Work):
    """A send or a receive under way. MPI drives it while anybody waits for anything."""

    def __init__(self, request: MPI.Request, flat: Tensor, received: Tensor | None = None) -> None:
        super().__init__()
        self._request = request
        self._flat = flat  # MPI reads or writes it until the request is complete
        self._received = received
        self._status = MPI.Status()

    def wait(self, timeout: timedelta | None = None) -> bool:
        self._request.Wait(self._status)
        self._finish()
        return True

    def is_completed(self) -> bool:
        done = self._request.Test(self._status)
        if done:
            self._finish()
        return done

    def _finish(self) -> None:
        if self._received is not None and self._received.data_ptr() != self._flat.data_ptr():
            self._received.copy_(self._flat)
        self._received = None

    def _source_rank(self) -> int:
        return self._status.Get_source()
