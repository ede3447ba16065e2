"""The report of a sweep: its grid, the best run, and what the runs used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import new_run, shipped_job, write_result, write_training

from hpcllm import cli
from hpcllm.launch.sweep import Sweep
from hpcllm.launch.tracking.efficiency import Accounted, Use
from hpcllm.report import html, words
from hpcllm.report.collect import collect
from hpcllm.report.sweep_grid import Grid, grid
from hpcllm.run_directory import write_json

POINTS = [{"train.seed": seed, "model.layers": layers} for seed in (1, 2) for layers in (2, 4)]
USE = Use("train", ("preempted", "done"), 70.0, 7200.0, 8.0, 0.5, float(2 << 30), 0.25, 4.0)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Four runs of a grid of two by two, rendered."""
    found = Sweep(tmp_path / "sweep", "demo", tuple(POINTS))
    found.write()
    for run in found.runs:
        new_run(run.root, shipped_job("demo.yaml"))
    return found


def grid_of(sweep: Sweep) -> Grid:
    return grid(sweep, [collect(run) for run in sweep.runs])


def texts(found: Grid) -> list[tuple[tuple[str, ...], list[str]]]:
    return [(keys, [cell.text for cell in cells]) for keys, cells in found.rows]


@pytest.mark.parametrize(("task", "best"), [("bits-per-byte", "000"), ("bleu", "003")])
def test_the_best_run_is_that_with_the_better_score(sweep: Sweep, task: str, best: str) -> None:
    for i, run in enumerate(sweep.runs):
        write_result(run, "trained", task, 2.0 + i, "")

    found = grid_of(sweep)

    assert found.best.startswith(f"Best of 4: {best} (seed=")
    assert (found.down, found.across, found.columns) == (("train.seed",), "model.layers", ("2", "4"))
    assert [keys for keys, _ in texts(found)] == [("1",), ("2",)]
    assert sum(cell.is_best for _, cells in found.rows for cell in cells) == 1


def test_before_there_are_scores_the_validation_loss_tells_and_before_that_the_state(sweep: Sweep) -> None:
    assert (grid_of(sweep).figure, grid_of(sweep).best) == ("state", "")
    assert texts(grid_of(sweep))[0] == (("1",), ["not started", "not started"])

    write_training(sweep.runs[2], steps=100, interrupted_at=None)

    assert grid_of(sweep).figure == "validation loss"
    assert grid_of(sweep).best.startswith("Best of 4: 002 (seed=2 layers=2), validation loss ")


def test_report_of_a_sweep_writes_one_page_whose_grid_leads_to_each_run(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, run in enumerate(sweep.runs):
        write_result(run, "trained", "bits-per-byte", 2.0 + i, "")

    assert cli.main(["report", str(sweep.root)]) == 0

    page = sweep.report_html.read_text()
    assert "Best of 4: 000 (seed=1 layers=2), bits per byte 2.000." in page
    assert '<td class="n best"><a href="#run-1">2.000</a></td>' in page
    assert "Best of 4: 000" in capsys.readouterr().out


def test_what_the_jobs_used_is_on_the_page_and_why_where_nobody_knows(sweep: Sweep) -> None:
    summary = collect(sweep.runs[0])

    known = html.page([replace(summary, accounted=Accounted((USE,), USE))])
    unknown = html.page([replace(summary, accounted=Accounted(why_not="sacct: not found"))])

    assert "What the jobs took and used" not in html.page([summary])
    for text in ("preempted, done", "8.00", "50%", "2 GiB 25%", "4.00"):
        assert text in known
    assert "Not known: sacct: not found." in unknown
    assert ("GPU-hours", "4.00") in words.headlines([replace(summary, accounted=Accounted((USE,), USE))])[0]


def test_report_asks_accounting_once_for_all_runs(
    sweep: Sweep, fake_sacct: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for i, run in enumerate(sweep.runs):
        write_json(run.jobs_json, {"train": [f"7_{i}"]})
    asked = fake_sacct("echo 'sacct: error: Slurm accounting storage is disabled' >&2; exit 1")

    assert cli.main(["report", str(sweep.root)]) == 0

    assert asked.read_text().count("\n") == 1
    assert "accounting storage is disabled" in sweep.report_html.read_text()


@pytest.fixture
def fake_sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """fake_sacct("echo …"): sacct, which notes each call."""

    def make(body: str) -> Path:
        calls, command = tmp_path / "sacct.calls", tmp_path / "bin" / "sacct"
        command.parent.mkdir()
        command.write_text(f'#!/bin/bash\necho "$*" >>"{calls}"\n{body}\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
        return calls

    return make
