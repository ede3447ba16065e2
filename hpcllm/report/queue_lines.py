"""The queues that a job could go to, a line each: what speaks for and against each of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from hpcllm.launch.submission.choose import Queue
from hpcllm.units import format_seconds

SOON_S = 60.0


def queue_lines(queues: Sequence[Queue], now_s: float | None = None) -> list[str]:
    """The best first, and marked; those that cannot run the job last."""
    now_s = time.time() if now_s is None else now_s
    names = [queue.partition + (f" {queue.qos}" if queue.qos else "") for queue in queues]
    width = max(map(len, names), default=0)
    return [
        f"{'queue' if i == 0 else '':8} {'*' if i == 0 else ' '} {name:{width}}  {_said(queue, now_s)}"
        for i, (name, queue) in enumerate(zip(names, queues, strict=True))
    ]


def _said(queue: Queue, now_s: float) -> str:
    if queue.refusal:
        return f"cannot: {' '.join(queue.refusal.split())}"
    return ", ".join(_words(queue, now_s))


def _words(queue: Queue, now_s: float) -> Iterator[str]:
    if queue.start_s is not None:
        wait_s = queue.start_s - now_s
        yield "starts now" if wait_s < SOON_S else f"starts in {format_seconds(wait_s)}"
    each = format_seconds(queue.time_s)
    yield f"a job of {each}" if queue.jobs == 1 else f"{queue.jobs} jobs of {each} one after another"
    if queue.is_cut:
        yield "which is its limit"
    if queue.too_many:
        yield "more than slurm.max_requeues allows"
    if queue.wasted:
        yield f"{queue.wasted:.0%} of its nodes idle"
    if queue.preemptible:
        yield "can be preempted"
    if queue.special:
        yield "for special use"
