"""The tree that status and watch show, in wide and narrow terminals, and the word before the site deletes a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from rich.console import Console
from shipped_jobs import described

from hpcllm.cluster.profile import Profile
from hpcllm.launch.tracking.purge import filesystem_of, purge_warning
from hpcllm.launch.tracking.track import RunStatus, StageStatus, look
from hpcllm.report.status_table import poll_s, status_table, tree
from hpcllm.run_directory import Run

DAY_S = 86_400.0


def shown(run: Run, now: RunStatus, width: int) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status_table(run, now, width))
    console.file.close()
    return console.export_text()


def test_the_tree_shows_what_waits_for_what(demo_run: Run) -> None:
    lines = [guide + stage.stage for guide, stage in tree(look(demo_run).stages)]

    assert lines == [
        "tokenizer",
        "└─ shard",
        "   └─ train",
        "      ├─ evaluate",
        "      └─ compress",
        "         └─ evaluate-compressed",
        "            └─ gather",
    ]
    assert "also after evaluate" in shown(demo_run, look(demo_run), 140)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_the_reason_is_whole(demo_run: Run, width: int) -> None:
    stage = StageStatus("tokenizer", "7", "pending", 1.0, reason="Priority: jobs with a higher priority come first")

    text = shown(demo_run, RunStatus((stage,)), width)

    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert all(word in words for word in stage.reason.split())


def test_a_stage_that_waits_in_the_queue_says_when_it_may_begin(demo_run: Run) -> None:
    stage = StageStatus("tokenizer", "7", "pending", expected_start=time.time() + 60)

    assert "begins about " in shown(demo_run, RunStatus((stage,)), 140)


def test_the_same_advice_is_given_once(demo_run: Run) -> None:
    both = tuple(StageStatus(name, "7", "cancelled", advice="hpcllm submit goes on") for name in ("a", "b"))

    assert shown(demo_run, RunStatus(both), 140).count("a, b: hpcllm submit goes on") == 1


def test_that_slurm_does_not_answer_stands_below(demo_run: Run) -> None:
    assert "Slurm does not answer (down)" in shown(demo_run, RunStatus((), "down"), 140)


def purging(after_s: float | None) -> Profile:
    """The profile of a site that deletes files not used for so long."""
    disk = described().filesystems["disk"].model_copy(update={"purge_after_s": after_s})
    return described().model_copy(update={"filesystems": {"disk": disk}})


def test_a_young_run_is_not_warned_of(demo_run: Run) -> None:
    profile = purging(30 * DAY_S)

    assert purge_warning(demo_run, profile) == ""
    assert purge_warning(demo_run, profile, time.time() + 22 * DAY_S) == ""


def test_in_the_last_week_the_file_that_goes_first_is_named(demo_run: Run) -> None:
    profile = purging(30 * DAY_S)

    warning = purge_warning(demo_run, profile, time.time() + 25 * DAY_S)

    assert warning.startswith(str(demo_run.root))
    assert "the site deletes it in 5 d" in warning or "the site deletes it in 4 d" in warning
    assert "any time now" in purge_warning(demo_run, profile, time.time() + 31 * DAY_S)


def test_a_site_that_deletes_nothing_is_not_warned_of(demo_run: Run) -> None:
    assert purge_warning(demo_run, purging(None), time.time() + 1000 * DAY_S) == ""


def test_the_filesystem_of_a_path_is_the_nearest_mount_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    disk = described().filesystems["disk"]
    mounts = {path: disk.model_copy(update={"path": path}) for path in ("/", "$SCRATCH", "/scratch")}
    profile = described().model_copy(update={"filesystems": mounts})

    found = filesystem_of(Path("/scratch/me/runs/1"), profile)

    assert found is not None
    assert found.path == "$SCRATCH"


def test_watch_asks_no_more_often_than_the_site_allows(demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert poll_s(demo_run) == 5

    slow = described().scheduler.model_copy(update={"poll_s": 60.0})
    monkeypatch.setattr(
        "hpcllm.report.status_table.frozen_profile", lambda run: described().model_copy(update={"scheduler": slow})
    )
    assert poll_s(demo_run) == 60
