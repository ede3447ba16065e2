"""An iterator that works ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items, up to `depth` of them made before they are asked for.

    What the thread raises is raised here. Closing the iterator (`close()`, or leaving it behind) ends the thread.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    closed = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, closed), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        thread.join()


def _fill(
    items: Iterator[T], ready: queue.Queue[tuple[T | None, BaseException | None]], closed: threading.Event
) -> None:
    while not closed.is_set():
        entry: tuple[T | None, BaseException | None]
        try:
            entry = (next(items), None)
        except BaseException as error:
            entry = (None, error)
        _put(ready, entry, closed)
        if entry[1] is not None:
            return


def _put(ready: queue.Queue[T], entry: T, closed: threading.Event) -> None:
    """Wait for a place in the queue, but not for ever: nobody takes from it once it is closed."""
    while not closed.is_set():
        try:
            ready.put(entry, timeout=0.1)
            return
        except queue.Full:
            continue
