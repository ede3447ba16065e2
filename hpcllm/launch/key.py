"""The key of a stage says of which job and which code an outcome is. Equal keys and `done`: nothing to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpcllm.job.spec import frozen_any_job
from hpcllm.launch.pipeline import Stage, find_stage
from hpcllm.run_directory import Run, read_json


def is_current(run: Run, stage: Stage, record: Mapping[str, Any]) -> bool:
    """Whether what a record calls done is done for this job and by this code, and its files are still there."""
    return bool(record["key"] == stage_key(run, stage) and all((run.root / name).exists() for name in stage.makes))


def stage_key(run: Run, stage: Stage) -> str:
    """Hash of everything that the outcome depends on, without reading any data."""
    resolved = run.resolved()
    job = frozen_any_job(run)
    before = [stage_key(run, find_stage(job, name)) for name in stage.after]
    inputs = {
        "read": {section: resolved["job"].get(section) for section in stage.reads},
        "program": [stage.program, dict(stage.options)],
        "after": before,
        "code": read_json(run.software_json).get("code_sha256"),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
