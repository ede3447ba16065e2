"""The run directory as render writes it: complete or absent, the same again, never over something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shipped_jobs import JOBS, demo, described

from hpcllm.cluster.profile import frozen_profile, load_profile
from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob, Job, frozen_any_job, load_job
from hpcllm.launch import render as render_module
from hpcllm.launch import software as software_module
from hpcllm.launch.pipeline import stages
from hpcllm.launch.render import render
from hpcllm.plan.plan import read_plan
from hpcllm.plan.search import search
from hpcllm.run_directory import Run

COMMAND = CommandJob.model_validate({"name": "mine", "command": ["echo", "hi"]})


def files(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file() and "code" not in p.parts}


def rendered(job: Job | CommandJob, out: Path, kind: str = "slurm") -> Run:
    profile = described(kind)
    plan = search(profile, job) if isinstance(job, Job) else None
    return render(profile, None, job, JOBS / "demo.yaml" if isinstance(job, Job) else None, plan, out)


def test_what_was_asked_is_frozen_as_given_and_resolved(demo_run: Run) -> None:
    assert demo_run.job_yaml.read_text() == (JOBS / "demo.yaml").read_text()
    assert frozen_any_job(demo_run) == demo()
    assert frozen_profile(demo_run) == described()
    assert read_plan(demo_run) == search(described(), demo())


def test_a_profile_and_a_command_that_came_from_no_file_are_written_as_files(tmp_path: Path) -> None:
    run = rendered(COMMAND, tmp_path / "run")

    assert load_profile(run.profile_yaml) == described()
    assert frozen_any_job(run) == COMMAND
    assert not run.plan_json.exists()


def test_a_slurm_run_has_a_script_a_stage_and_two_that_drive_them(demo_run: Run) -> None:
    expected = {f"{stage.id}.sbatch" for stage in stages(demo())} | {"submit.sh", "run-local.sh"}

    assert {path.name for path in demo_run.scripts.iterdir()} == expected
    assert all(path.stat().st_mode & 0o100 for path in demo_run.scripts.iterdir())


def test_a_local_run_has_nothing_of_slurm(tmp_path: Path) -> None:
    run = rendered(COMMAND, tmp_path / "run", "local")

    assert {path.name for path in run.scripts.iterdir()} == {"30-command.sh", "run-local.sh"}
    assert "SBATCH" not in run.local_script("30-command").read_text()


def test_the_software_is_frozen_beside_the_scripts(demo_run: Run) -> None:
    found = json.loads(demo_run.software_json.read_text())

    assert (demo_run.code / "hpcllm" / "__init__.py").exists()
    assert not list(demo_run.code.rglob("*.pyc"))
    assert found["code_sha256"] == software_module.code_sha256()
    assert any(line.startswith("torch==") for line in found["pip_freeze"])


def test_code_outside_of_a_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software_module, "PACKAGE", tmp_path)

    assert software_module.software()["commit"] is None


def test_the_same_job_renders_again_and_keeps_what_stages_made(demo_run: Run) -> None:
    before = files(demo_run.root)
    demo_run.state.mkdir()
    (demo_run.state / "10-tokenizer.json").write_text("{}")
    demo_run.script("30-train").write_text("edited")

    again = rendered(demo(), demo_run.root)

    assert files(again.root) == {**before, "state/10-tokenizer.json": "{}"}


def test_the_folder_that_slurm_opens_logs_in_is_there_before_any_script_runs(demo_run: Run) -> None:
    assert demo_run.logs.is_dir()
    demo_run.logs.rmdir()

    assert rendered(demo(), demo_run.root).logs.is_dir()


def test_changed_code_is_frozen_anew(demo_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited = tmp_path / "hpcllm"
    edited.mkdir()
    (edited / "__init__.py").write_text("edited = True")
    monkeypatch.setattr(software_module, "PACKAGE", edited)

    rendered(demo(), demo_run.root)

    assert [path.name for path in demo_run.code.rglob("*.py")] == ["__init__.py"]


def test_another_job_does_not_overwrite_a_run(demo_run: Run) -> None:
    before = files(demo_run.root)
    job = demo()
    other = job.model_copy(update={"train": job.train.model_copy(update={"steps": 7})})

    with pytest.raises(UserError, match=r"holds a run of another job \(train\.steps differ\); give a new directory"):
        rendered(other, demo_run.root)

    assert files(demo_run.root) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")

    with pytest.raises(UserError, match="holds something else than a run"):
        rendered(COMMAND, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()

    assert rendered(COMMAND, tmp_path / "run").resolved_json.exists()


def test_a_file_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="is a file"):
        rendered(COMMAND, tmp_path / "file")


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\tb", "10:30"])
def test_a_path_that_no_directive_or_variable_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="without control characters, backslashes and colons"):
        rendered(COMMAND, tmp_path / name)


def test_a_render_that_breaks_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(render_module, "copy_code", full)

    with pytest.raises(OSError, match="no space"):
        rendered(COMMAND, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_job_is_the_one_that_ships() -> None:
    assert load_job(JOBS / "demo.yaml").name == "demo"
