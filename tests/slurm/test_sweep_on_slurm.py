"""A sweep on a real Slurm: killed in the middle of its submission, submitted again, looked at as a whole."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from lab_cluster import Lab

from hpcllm.errors import HpcllmError
from hpcllm.launch.sweep import Sweep
from hpcllm.launch.tracking.efficiency import efficiency_of_runs
from hpcllm.launch.tracking.sweep_status import look_at, where_it_is
from hpcllm.run_directory import read_json

pytestmark = pytest.mark.slurm

JOB = """\
name: three
resources: {nodes: 1, ranks_per_node: 1, time: 1m}
stages:
  - {name: first, command: [bash, -c, 'test $NUMBER != 2 || { echo "ValueError: two"; exit 3; }']}
  - {name: second, command: ['true'], after: [first]}
sweep: {environment.NUMBER: ['1', '2', '3']}
"""
# Kills who called it when Slurm has the job.
KILLS = """\
#!/bin/bash
REAL "$@" || exit
if [[ $* == *--parsable* ]]; then kill -9 $PPID; fi
"""


def test_a_submit_that_was_killed_is_taken_over_and_the_run_that_failed_is_found(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(KILLS.replace("REAL", str(shutil.which("sbatch"))))
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    out = tmp_path / "sweep"
    options = ("--cluster", "slurm-lab", "--partition", "batch", "--out", out)

    killed = lab.hpcllm("submit", tmp_path / "job.yaml", *options, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    again = lab.hpcllm("submit", out)

    assert (killed.returncode, again.returncode) == (-9, 0), again.stderr
    sweep = Sweep.open(out)
    ended(sweep)
    starts = [run.log("01-first", attempt).exists() for run in sweep.runs for attempt in (1, 2)]
    assert starts in ([True, False] * 3, [True, False, True, True, True, False])  # only what had failed ran twice
    assert "second" in read_json(sweep.runs[2].jobs_json)
    said = lab.hpcllm("logs", out, "--errors").stdout
    assert "1 of 3 runs failed (1). The first was 001 (NUMBER=2), in first: failed" in said
    assert "ValueError: two" in said
    assert re.search(r"^3 runs: 2 done, 1 failed$", lab.hpcllm("watch", out).stdout, re.MULTILINE)
    end_s = time.monotonic() + 30  # accounting is behind
    while accounted(sweep) != ["000", "001", "002", "in all"]:
        assert time.monotonic() < end_s
        time.sleep(1)


def accounted(sweep: Sweep) -> list[str]:
    """The rows of what a sweep used; none while accounting knows nothing yet."""
    try:
        return [use.name for use in efficiency_of_runs(sweep.root, sweep.runs)]
    except HpcllmError:
        return []


def ended(sweep: Sweep) -> None:
    """Wait until nothing goes on."""
    end_s = time.monotonic() + 90
    while [where_it_is(run).state for run in look_at(sweep).runs] != ["done", "failed", "done"]:
        assert time.monotonic() < end_s, look_at(sweep)
        time.sleep(1)
