"""The user's code, frozen: a later edit changes nothing, data are where they were, and nothing big is copied."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from shipped_jobs import described

from hpcllm.errors import UserError
from hpcllm.job.spec import CommandJob
from hpcllm.launch import freeze
from hpcllm.launch.freeze import code_of
from hpcllm.launch.render import render
from hpcllm.run_directory import Run, read_json

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


def git(folder: Path, *words: str) -> str:
    who = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": str(folder)}
    who |= {f"GIT_{role}_{what}": "me@here" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **who}
    done = subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True, env=env)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a commit, ignored data, a folder of outputs, and a program in a folder."""
    root = tmp_path / "my project"
    (root / "src" / "net").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "src" / "net" / "__init__.py").write_text("layers = 1\n")
    (root / "train.py").write_text("print(open('data/corpus.txt').read())\n")
    (root / ".gitignore").write_text("data/\n*.pt\n__pycache__/\n")
    (root / "data" / "corpus.txt").write_text("words\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def rendered(project: Path, out: Path, *words: str, **described_job: object) -> Run:
    command = words or ("python", "train.py")
    job = CommandJob.model_validate({"name": "mine", "command": command, **described_job})
    return render(described("local", "mpirun"), None, job, None, None, out, cwd=project)


def script(run: Run) -> str:
    return run.local_script("30-command").read_text()


def test_a_later_edit_changes_nothing(project: Path, tmp_path: Path) -> None:
    (project / "train.py").write_text("edited before\n")
    run = rendered(project, tmp_path / "run")
    (project / "train.py").write_text("edited after\n")

    assert (run.command / "train.py").read_text() == "edited before\n"
    assert f"cd -- {run.command}\n" in script(run)


def test_data_that_git_ignores_are_found_by_the_same_path_and_not_copied(project: Path, tmp_path: Path) -> None:
    run = rendered(project, tmp_path / "run")

    assert (run.command / "data").is_symlink()
    assert (run.command / "data" / "corpus.txt").read_text() == "words\n"


def test_a_new_program_counts_as_code_and_a_large_new_file_as_data(project: Path, tmp_path: Path) -> None:
    (project / "new.py").write_text("")
    (project / "weights.bin").write_bytes(bytes(freeze.UNTRACKED_BYTES + 1))

    run = rendered(project, tmp_path / "run")

    assert (run.command / "new.py").is_file()
    assert not (run.command / "new.py").is_symlink()
    assert (run.command / "weights.bin").is_symlink()
    assert read_json(run.software_json)["command"]["untracked"] == ["new.py", "weights.bin"]


def test_the_state_of_git_is_recorded_and_the_script_says_it(project: Path, tmp_path: Path) -> None:
    (project / "train.py").write_text("changed\n")

    run = rendered(project, tmp_path / "run")

    found, commit = read_json(run.software_json)["command"], git(project, "rev-parse", "HEAD")
    assert (found["commit"], found["branch"], found["in_place"]) == (commit, "main", None)
    assert "+changed" in run.command_diff.read_text()
    assert f"# Runs a copy of {project}: commit {commit} (main) with uncommitted changes." in script(run)


def test_the_commit_and_the_diff_give_the_copy_again(project: Path, tmp_path: Path) -> None:
    (project / "train.py").write_bytes(b"\xff changed\0\n")
    run = rendered(project, tmp_path / "run")

    git(project, "clone", "-q", str(project), str(tmp_path / "again"))
    git(tmp_path / "again", "apply", str(run.command_diff))

    assert (tmp_path / "again" / "train.py").read_bytes() == (run.command / "train.py").read_bytes()


def test_a_program_in_a_folder_of_the_project_starts_in_the_same_folder_of_the_copy(
    project: Path, tmp_path: Path
) -> None:
    run = rendered(project / "src", tmp_path / "run")

    assert f"cd -- {run.command}/src\n" in script(run)


def test_a_program_named_by_its_whole_path_is_the_copy(project: Path, tmp_path: Path) -> None:
    run = rendered(project, tmp_path / "run", "python", str(project / "train.py"), str(project / "data" / "corpus.txt"))

    assert f"{run.command}/train.py '{project}/data/corpus.txt'" in script(run)


def test_a_link_to_the_project_leads_to_the_copy_too(project: Path, tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to(project)

    run = rendered(tmp_path / "home", tmp_path / "run", "python", str(tmp_path / "home" / "train.py"))

    assert f"cd -- {run.command}\n" in script(run)
    assert f"python {run.command}/train.py" in script(run)


def test_a_project_installed_for_editing_is_imported_from_the_copy(project: Path, tmp_path: Path) -> None:
    assert "PYTHONPATH=/" not in script(rendered(project, tmp_path / "plain"))
    (project / "pyproject.toml").write_text("")

    run = rendered(project, tmp_path / "run")

    assert f"export PYTHONPATH={run.command}/src:{run.command}${{PYTHONPATH:+:$PYTHONPATH}}" in script(run)


def test_without_git_a_program_runs_in_place_and_the_script_says_so(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()

    run = rendered(tmp_path / "plain", tmp_path / "run")

    assert not run.command.exists()
    assert f"cd -- {tmp_path}/plain\n" in script(run)
    assert "as it is when the job starts: git knows no working tree there." in script(run)


def test_who_wants_it_runs_in_place_and_the_state_is_recorded(project: Path, tmp_path: Path) -> None:
    (project / "train.py").write_text("changed\n")

    run = rendered(project, tmp_path / "run", freeze=False)

    assert not run.command.exists()
    assert f"cd -- '{project}'\n" in script(run)
    assert "+changed" in run.command_diff.read_text()


@pytest.mark.parametrize(("bound", "words"), [("MOST_BYTES", "0 MiB are more"), ("MOST_FILES", "files are more than")])
def test_too_much_is_not_copied(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, words: str
) -> None:
    monkeypatch.setattr(freeze, bound, 3)

    code = code_of(project, tmp_path / "run")

    assert words in code.in_place
    assert (code.files, code.links) == ((), ())


def test_runs_inside_the_project_are_no_code(project: Path) -> None:
    first = rendered(project, project / "runs" / "first")
    second = rendered(project, project / "runs" / "second")

    assert (second.command / "runs" / "first").is_symlink()
    assert (second.command / "runs" / "first").resolve() == first.root
    assert not (second.command / "runs" / "second").exists()


def test_the_same_code_renders_again_and_what_the_program_wrote_stays(project: Path, tmp_path: Path) -> None:
    run = rendered(project, tmp_path / "run")
    (run.command / "checkpoint.pt").write_text("")

    rendered(project, tmp_path / "run")
    assert (run.command / "checkpoint.pt").exists()

    (project / "train.py").write_text("changed\n")
    with pytest.raises(UserError, match="it has changed since; give a new directory, or go on with the old code"):
        rendered(project, tmp_path / "run")
    assert (run.command / "checkpoint.pt").exists()


def test_the_command_that_an_error_names_can_be_pasted(project: Path, tmp_path: Path) -> None:
    run = rendered(project, tmp_path / "a run")

    with pytest.raises(UserError, match=f"hpcllm run '{run.root}'$"):
        rendered(project, tmp_path / "a run", "python", "other.py")


def test_deleted_files_links_and_strange_names_are_copied_as_they_are(project: Path, tmp_path: Path) -> None:
    strange = "a b\n$(touch x)é.py"
    (project / strange).write_text("here")
    (project / "link").symlink_to("train.py")
    git(project, "add", ".")
    (project / "src" / "net" / "__init__.py").unlink()

    run = rendered(project, tmp_path / "run")

    assert (run.command / strange).read_text() == "here"
    assert (run.command / "link").readlink() == Path("train.py")
    assert not (run.command / "src" / "net" / "__init__.py").exists()


def test_submodules_are_copied_with_the_project(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(project, other)
    git(project, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "deps/other")

    run = rendered(project, tmp_path / "run")

    assert (run.command / "deps" / "other" / "train.py").is_file()


def test_a_repository_without_a_commit_is_copied_too(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "train.py").write_text("")
    git(tmp_path / "new", "init", "-q")

    run = rendered(tmp_path / "new", tmp_path / "run")

    assert (run.command / "train.py").exists()
    assert "a repository without a commit" in script(run)
