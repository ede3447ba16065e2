"""Runs for the report to read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic_run import demo_run, new_run, shipped_job, translate_run

from hpcllm.run_directory import Run


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs, made once, for each test to copy."""
    folder = tmp_path_factory.mktemp("runs")
    demo_run(folder / "demo")
    translate_run(folder / "translate")
    return folder


@pytest.fixture
def finished(tmp_path: Path, originals: Path) -> Run:
    """jobs/demo.yaml, finished."""
    return Run(shutil.copytree(originals / "demo", tmp_path / "demo"))


@pytest.fixture
def translated(tmp_path: Path, originals: Path) -> Run:
    """jobs/translate.yaml, finished."""
    return Run(shutil.copytree(originals / "translate", tmp_path / "translate"))


@pytest.fixture
def unstarted(tmp_path: Path) -> Run:
    """jobs/demo.yaml, rendered and no more."""
    return new_run(tmp_path / "new", shipped_job("demo.yaml"))
