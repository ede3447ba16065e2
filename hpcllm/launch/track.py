"""What became of each stage. (First: where its logs are.)"""

from __future__ import annotations

from pathlib import Path

from hpcllm.run_directory import Run


def log_files(run: Run, stage_id: str) -> list[Path]:
    """The logs of a stage's attempts, oldest first."""
    found = [path for path in run.logs.glob(f"{stage_id}.*.log") if path.name.split(".")[-2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.split(".")[-2]))
