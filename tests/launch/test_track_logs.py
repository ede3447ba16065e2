"""Following the logs of a run that goes on, without a scheduler."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import pytest

from hpcllm.launch.tracking.follow import follow
from hpcllm.launch.tracking.track import StageStatus
from hpcllm.run_directory import Run, write_json


def record(run: Run, outcome: str) -> None:
    write_json(
        run.state_json("10-tokenizer"),
        {
            **{
                "stage": "tokenizer",
                "key": None,
                "attempt": 1,
                "outcome": outcome,
                "message": "boom" if outcome == "failed" else "",
            },
            **{"job_id": None, "host": socket.gethostname(), "pid": os.getpid(), "world_size": 1, "hosts": ["here"]},
            **{"exit_code": 1, "start": time.time(), "end": None if outcome == "running" else time.time()},
        },
    )


def acts(*steps: Callable[[], object]) -> Callable[[float], None]:
    """A sleep that does the next step each time."""
    left = list(steps)
    return lambda _: left.pop(0)() and None if left else pytest.fail("follow goes on for ever")


def append(run: Run, attempt: int | str, text: str) -> Callable[[], object]:
    def write() -> None:
        run.logs.mkdir(exist_ok=True)
        with run.log("10-tokenizer", attempt).open("a") as file:
            file.write(text)

    return write


def test_lines_come_whole_from_attempt_to_attempt_and_it_ends_with_the_stage(demo_run: Run) -> None:
    record(demo_run, "running")
    append(demo_run, 1, "of an attempt long over\n")()
    append(demo_run, 2, "0: one\n0: tw")()
    steps = [append(demo_run, 2, "o\n"), append(demo_run, 3, "1: three\n1: torn"), lambda: record(demo_run, "failed")]

    lines = list(follow(demo_run, "tokenizer", 0, acts(*steps)))

    second, third = (f"==> {demo_run.log('10-tokenizer', attempt)}" for attempt in (2, 3))
    assert [line for line in lines if not line.startswith("[")] == [
        *[second, "0: one", "0: two"],
        *[third, "1: three", "1: torn"],
    ]
    assert [line for line in lines if line.startswith("[")] == ["[tokenizer: running]", "[tokenizer: failed: boom]"]


def test_slurms_own_words_are_among_them(demo_run: Run) -> None:
    record(demo_run, "failed")
    append(demo_run, "slurm", "slurmstepd: error: DUE TO TIME LIMIT\n")()

    assert "slurmstepd: error: DUE TO TIME LIMIT" in list(follow(demo_run, None, 0, acts()))


def test_a_run_of_which_nothing_was_submitted_is_not_waited_for(demo_run: Run) -> None:
    assert "[tokenizer: waiting: not submitted]" in list(follow(demo_run, None, 5, acts()))


def test_the_scheduler_is_asked_no_more_often_than_the_site_allows(
    demo_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = StageStatus("tokenizer", "7", "running")
    asked: list[Run] = []
    monkeypatch.setattr("hpcllm.launch.tracking.follow.status", lambda run: asked.append(run) or [running])

    lines = follow(demo_run, None, 60, acts(*[append(demo_run, 1, "line\n")] * 20))

    assert [next(lines) for _ in range(20)].count("line") > 10
    assert len(asked) == 1
