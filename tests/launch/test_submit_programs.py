"""Programs that could not start are said before anything is written: an error where it is certain, else a warning."""

from __future__ import annotations

from pathlib import Path

import pytest
from shipped_jobs import demo, described

from hpcllm.job.spec import CommandJob, Job, OwnStage
from hpcllm.launch.submission.programs import program_findings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a program starts: train.py is there, and PATH has python and bash."""
    (tmp_path / "bin").mkdir()
    for name in ("python", "bash"):
        (tmp_path / "bin" / name).write_text("")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "train.py").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def said(folder: Path, *words: str, **job: object) -> list[tuple[str, str]]:
    found = program_findings(described(), CommandJob.model_validate({"name": "x", "command": words, **job}), folder)
    return [(finding.kind, finding.says) for finding in found]


@pytest.mark.parametrize(
    "words",
    [
        ("python", "train.py"),
        ("python", "-u", "-W", "ignore", "train.py", "--config", "none.yaml"),
        ("python", "-m", "trian"),
        ("python", "-c", "print()"),
        ("bash", "-c", "trian.py"),
        ("bash", "python"),  # which bash finds on PATH
        ("./bin/python", "train.py"),
    ],
)
def test_of_programs_that_are_there_nothing_is_said(folder: Path, words: tuple[str, ...]) -> None:
    assert said(folder, *words) == []


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("python", "trian.py"), "did you mean train.py?"),
        (("python", "-u", "./trian.py"), "did you mean ./train.py?"),
        (("./trian.py",), "did you mean ./train.py?"),
        (("./train.py",), "not executable; chmod +x it, or name what runs it: python ./train.py"),
        (("./bin",), "is a folder"),
    ],
)
def test_a_file_that_cannot_be_there_is_an_error_with_the_nearest_name(
    folder: Path, words: tuple[str, ...], near: str
) -> None:
    ((kind, says),) = said(folder, *words)

    assert kind == "refusal"
    assert says.startswith("command: ")
    assert near in says


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("pyhton", "train.py"), "found pyhton, which is no program on this machine's PATH; did you mean python?"),
        (("train.py",), "a file here is run by python train.py"),
        (("python", "/node/only.py"), "found /node/only.py, and there is no such file"),
        (("bash", "/opt/none"), "no such file"),
    ],
)
def test_what_only_the_nodes_may_have_is_a_warning(folder: Path, words: tuple[str, ...], part: str) -> None:
    ((kind, says),) = said(folder, *words)

    assert kind == "warning"
    assert part in says


def test_what_an_image_or_a_module_may_bring_is_said_with_it(folder: Path) -> None:
    image = {"environment": {"kind": "apptainer", "path": "/i.sif"}}

    assert "(apptainer /i.sif may bring it)" in said(folder, "lmp", software=image)[0][1]
    assert "(its modules may bring it)" in said(folder, "lmp", software={"modules": ["lammps"]})[0][1]


def test_the_programs_of_a_venv_and_of_the_jobs_own_path_are_known(folder: Path) -> None:
    tool = folder / "venv" / "bin" / "tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    tool.chmod(0o755)

    assert said(folder, "tool", software={"environment": {"kind": "venv", "path": f"{folder}/venv"}}) == []
    assert said(folder, "tool", environment={"PATH": str(tool.parent)}) == []


def test_a_file_that_a_stage_before_may_make_is_a_warning(folder: Path) -> None:
    rows = [
        OwnStage.model_validate({"name": "make", "command": ["python", "non.py"], "before": ["train"]}),
        OwnStage.model_validate({"name": "use", "command": ["./made"], "after": ["train"]}),
    ]
    job: Job = demo().model_copy(update={"stages": tuple(rows)})

    kinds = {f.says.split(":")[0]: f.kind for f in program_findings(described(), job, folder)}
    assert kinds == {"stages.make.command": "refusal", "stages.use.command": "warning"}
