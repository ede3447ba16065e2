"""A run in the foreground: its output, its failures, its interruption. One rank, by the mpirun of this environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console
from shipped_jobs import demo, described

from hpcllm.cluster.detection.here import find_mpirun
from hpcllm.errors import DoesNotFit, HpcllmError, Interrupted, UserError
from hpcllm.job.spec import CommandJob
from hpcllm.launch.live_view import DagView
from hpcllm.launch.local import run_local
from hpcllm.launch.pipeline import stages
from hpcllm.launch.render import render
from hpcllm.launch.tracking.track import status
from hpcllm.plan.search import search
from hpcllm.run_directory import Run

RUN_LOCAL = "import sys; from pathlib import Path; from hpcllm.cli import main; sys.exit(main(['run', sys.argv[1]]))"


def command(out: Path, *words: str) -> Run:
    job = CommandJob.model_validate({"name": "mine", "command": words, "resources": {"ranks_per_node": 1}})
    return render(described("local", find_mpirun()), None, job, None, None, out, cwd=out.parent)


@pytest.fixture
def pipeline(tmp_path: Path) -> Run:
    """The demo's stages, each of which only says its name."""
    profile, job = described("local", find_mpirun()), demo()
    run = render(profile, None, job, None, search(profile, job), tmp_path / "run")
    for stage in stages(job):
        run.local_script(stage.id).write_text(f"echo {stage.name} >>{run.root}/ran\n")
    return run


@pytest.mark.mpi
def test_a_command_runs_and_its_lines_are_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = command(tmp_path / "run", "bash", "-c", "echo rank $RANK of $WORLD_SIZE")

    run_local(run)

    assert "rank 0 of 1" in run.log("30-command", 1).read_text()
    assert "rank 0 of 1" in capsys.readouterr().out
    assert status(run)[0].state == "done"


@pytest.mark.mpi
def test_a_command_that_fails_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    run = command(tmp_path / "run", "bash", "-c", "seq 100; echo 'out of luck'; exit 2")

    with pytest.raises(HpcllmError, match=r"30-command failed \(exit code 2\); the end of .*1\.log:") as caught:
        run_local(run, quiet=True)

    assert type(caught.value) is HpcllmError  # its code 2 is not our 2
    assert str(caught.value).splitlines()[-1] == "  out of luck"
    assert "  80\n" not in str(caught.value)


@pytest.mark.mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_lets_the_program_save_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    saves = "trap 'echo saved; exit 75' TERM; echo ready; while :; do sleep 0.05; done"
    run = command(tmp_path / "run", "bash", "-c", saves)
    words = [sys.executable, "-u", "-c", RUN_LOCAL, str(run.root)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None

    process.send_signal(number)
    out, error = process.communicate(timeout=30)

    assert process.returncode == 75
    assert "saved" in out
    assert f"interrupted and saved what it had; go on with: hpcllm run {run.root}" in error
    assert status(run)[0].state == "interrupted"


def test_stages_run_in_order(pipeline: Run) -> None:
    run_local(pipeline, quiet=True)

    assert (pipeline.root / "ran").read_text().split() == [stage.name for stage in stages(demo())]


def test_a_stage_that_fails_stops_the_dag(pipeline: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.local_script("20-shard").write_text("echo 'the disk is full'; exit 1")

    with pytest.raises(HpcllmError, match="20-shard failed"):
        run_local(pipeline)

    assert (pipeline.root / "ran").read_text().split() == ["tokenizer"]
    assert "---- 20-shard: failed after" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "kind"), [(1, HpcllmError), (2, UserError), (3, DoesNotFit), (75, Interrupted)])
def test_the_exit_code_of_a_stage_of_ours_is_that_of_the_run(pipeline: Run, code: int, kind: type[HpcllmError]) -> None:
    pipeline.local_script("20-shard").write_text(f"exit {code}")

    with pytest.raises(kind) as caught:
        run_local(pipeline, quiet=True)

    assert caught.value.exit_code == code


def test_run_local_sh_is_the_same_by_hand(pipeline: Run) -> None:
    subprocess.run(["bash", pipeline.run_local_sh], check=True, capture_output=True)

    assert (pipeline.root / "ran").read_text().split() == [stage.name for stage in stages(demo())]


def test_it_runs_outside_of_the_main_thread_too(pipeline: Run) -> None:
    thread = threading.Thread(target=run_local, args=(pipeline, True))
    thread.start()
    thread.join(timeout=30)

    assert (pipeline.root / "ran").read_text().split()[-1] == "gather"


def test_a_terminal_sees_the_dag_with_a_bar_for_what_runs() -> None:
    rows = stages(demo())
    view = DagView(Path("runs/demo"), rows)
    view.begin(rows[0])
    view.end(rows[0], "done")
    view.begin(rows[2])
    view.line("0: [train 120/600] loss 3.214")
    view.line("validation soon")
    with open(os.devnull, "w") as nowhere:
        console = Console(width=120, record=True, file=nowhere)
        console.print(view.render())
        text = console.export_text()

    assert "✓  tokenizer" in text
    assert "120/600 loss 3.214" in text
    assert "validation soon" in text
    assert all(stage.name in text for stage in rows)
