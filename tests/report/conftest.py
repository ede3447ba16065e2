"""Runs for the report to read."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import JOBS, demo_run, new_run, translate_run

from hpcllm.job.spec import load_job
from hpcllm.run_directory import Run


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    """jobs/demo.yaml, finished."""
    return demo_run(tmp_path / "demo")


@pytest.fixture
def translated(tmp_path: Path) -> Run:
    """jobs/translate.yaml, finished."""
    return translate_run(tmp_path / "translate")


@pytest.fixture
def unstarted(tmp_path: Path) -> Run:
    """jobs/demo.yaml, rendered and no more."""
    return new_run(tmp_path / "new", load_job(JOBS / "demo.yaml"))
