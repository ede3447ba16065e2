"""Signals that ask to stop: they raise a flag, which the loop looks at once a step, together with all ranks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Slurm's warning before the time limit is the one of --signal (USR2 in our scripts), before preemption it is TERM;
# Ctrl-C is INT.


class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside the block these signals are noted instead of obeyed; afterwards they do what they did before."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
