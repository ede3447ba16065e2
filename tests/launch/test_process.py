"""A process number is only as good as the time at which it was written down."""

from __future__ import annotations

import os
import subprocess
import time

from hpcllm.launch.process import lives, started_after_boot_s


def test_the_process_that_wrote_the_record_lives() -> None:
    assert lives(os.getpid(), time.time())


def test_a_process_that_began_after_the_record_was_written_is_somebody_elses() -> None:
    assert not lives(os.getpid(), time.time() - 86400 * 365)


def test_a_process_that_has_ended_does_not_live() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()

    assert not lives(ended.pid, time.time())


def test_another_users_process_is_known_too() -> None:
    assert lives(1, time.time())


def test_the_start_is_found_behind_a_name_with_spaces_and_brackets() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [str(number) for number in range(4, 22)]

    assert started_after_boot_s(f"7 (a) b (c)) S {' '.join(fields)} {5 * ticks} 23 24") == 5
