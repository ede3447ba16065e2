"""Runs and scripts to look at. Golden scripts are accepted by `make golden` (pytest tests/launch --accept-golden)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from shipped_jobs import JOBS, demo, described

from hpcllm.derive.setting import Layout, Settings
from hpcllm.job.spec import CommandJob
from hpcllm.launch.pipeline import COMMAND
from hpcllm.launch.render import render
from hpcllm.launch.scripts.lifecycle import LIFECYCLE
from hpcllm.launch.scripts.script import Script
from hpcllm.plan.search import search
from hpcllm.run_directory import Run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept-golden", action="store_true", help="write tests/golden as the scripts are now")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No user.yaml and no Slurm job of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("SLURM_") or name == "ENVIRONMENT"]:
        monkeypatch.delenv(name)


@pytest.fixture
def demo_run(tmp_path: Path) -> Run:
    """jobs/demo.yaml, rendered for a Slurm cluster."""
    profile, job = described(), demo()
    return render(profile, None, job, JOBS / "demo.yaml", search(profile, job), tmp_path / "run")


@pytest.fixture
def command_script(tmp_path: Path) -> Callable[..., Script]:
    """The script of a command that runs here on one rank: command_script("echo", "hi")."""

    def make(*command: str, kind: str = "local", run: Path = tmp_path / "run", **options: object) -> Script:
        launcher = options.pop("launcher", ("env",))
        environment = options.pop("environment", ())
        profile = described(kind, "srun" if kind == "slurm" else "env")
        job = CommandJob.model_validate({"name": "mine", "command": command, **options})
        place = Layout(None, 1, 1, 1, 0, 60.0, 10.0)
        settings = Settings(place, (), environment, launcher, (), sys.executable)  # type: ignore[arg-type]
        script = Script(Run(run), COMMAND, job, profile, settings, str(tmp_path))
        script.path.parent.mkdir(parents=True)
        script.path.write_text(script.text())
        script.run.env.mkdir()
        shutil.copy(LIFECYCLE, script.run.lifecycle)
        return script

    return make


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """fake_slurm("sbatch", "echo 7"): a command of that name, first on PATH, that notes its arguments in a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name: str, body: str) -> Path:
        calls = tmp_path / f"{name}.calls"
        (folder / name).write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >>"{calls}"\n{body}\n')
        (folder / name).chmod(0o755)
        return calls

    return add
