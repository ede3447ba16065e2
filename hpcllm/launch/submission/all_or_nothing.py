"""Jobs to Slurm, all of them or none: what breaks a submission off takes its jobs out of the queue again.

A job is known to Slurm before its id stands in jobs.json. So signals wait until an id is noted, and what Slurm took
without saying so in time is found in the queue by its script.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hpcllm.errors import HpcllmError, Interrupted, UserError
from hpcllm.launch.pipeline import Stage
from hpcllm.launch.scripts.dag_scripts import sbatch_tokens
from hpcllm.launch.submission.chain import SEPARATOR, Link
from hpcllm.launch.tracking.slurm import scancel, slurm
from hpcllm.run_directory import Run

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Sbatch = Callable[[Sequence[str]], str]
"""Submits a command and gives the id of its job; of a dry run, what stands for it."""


def hand_in(run: Run, stage: Stage, after: Sequence[str], num_jobs: int, sbatch: Sbatch) -> str:
    """The jobs of a stage, one after another where they are a chain. Their ids, `5:6:7`.

    `after`: the jobs or chains that must succeed before.
    """
    own: list[str] = []
    for number in range(1, num_jobs + 1):
        own.append(sbatch(sbatch_tokens(run, stage, after, link=Link(number, num_jobs, tuple(own)))))
    return SEPARATOR.join(own)


@contextmanager
def all_or_nothing(unsaid: Callable[[], Sequence[str]]) -> Iterator[Sbatch]:
    """A block that submits by what it is given. Raises what broke it off, when nothing of it is left in the queue.

    `unsaid`: the jobs in the queue then that nobody noted.
    """
    made: list[str] = []
    with _signals_wait() as stop_if_told:

        def submit(tokens: Sequence[str]) -> str:
            made.append(sbatch(tokens))
            stop_if_told()
            return made[-1]

        try:
            yield submit
        except BaseException as error:
            _withdraw(list(dict.fromkeys([*reversed(made), *unsaid()])), error)
            raise


def sbatch(tokens: Sequence[str]) -> str:
    """The id that sbatch gives. Raises UserError with its words."""
    done = slurm(tokens)
    if done.returncode:
        script = next((word for word in reversed(tokens) if word.endswith(".sbatch")), tokens[-1])
        raise UserError(f"{script}: sbatch refuses it: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]


@contextmanager
def _signals_wait() -> Iterator[Callable[[], None]]:
    """A signal waits until the block asks, so that none falls between a job and its id. It asks by what it is given.

    Outside of the main thread Python has no handlers; so none here.
    """
    told: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, lambda got, _: told.append(got)) for number in _SIGNALS if main}

    def stop_if_told() -> None:
        if told:
            raise Interrupted(f"stopped by {signal.Signals(told[0]).name}: nothing of this call stays in the queue")

    try:
        yield stop_if_told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _withdraw(job_ids: Sequence[str], error: BaseException) -> None:
    """Cancel what a call submitted before `error` broke it off. Raises HpcllmError when Slurm does not."""
    try:
        if job_ids:
            scancel(job_ids)
    except HpcllmError as problem:
        raise HpcllmError(f"{error}; then {problem}; cancel by hand: scancel {' '.join(job_ids)}") from error
